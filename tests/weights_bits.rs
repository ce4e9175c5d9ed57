//! Weight updates and deltas, bit for bit against a scalar loop.

mod weights_support;

use half::{bf16, f16};
use lora_kernels::cpu::Cpu;
use lora_kernels::ops::{Delta, WeightUpdate};
use lora_kernels::{Adapter, Backend, Element, MatrixMut, MatrixRef, Rounding, philox4x32_10};
use proptest::prelude::*;
use weights_support::{Factors, Random, Stored, all_bits, bits, updated};

/// Where a matrix's rows lie: transposed or not, and with how large a gap.
type Place = (bool, usize);

fn adapter<T: Element>((a, b): &(Stored<T>, Stored<T>), scale: f32) -> Adapter<'_> {
    Adapter { a: a.view(), b: b.view(), scale }
}

/// Merge, switch, unmerge and delta of one shape, with every matrix laid out as asked.
fn all_updates<T: Element, A: Element>(
    [rows, cols]: [usize; 2],
    ranks: [usize; 2],
    [w_place, a_place, b_place]: [Place; 3],
) {
    let mut random = Random((rows * 1000 + cols) as u64);
    let base: Vec<T> = random.matrix(rows * cols, 0.02);
    let factors = ranks.map(|rank| Factors::<A>::random(&mut random, rows, cols, rank, 1e-2));
    let stored = factors.each_ref().map(|factors| {
        (
            Stored::new(&factors.a, rows, factors.rank, a_place.0, a_place.1),
            Stored::new(&factors.b, factors.rank, cols, b_place.0, b_place.1),
        )
    });
    let mut cpu = Cpu::new();
    let options = [(None, Some(0)), (Some(0), Some(1)), (Some(1), None)];
    let mut w = Stored::new(&base, rows, cols, w_place.0, w_place.1);
    for (remove, add) in options {
        let before = w.values();
        cpu.update_weights(WeightUpdate {
            w: w.view_mut(),
            remove: remove.map(|n: usize| adapter(&stored[n], factors[n].scale)),
            add: add.map(|n: usize| adapter(&stored[n], factors[n].scale)),
            rounding: Rounding::Nearest,
            record: None,
            report: false,
        })
        .unwrap();
        let after = w.values();
        for i in 0..rows {
            for j in 0..cols {
                let term = |n: usize| (factors[n].scale, factors[n].sum(i, j));
                let expected = updated(before[i * cols + j], remove.map(term), add.map(term));
                assert_eq!(bits(after[i * cols + j]), bits(expected), "({i}, {j}), {remove:?} to {add:?}");
            }
        }
    }
    let mut delta = Stored::new(&base, rows, cols, w_place.0, w_place.1);
    cpu.delta(Delta { adapter: adapter(&stored[1], factors[1].scale), delta: delta.view_mut() }).unwrap();
    for i in 0..rows {
        for j in 0..cols {
            let expected = T::from_f32(factors[1].scale * factors[1].sum(i, j));
            assert_eq!(bits(delta.get(i, j)), bits(expected));
        }
    }
    delta.values();
}

fn all_types(shape: [usize; 2], ranks: [usize; 2], places: [Place; 3]) {
    all_updates::<f32, f32>(shape, ranks, places);
    all_updates::<bf16, bf16>(shape, ranks, places);
    all_updates::<bf16, f32>(shape, ranks, places);
    all_updates::<f16, f16>(shape, ranks, places);
    all_updates::<f16, f32>(shape, ranks, places);
}

#[test]
fn ranks_from_1_to_512() {
    for ranks in [[1, 2], [8, 16], [31, 512], [129, 64]] {
        all_types([37, 70], ranks, [(false, 0), (false, 0), (false, 0)]);
    }
}

#[test]
fn more_than_one_task_and_panel() {
    all_types([131, 577], [3, 4], [(false, 7), (false, 0), (true, 0)]);
    all_types([577, 131], [3, 4], [(true, 7), (true, 0), (false, 0)]);
}

