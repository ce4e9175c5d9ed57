//! Y = X·W + s·drop(X)·A·B + bias.

use crate::devices::device_tests;
use lora_kernels::DType;
use lora_oracle::device::{TestDevice, Tested};
use lora_oracle::expect::{self, assert_close, assert_exact};
use lora_oracle::problem::{Arrangements, DTYPES, Problem};
use lora_oracle::run;
use lora_oracle::run::ForwardArguments;
use lora_oracle::shapes::{ragged, single_layers};

device_tests!(
    every_shape_and_element_type,
    every_arrangement,
    bias_in_either_type,
    small_integers_are_exact,
    no_rows_is_no_work,
    scale_zero_is_the_frozen_layer,
    negative_scale,
    same_bits_every_time,
);

/// Runs the problem and compares all outputs with the oracle.
pub fn check<D: TestDevice>(device: &Tested<D>, problem: &Problem) -> ForwardArguments {
    let context = format!("{} {problem:?}", D::NAME);
    let mut arguments = problem.forward();
    run::forward(device, &mut arguments).unwrap_or_else(|error| panic!("{context}: {error}"));
    for (layer, expected) in arguments.projections.iter().zip(expect::forward(&arguments, D::ROUNDINGS)) {
        assert_close(&context, "y", &layer.y, &expected.y);
        if let Some(s) = &layer.s {
            assert_close(&context, "s", s, &expected.s);
        }
    }
    arguments
}

/// Runs the problem, whose values are small integers, and compares bit for bit.
fn check_exact<D: TestDevice>(device: &Tested<D>, problem: &Problem) {
    let context = format!("{} {problem:?}", D::NAME);
    let mut arguments = problem.forward();
    run::forward(device, &mut arguments).unwrap_or_else(|error| panic!("{context}: {error}"));
    for (layer, expected) in arguments.projections.iter().zip(expect::forward(&arguments, D::ROUNDINGS)) {
        assert!(expected.s.value.largest() <= 256.0, "{context}: bf16 could not hold S exactly");
        assert_exact(&context, "y", &layer.y, &expected.y);
        if let Some(s) = &layer.s {
            assert_exact(&context, "s", s, &expected.s);
        }
    }
}

fn every_shape_and_element_type<D: TestDevice>(device: &Tested<D>) {
    for (index, shape) in single_layers(D::SIZE).into_iter().enumerate() {
        for dtypes in DTYPES {
            let problem = shape.clone().dtypes(dtypes);
            // Training with dropout and inference without, in turn.
            let problem = if index % 2 == 0 { problem.saving_s().dropout(0.25) } else { problem };
            check(device, &problem);
        }
    }
}

fn every_arrangement<D: TestDevice>(device: &Tested<D>) {
    for arrangements in Arrangements::ALL {
        for dtypes in DTYPES {
            let problem = ragged(D::SIZE).dtypes(dtypes).bias(dtypes.0).saving_s().arranged(arrangements);
            check(device, &problem);
        }
    }
}

fn bias_in_either_type<D: TestDevice>(device: &Tested<D>) {
    for dtypes in DTYPES {
        for bias in [dtypes.0, DType::F32] {
            check(device, &ragged(D::SIZE).dtypes(dtypes).bias(bias));
        }
    }
}

fn small_integers_are_exact<D: TestDevice>(device: &Tested<D>) {
    for (index, shape) in single_layers(D::SIZE).into_iter().enumerate() {
        for dtypes in DTYPES {
            let arrangements = Arrangements::ALL[index % Arrangements::ALL.len()];
            let problem = shape.clone().dtypes(dtypes).bias(dtypes.0).small_integers().arranged(arrangements);
            check_exact(device, &problem);
            // Kept elements are multiplied by exactly 2.
            check_exact(device, &problem.saving_s().dropout(0.5));
        }
    }
}

fn no_rows_is_no_work<D: TestDevice>(device: &Tested<D>) {
    for dtypes in DTYPES {
        let problem = Problem { rows: 0, ..ragged(D::SIZE) };
        check(device, &problem.dtypes(dtypes).bias(dtypes.0).saving_s().dropout(0.5));
    }
}

fn scale_zero_is_the_frozen_layer<D: TestDevice>(device: &Tested<D>) {
    for dtypes in DTYPES {
        let problem = Problem { scale: 0.0, ..ragged(D::SIZE) }.dtypes(dtypes).saving_s();
        let arguments = check(device, &problem);
        let s = arguments.projections[0].s.as_ref().unwrap();
        assert!((0..s.rows).all(|i| (0..s.cols).all(|j| s.get(i, j) == 0.0)), "S of an adapter switched off");
    }
}

fn negative_scale<D: TestDevice>(device: &Tested<D>) {
    check(device, &Problem { scale: -1.5, ..ragged(D::SIZE) }.saving_s());
}

fn same_bits_every_time<D: TestDevice>(device: &Tested<D>) {
    for dtypes in DTYPES {
        let problem = ragged(D::SIZE).dtypes(dtypes).bias(dtypes.0).saving_s().dropout(0.1);
        let mut first = problem.forward();
        run::forward(device, &mut first).unwrap();
        for _ in 0..3 {
            let mut again = problem.forward();
            run::forward(device, &mut again).unwrap();
            for (first, again) in first.projections.iter().zip(&again.projections) {
                assert!(first.y.data.bytes() == again.y.data.bytes(), "{} {dtypes:?}: Y differs", D::NAME);
                let s = |layer: &run::ForwardLayer| layer.s.as_ref().unwrap().data.bytes().to_vec();
                assert!(s(first) == s(again), "{} {dtypes:?}: S differs", D::NAME);
            }
        }
    }
}
