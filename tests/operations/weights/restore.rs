//! A restore record gives the old weights back, bit for bit.

use super::{PACKED, Place, adapter, arrangement, normal_matrix, plain_adapter, rounded, weights};
use crate::devices::device_tests;
use lora_kernels::restore::{Escape, RestoreMethod, RestoreRecord};
use lora_kernels::{DType, Rounding};
use lora_oracle::device::{Size, TestDevice, Tested};
use lora_oracle::matrix::Matrix;
use lora_oracle::problem::DTYPES;
use lora_oracle::random::Random;
use lora_oracle::run::{self, AdapterArguments, Update};

device_tests!(
    many_switches_leave_the_base_as_it_was,
    weights_beyond_the_reach_of_codes_come_back,
    a_code_reaches_127_steps,
    records_stack,
    records_do_not_depend_on_layout,
    without_a_record_unmerging_is_close_but_not_exact,
);

const METHODS: [RestoreMethod; 2] = [RestoreMethod::Codes, RestoreMethod::Backup];

/// Random switches, with every so often an unmerge and a merge between.
fn switches<D: TestDevice>(device: &Tested<D>, dtypes: (DType, DType), method: RestoreMethod, seed: u64) {
    let (shape, count) = if D::SIZE == Size::Full { ([67, 93], 500) } else { ([35, 37], 8) };
    let mut random = Random::new(seed);
    let base = weights(&mut random, dtypes.0, shape, (seed % 2 == 1, 1));
    let adapters: [AdapterArguments; 4] = [(1, 1e-4), (5, 1e-3), (16, 5e-3), (33, 0.05)]
        .map(|(rank, deviation)| adapter(&mut random, dtypes.1, shape, rank, deviation, [PACKED; 2]));
    let merged = adapters.each_ref().map(|adapter| rounded(&base, [None, Some(adapter)]));
    let mut record = RestoreRecord::new(method);
    let mut w = base.clone();
    let mut active: Option<usize> = None;
    for switch in 0..=count {
        let next = match random.below(20) {
            0 => None,
            _ if switch == count => None,
            draw => Some(draw as usize % adapters.len()),
        };
        let rounding = match switch % 5 {
            0 if dtypes.0 != DType::F32 => Rounding::Stochastic { seed: random.bits() },
            _ => Rounding::Nearest,
        };
        let [remove, add] = [active, next].map(|n| n.map(|n| &adapters[n]));
        let context = format!("{} {dtypes:?} {method:?} switch {switch}", D::NAME);
        let update = Update { remove, add, rounding, report: switch % 3 == 0 };
        update.run(device, &mut w, Some(&mut record)).unwrap_or_else(|error| panic!("{context}: {error}"));
        active = next;
        match next {
            None => assert!(w.all_bits() == base.all_bits(), "{context}"),
            // No drift: the weights are those of a merge into the base.
            Some(n) if rounding == Rounding::Nearest => assert!(w.all_bits() == merged[n], "{context}"),
            Some(_) => {}
        }
    }
    assert!(record.recorded().is_none());
}

fn many_switches_leave_the_base_as_it_was<D: TestDevice>(device: &Tested<D>) {
    for (n, dtypes) in DTYPES.into_iter().enumerate() {
        for (m, method) in METHODS.into_iter().enumerate() {
            switches(device, dtypes, method, (2 * n + m) as u64);
        }
    }
}

/// Weights that a code cannot describe: not finite, zero, subnormal, far below their Δ.
fn awkward_bits(dtype: DType) -> Vec<u32> {
    let bits = |value: f32| super::nearest_bits(dtype, value);
    let (infinity, sign) = (bits(f32::INFINITY), bits(-0.0));
    let mut patterns = vec![0, 1, 2, 3, 0x7F, infinity - 1, infinity, infinity + 1, 2 * infinity - 1];
    patterns.retain(|pattern| *pattern < sign);
    patterns.extend([sign - 1, bits(1.0), bits(1e-7), bits(6e-5)]);
    patterns.iter().flat_map(|&pattern| [pattern & !sign, pattern | sign]).collect()
}