fn place() -> impl Strategy<Value = Place> {
    (any::<bool>(), 0usize..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_shape_and_layout(
        shape in [1usize..80, 1usize..140],
        ranks in [1usize..20, 1usize..20],
        places in [place(), place(), place()],
    ) {
        all_types(shape, ranks, places);
    }
}

/// The documented draw of each weight decides which neighbour it becomes.
fn stochastic_bits<T: Element>(transposed: bool) {
    let (rows, cols, seed) = (70, 133, 0x1234_5678_9ABC_DEF0u64);
    let mut random = Random(3);
    let base: Vec<T> = random.matrix(rows * cols, 0.02);
    let factors = Factors::<f32>::random(&mut random, rows, cols, 5, 1e-4);
    let mut w = Stored::new(&base, rows, cols, transposed, 1);
    let merge = WeightUpdate::merge(w.view_mut(), factors.adapter());
    Cpu::new().update_weights(merge.rounding(Rounding::Stochastic { seed })).unwrap();
    let mut rounded_away = 0;
    for i in 0..rows {
        for j in 0..cols {
            let exact = factors.scale.mul_add(factors.sum(i, j), base[i * cols + j].to_f32());
            let words =
                philox4x32_10([(j / 4) as u32, i as u32, 0, 0x4C6F_5241], [seed as u32, (seed >> 32) as u32]);
            let draw = words[j % 4];
            // The kept digits of the type at this exponent; all values here are normal.
            let dropped = if bits(T::from_f32(1.0)) == 0x3F80 { 16 } else { 13 };
            let sum = exact.to_bits() + (draw & ((1 << dropped) - 1));
            let expected = f32::from_bits(sum >> dropped << dropped);
            if exact.abs() < 1e-4 {
                continue;
            }
            assert_eq!(w.get(i, j).to_f32(), expected, "({i}, {j})");
            rounded_away += usize::from(w.get(i, j) != T::from_f32(exact));
        }
    }
    assert!(rounded_away > rows * cols / 10);
}

#[test]
fn stochastic_rounding_follows_its_definition() {
    for transposed in [false, true] {
        stochastic_bits::<bf16>(transposed);
        stochastic_bits::<f16>(transposed);
    }
}

/// Δ far below half a step of W: rounding to nearest loses it, stochastic rounding keeps it in the mean.
#[test]
fn stochastic_rounding_keeps_delta_in_the_mean() {
    let (rows, cols) = (512, 512);
    let base = vec![bf16::from_f32(1.0); rows * cols];
    let delta = 0.001f32;
    let factors = Factors { a: vec![delta; rows], b: vec![1.0f32; cols], rank: 1, scale: 1.0 };
    let mean = |rounding| {
        let mut w = base.clone();
        let view = MatrixMut::new(&mut w, rows, cols).unwrap();
        Cpu::new().update_weights(WeightUpdate::merge(view, factors.adapter()).rounding(rounding)).unwrap();
        w.iter().map(|w| f64::from(w.to_f32()) - 1.0).sum::<f64>() / (rows * cols) as f64
    };
    assert_eq!(mean(Rounding::Nearest), 0.0);
    let step = 2f64.powi(-7);
    let share = f64::from(delta) / step;
    // Six standard errors of the mean of independent draws.
    let tolerance = 6.0 * step * (share * (1.0 - share) / (rows * cols) as f64).sqrt();
    for seed in 0..4 {
        let error = mean(Rounding::Stochastic { seed }) - f64::from(delta);
        assert!(error.abs() < tolerance, "seed {seed}: {error:e} exceeds {tolerance:e}");
    }
}

#[test]
fn stochastic_rounding_leaves_representable_sums_alone() {
    let (rows, cols) = (64, 68);
    let mut random = Random(5);
    let base: Vec<f16> = random.matrix(rows * cols, 1e-5);
    let zero = Factors { a: vec![0.0f32; rows], b: vec![1.0f32; cols], rank: 1, scale: 1.0 };
    let mut w = base.clone();
    let view = MatrixMut::new(&mut w, rows, cols).unwrap();
    let merge = WeightUpdate::merge(view, zero.adapter()).rounding(Rounding::Stochastic { seed: 1 });
    Cpu::new().update_weights(merge).unwrap();
    // Equal in value: -0 + 0 is +0.
    assert!(w == base);
}

/// NaN weights keep their payload; a NaN that the update makes is the same on every machine.
#[test]
fn nan_bits_are_defined() {
    let mut w = [bf16::from_bits(0xFFA5), bf16::INFINITY, bf16::ONE];
    let factors = Factors {
        a: vec![f32::MAX, f32::MAX],
        b: vec![-1.0f32, -2.0, 0.0, -1.0, -2.0, 0.0],
        rank: 2,
        scale: 1.0,
    };
    Cpu::new()
        .update_weights(WeightUpdate::merge(MatrixMut::new(&mut w, 1, 3).unwrap(), factors.adapter()))
        .unwrap();
    assert_eq!(w.map(|w| w.to_bits()), [0xFFA5, 0x7FFF, 0x3F80]);
}

#[test]
fn without_adapters_nothing_changes() {
    let base = [f32::from_bits(0x7FA0_0001), -0.0, 1.0, f32::INFINITY];
    let mut w = base;
    let update: WeightUpdate<'_> = WeightUpdate {
        w: MatrixMut::new(&mut w, 2, 2).unwrap(),
        remove: None,
        add: None,
        rounding: Rounding::Nearest,
        record: None,
        report: false,
    };
    let report = Cpu::new().update_weights(update.report()).unwrap().unwrap();
    assert_eq!((report.elements, report.unchanged, report.non_finite), (4, 4, 2));
    assert_eq!((report.max_error, report.rms_error), (0.0, 0.0));
    assert_eq!(all_bits(&w), all_bits(&base));
}

