//! Updates without a record, Δ, and reports.

use super::{PACKED, Place, adapter, arrangement, nearest_bits, plain_adapter, rounded, sum, weights};
use crate::devices::device_tests;
use lora_kernels::{DType, MergeReport};
use lora_oracle::device::{Size, TestDevice, Tested};
use lora_oracle::matrix::Matrix;
use lora_oracle::problem::DTYPES;
use lora_oracle::random::Random;
use lora_oracle::run::{self, AdapterArguments, Update};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

device_tests!(
    every_shape_and_element_type,
    any_shape_and_layout,
    nan_bits_are_defined,
    without_adapters_nothing_changes,
    reports_measure_the_rounding,
);

/// Merge, switch, unmerge and Δ of one shape, with every matrix laid out as asked.
fn check<D: TestDevice>(
    device: &Tested<D>,
    shape: [usize; 2],
    ranks: [usize; 2],
    places: [Place; 3],
    dtypes: (DType, DType),
) {
    let [w_place, a_place, b_place] = places;
    let mut random = Random::new((shape[0] * 1000 + shape[1]) as u64);
    let mut w = weights(&mut random, dtypes.0, shape, w_place);
    let adapters: [AdapterArguments; 2] =
        ranks.map(|rank| adapter(&mut random, dtypes.1, shape, rank, 1e-2, [a_place, b_place]));
    for (remove, add) in [(None, Some(0)), (Some(0), Some(1)), (Some(1), None)] {
        let [remove, add] = [remove, add].map(|n: Option<usize>| n.map(|n| &adapters[n]));
        let expected = rounded(&w, [remove, add]);
        Update { remove, add, ..Update::default() }.run(device, &mut w, None).unwrap();
        assert!(w.all_bits() == expected, "{} {dtypes:?} {shape:?} {ranks:?} {places:?}", D::NAME);
    }
    let mut delta = Matrix::poisoned(dtypes.0, shape[0], shape[1], arrangement(w_place));
    run::delta(device, &adapters[1], &mut delta).unwrap();
    for i in 0..shape[0] {
        for j in 0..shape[1] {
            let expected = nearest_bits(dtypes.0, adapters[1].scale * sum(&adapters[1], i, j));
            assert_eq!(delta.bits(i, j), expected, "{} {dtypes:?} {shape:?} Δ[{i}, {j}]", D::NAME);
        }
    }
}

fn every_shape_and_element_type<D: TestDevice>(device: &Tested<D>) {
    let plain = [PACKED; 3];
    let peft = [(true, 0); 3];
    let mixed = [(false, 3), (true, 1), (false, 2)];
    let mut cases = vec![([1, 1], [1, 2], plain), ([24, 72], [8, 16], peft), ([67, 70], [33, 5], mixed)];
    if D::SIZE == Size::Full {
        cases.extend([
            ([37, 70], [31, 512], plain),
            ([37, 70], [129, 64], peft),
            // More than one task and panel of work.
            ([131, 577], [3, 4], [(false, 7), (false, 0), (true, 0)]),
            ([577, 131], [3, 4], [(true, 7), (true, 0), (false, 0)]),
        ]);
    }
    for (shape, ranks, places) in cases {
        for dtypes in DTYPES {
            check(device, shape, ranks, places, dtypes);
        }
    }
}