fn weights_beyond_the_reach_of_codes_come_back<D: TestDevice>(device: &Tested<D>) {
    for dtype in [DType::Bf16, DType::F16, DType::F32] {
        let patterns = awkward_bits(dtype);
        // A CUDA backend has room for about a thousand escapes.
        let shape = [patterns.len() + 1, 33];
        for (transposed, method) in
            [(false, METHODS[0]), (true, METHODS[0]), (false, METHODS[1]), (true, METHODS[1])]
        {
            let mut base = Matrix::poisoned(dtype, shape[0], shape[1], arrangement((transposed, 5)));
            for n in 0..shape[0] * shape[1] {
                base.set_bits(n / shape[1], n % shape[1], patterns[(n / 3) % patterns.len()]);
            }
            let deviations: &[f64] =
                if D::SIZE == Size::Full { &[0.0, 1e-6, 1e-2, 1e4, 1e10] } else { &[1e-2, 1e10] };
            for &deviation in deviations {
                let mut random = Random::new(9);
                let [first, second] = [(3, deviation), (2, deviation / 3.0)]
                    .map(|(rank, deviation)| plain_adapter(&mut random, shape, rank, deviation));
                let mut w = base.clone();
                let mut record = RestoreRecord::new(method);
                run::update_weights(device, &mut w, None, Some(&first), Some(&mut record)).unwrap();
                if method == RestoreMethod::Codes {
                    let found = record.escapes();
                    assert!(
                        found.len() >= shape[0] * shape[1] / patterns.len(),
                        "weights that are not finite escape"
                    );
                    assert!(found.is_sorted_by_key(|escape| escape.index));
                }
                run::update_weights(device, &mut w, Some(&first), Some(&second), Some(&mut record)).unwrap();
                run::update_weights(device, &mut w, Some(&second), None, Some(&mut record)).unwrap();
                assert!(w.all_bits() == base.all_bits(), "{} {dtype} {method:?} Δ of {deviation}", D::NAME);
            }
        }
    }
}

/// 1 + w is 1 for these weights, and 1 − 1 is 0: the code is how many values w is away from +0.
fn a_code_reaches_127_steps<D: TestDevice>(device: &Tested<D>) {
    for dtype in [DType::Bf16, DType::F16, DType::F32] {
        let sign = super::nearest_bits(dtype, -0.0);
        let steps: [(u32, Option<i8>); 10] = [
            (0, Some(0)),
            (1, Some(1)),
            (126, Some(126)),
            (127, Some(127)),
            (128, None),
            (129, None),
            // −0 is one step below +0.
            (sign, Some(-1)),
            (sign + 126, Some(-127)),
            (sign + 127, None),
            (sign + 128, None),
        ];
        for transposed in [false, true] {
            let ones = |rows, cols| Matrix::from_fn(DType::F32, rows, cols, arrangement(PACKED), |_, _| 1.0);
            let adapter = AdapterArguments { a: ones(1, 1), b: ones(1, steps.len()), scale: 1.0 };
            let mut w = Matrix::poisoned(dtype, 1, steps.len(), arrangement((transposed, 1)));
            for (j, (bits, _)) in steps.into_iter().enumerate() {
                w.set_bits(0, j, bits);
            }
            let before = w.all_bits();
            let mut record = RestoreRecord::new(RestoreMethod::Codes);
            run::update_weights(device, &mut w, None, Some(&adapter), Some(&mut record)).unwrap();
            let expected: Vec<u8> = steps.iter().map(|(_, code)| code.unwrap_or(-128) as u8).collect();
            assert_eq!(
                device.download_record(&record).codes()[..steps.len()],
                expected,
                "{} {dtype}",
                D::NAME
            );
            let escaped = steps.iter().enumerate().filter(|(_, (_, code))| code.is_none());
            let escapes: Vec<Escape> =
                escaped.map(|(index, &(bits, _))| Escape { index: index as u64, bits }).collect();
            assert_eq!(record.escapes(), escapes, "{} {dtype}", D::NAME);
            run::update_weights(device, &mut w, Some(&adapter), None, Some(&mut record)).unwrap();
            assert_eq!(w.all_bits(), before, "{} {dtype}", D::NAME);
        }
    }
}