/// The report against a plain f64 loop.
#[test]
fn report_measures_the_rounding() {
    let (rows, cols) = (97, 150);
    let mut random = Random(6);
    let mut base: Vec<bf16> = random.matrix(rows * cols, 0.02);
    base[7] = bf16::NAN;
    base[8] = bf16::NEG_INFINITY;
    let factors = Factors::<f32>::random(&mut random, rows, cols, 9, 1e-4);
    let mut w = base.clone();
    let view = MatrixMut::new(&mut w, rows, cols).unwrap();
    let report = Cpu::new()
        .update_weights(WeightUpdate::merge(view, factors.adapter()).report())
        .unwrap()
        .expect("it was asked for");
    let (mut unchanged, mut max, mut squares) = (0, 0.0f64, 0.0);
    for n in 0..rows * cols {
        unchanged += u64::from(bits(w[n]) == bits(base[n]));
        if w[n].is_finite() {
            let delta = f64::from(factors.scale) * f64::from(factors.sum(n / cols, n % cols));
            let error = (f64::from(w[n].to_f32()) - (f64::from(base[n].to_f32()) + delta)).abs();
            max = max.max(error);
            squares += error * error;
        }
    }
    let rms = (squares / (rows * cols - 2) as f64).sqrt();
    assert_eq!(report.elements, (rows * cols) as u64);
    assert_eq!(report.unchanged, unchanged);
    assert_eq!(report.non_finite, 2);
    assert_eq!(report.max_error, max);
    assert!((report.rms_error - rms).abs() <= 1e-12 * rms, "{} {rms}", report.rms_error);
}

/// `MatrixRef` of a single row may have any stride.
#[test]
fn a_single_row_with_a_short_stride() {
    let mut w = [1.0f32, 2.0, 3.0];
    let (a, b) = ([2.0f32], [1.0f32, 1.0, 1.0]);
    let adapter = Adapter {
        a: MatrixRef::strided(&a, 1, 1, 0).unwrap(),
        b: MatrixRef::strided(&b, 1, 3, 0).unwrap(),
        scale: 1.0,
    };
    Cpu::new()
        .update_weights(WeightUpdate::merge(MatrixMut::strided(&mut w, 1, 3, 0).unwrap(), adapter))
        .unwrap();
    assert_eq!(w, [3.0, 4.0, 5.0]);
}