fn any_shape_and_layout<D: TestDevice>(device: &Tested<D>) {
    let (cases, most) = if D::SIZE == Size::Full { (80, [80usize, 140]) } else { (6, [40, 70]) };
    let place = || (any::<bool>(), 0usize..4);
    let problems = (
        [1..most[0], 1..most[1]],
        [1usize..20, 1usize..20],
        [place(), place(), place()],
        proptest::sample::select(&DTYPES[..]),
    );
    let config = Config { cases, max_shrink_iters: 64, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&problems, |(shape, ranks, places, dtypes)| {
        check(device, shape, ranks, places, dtypes);
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

/// NaN weights keep their payload; a NaN that the update makes is the same on every machine.
fn nan_bits_are_defined<D: TestDevice>(device: &Tested<D>) {
    let mut w = Matrix::from_fn(DType::Bf16, 1, 3, arrangement(PACKED), |_, j| [0.0, f64::INFINITY, 1.0][j]);
    w.set_bits(0, 0, 0xFFA5);
    let b = [[-1.0, -2.0, 0.0], [-1.0, -2.0, 0.0]];
    let adapter = AdapterArguments {
        a: Matrix::from_fn(DType::F32, 1, 2, arrangement(PACKED), |_, _| f32::MAX.into()),
        b: Matrix::from_fn(DType::F32, 2, 3, arrangement(PACKED), |k, j| b[k][j]),
        scale: 1.0,
    };
    run::update_weights(device, &mut w, None, Some(&adapter), None).unwrap();
    assert_eq!(w.all_bits(), [0xFFA5, 0x7FFF, 0x3F80], "{}", D::NAME);
}

fn without_adapters_nothing_changes<D: TestDevice>(device: &Tested<D>) {
    let mut w = Matrix::from_fn(DType::F32, 2, 2, arrangement((true, 1)), |i, j| {
        [[0.0, -0.0], [1.0, f64::INFINITY]][i][j]
    });
    w.set_bits(0, 0, 0x7FA0_0001);
    let before = w.all_bits();
    let report = Update { report: true, ..Update::default() }.run(device, &mut w, None).unwrap().unwrap();
    let expected = MergeReport { elements: 4, unchanged: 4, non_finite: 2, ..MergeReport::default() };
    assert_eq!(report, expected, "{}", D::NAME);
    assert_eq!(w.all_bits(), before, "{}", D::NAME);
}

/// Against a plain f64 loop, for what is added and for what is taken out.
fn reports_measure_the_rounding<D: TestDevice>(device: &Tested<D>) {
    let shape = if D::SIZE == Size::Full { [97, 150] } else { [21, 70] };
    let [rows, cols] = shape;
    let mut random = Random::new(6);
    let mut w = weights(&mut random, DType::Bf16, shape, PACKED);
    w.set(0, 7, f64::NAN);
    w.set(0, 8, f64::NEG_INFINITY);
    let adapters = [9, 4].map(|rank| plain_adapter(&mut random, shape, rank, 1e-4));
    for (remove, add) in
        [(None, Some(&adapters[0])), (Some(&adapters[0]), Some(&adapters[1])), (Some(&adapters[1]), None)]
    {
        let before = w.clone();
        let report = Update { remove, add, report: true, ..Update::default() }.run(device, &mut w, None);
        let report = report.unwrap().expect("it was asked for");
        let (mut unchanged, mut max, mut squares) = (0, 0.0f64, 0.0);
        for n in 0..rows * cols {
            let (i, j) = (n / cols, n % cols);
            unchanged += u64::from(w.bits(i, j) == before.bits(i, j));
            if w.get(i, j).is_finite() {
                let delta = |adapter: Option<&AdapterArguments>| {
                    adapter.map_or(0.0, |adapter| f64::from(adapter.scale) * f64::from(sum(adapter, i, j)))
                };
                let error = (w.get(i, j) - (before.get(i, j) - delta(remove) + delta(add))).abs();
                max = max.max(error);
                squares += error * error;
            }
        }
        let rms = (squares / (rows * cols - 2) as f64).sqrt();
        // The order of the sum differs.
        assert!((report.rms_error - rms).abs() <= 1e-12 * rms, "{} {} {rms}", D::NAME, report.rms_error);
        let elements = (rows * cols) as u64;
        let expected =
            MergeReport { elements, unchanged, max_error: max, rms_error: report.rms_error, non_finite: 2 };
        assert_eq!(report, expected, "{}", D::NAME);
    }
}