fn records_stack<D: TestDevice>(device: &Tested<D>) {
    let shape = if D::SIZE == Size::Full { [30, 140] } else { [11, 70] };
    let mut random = Random::new(10);
    let mut w = weights(&mut random, DType::Bf16, shape, PACKED);
    let mut stack = Vec::new();
    for rank in 1..5 {
        let adapter = plain_adapter(&mut random, shape, rank, 1e-2);
        let (before, mut record) = (w.all_bits(), RestoreRecord::new(RestoreMethod::Codes));
        run::update_weights(device, &mut w, None, Some(&adapter), Some(&mut record)).unwrap();
        stack.push((adapter, before, record));
    }
    while let Some((adapter, before, mut record)) = stack.pop() {
        run::update_weights(device, &mut w, Some(&adapter), None, Some(&mut record)).unwrap();
        assert!(w.all_bits() == before, "{}", D::NAME);
    }
}

/// A record made over one layout restores over another: codes count in W \[in, out\].
fn records_do_not_depend_on_layout<D: TestDevice>(device: &Tested<D>) {
    // The wide ones reach beyond one block of work in each direction.
    let shapes: &[[usize; 2]] =
        if D::SIZE == Size::Full { &[[66, 131], [70, 1100], [1100, 70]] } else { &[[66, 70]] };
    for &shape in shapes {
        for dtype in [DType::Bf16, DType::F16, DType::F32] {
            for method in METHODS {
                let mut random = Random::new(14);
                let base = weights(&mut random, dtype, shape, PACKED);
                let adapter = plain_adapter(&mut random, shape, 6, 2e-2);
                let placed = |place: Place| {
                    let mut matrix = Matrix::poisoned(dtype, shape[0], shape[1], arrangement(place));
                    for n in 0..shape[0] * shape[1] {
                        let (i, j) = (n / shape[1], n % shape[1]);
                        matrix.set_bits(i, j, base.bits(i, j));
                    }
                    matrix
                };
                let mut ws = [placed(PACKED), placed((true, 3))];
                let mut records = [method; 2].map(RestoreRecord::new);
                for (w, record) in ws.iter_mut().zip(&mut records) {
                    run::update_weights(device, w, None, Some(&adapter), Some(record)).unwrap();
                }
                let context = format!("{} {dtype} {shape:?} {method:?}", D::NAME);
                let [one, two] = records.each_ref().map(|record| device.download_record(record));
                assert_eq!(one.recorded(), two.recorded(), "{context}");
                assert!(one.codes() == two.codes() && one.escapes() == two.escapes(), "{context}");
                assert_eq!(one.escapes().is_empty(), method == RestoreMethod::Backup, "{context}");
                // Each with the other's.
                for (w, record) in ws.iter_mut().zip(records.iter_mut().rev()) {
                    run::update_weights(device, w, Some(&adapter), None, Some(record)).unwrap();
                    assert!(w.all_bits() == base.all_bits(), "{context}");
                }
            }
        }
    }
}

/// Rounding has lost bits; that is why there are records.
fn without_a_record_unmerging_is_close_but_not_exact<D: TestDevice>(device: &Tested<D>) {
    let shape = [40, 64];
    let mut random = Random::new(11);
    let base = normal_matrix(&mut random, DType::Bf16, shape, PACKED, 0.02);
    let adapter = plain_adapter(&mut random, shape, 8, 5e-3);
    let mut w = base.clone();
    run::update_weights(device, &mut w, None, Some(&adapter), None).unwrap();
    run::update_weights(device, &mut w, Some(&adapter), None, None).unwrap();
    let elements = shape[0] * shape[1];
    let changed = w.all_bits().iter().zip(base.all_bits()).filter(|(new, old)| **new != *old).count();
    assert!((elements / 20..elements / 2).contains(&changed), "{} {changed}", D::NAME);
}
