//! Layers without adapter.

use crate::devices::device_tests;
use lora_kernels::ops::WriteMode;
use lora_kernels::{DType, Error};
use lora_oracle::device::{TestDevice, Tested};
use lora_oracle::expect::{self, assert_close, assert_exact};
use lora_oracle::problem::{Arrangements, DTYPES, Problem};
use lora_oracle::run;
use lora_oracle::shapes::{ragged, single_layers};

device_tests!(
    every_shape_and_element_type,
    every_arrangement,
    bias_in_either_type,
    small_integers_are_exact,
    no_rows_is_no_work,
    arguments_that_do_not_fit,
);

const MODES: [WriteMode; 2] = [WriteMode::Overwrite, WriteMode::Accumulate];

fn check<D: TestDevice>(device: &Tested<D>, problem: &Problem, mode: WriteMode) {
    let context = format!("{} {mode:?} {problem:?}", D::NAME);
    let compare = match problem.values {
        lora_oracle::problem::Values::Random => assert_close,
        lora_oracle::problem::Values::SmallIntegers => assert_exact,
    };
    let mut arguments = problem.frozen(mode);
    let expected = expect::frozen(&arguments, D::ROUNDINGS);
    run::frozen(device, &mut arguments).unwrap_or_else(|error| panic!("{context}: {error}"));
    compare(&context, "y", &arguments.y.matrix, &expected);

    let mut arguments = problem.frozen_backward(mode);
    let expected = expect::frozen_backward(&arguments, D::ROUNDINGS);
    run::frozen_backward(device, &mut arguments).unwrap_or_else(|error| panic!("{context}: {error}"));
    compare(&context, "dx", &arguments.dx.matrix, &expected);
}

fn every_shape_and_element_type<D: TestDevice>(device: &Tested<D>) {
    for shape in single_layers(D::SIZE) {
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            MODES.into_iter().for_each(|mode| check(device, &shape.clone().dtypes((dtype, dtype)), mode));
        }
    }
}

fn every_arrangement<D: TestDevice>(device: &Tested<D>) {
    for arrangements in Arrangements::ALL {
        for dtypes in &DTYPES[..3] {
            let problem = ragged(D::SIZE).dtypes(*dtypes).bias(dtypes.0).arranged(arrangements);
            MODES.into_iter().for_each(|mode| check(device, &problem, mode));
        }
    }
}

fn bias_in_either_type<D: TestDevice>(device: &Tested<D>) {
    for dtypes in &DTYPES[..3] {
        for bias in [dtypes.0, DType::F32] {
            let problem = ragged(D::SIZE).dtypes(*dtypes).bias(bias);
            MODES.into_iter().for_each(|mode| check(device, &problem, mode));
        }
    }
}

fn small_integers_are_exact<D: TestDevice>(device: &Tested<D>) {
    for dtypes in &DTYPES[..3] {
        let problem = ragged(D::SIZE).dtypes(*dtypes).bias(dtypes.0).small_integers();
        MODES.into_iter().for_each(|mode| check(device, &problem, mode));
    }
}

fn no_rows_is_no_work<D: TestDevice>(device: &Tested<D>) {
    let problem = Problem { rows: 0, ..ragged(D::SIZE) };
    MODES.into_iter().for_each(|mode| check(device, &problem.clone().bias(DType::F32), mode));
}

/// Errors name the arguments as the caller knows them, forward and backward.
fn arguments_that_do_not_fit<D: TestDevice>(device: &Tested<D>) {
    let problem = Problem::new(4, 6, 5, 1).bias(DType::F32);
    let other = |rows, cols| Problem::new(rows, cols, 1, 1).x();
    let name = |error: Error| match error {
        Error::ShapeMismatch { argument, .. }
        | Error::DTypeMismatch { argument, .. }
        | Error::EmptyDimension { argument, .. } => argument,
        error => panic!("{error}"),
    };
    let mut cases = Vec::new();
    for (spoilt, change) in [
        ("w", (|arguments, matrix| arguments.w = matrix) as fn(&mut run::FrozenArguments, _)),
        ("y", |arguments, matrix| arguments.y.matrix = matrix),
        ("bias", |arguments, matrix| arguments.bias = Some(matrix)),
    ] {
        let mut arguments = problem.frozen(WriteMode::Overwrite);
        change(&mut arguments, other(3, 7));
        cases.push((spoilt, name(run::frozen(device, &mut arguments).expect_err(spoilt))));
    }
    for (spoilt, change) in [
        ("w", (|arguments, matrix| arguments.w = matrix) as fn(&mut run::FrozenBackwardArguments, _)),
        ("dx", |arguments, matrix| arguments.dx.matrix = matrix),
    ] {
        let mut arguments = problem.frozen_backward(WriteMode::Overwrite);
        change(&mut arguments, other(3, 7));
        cases.push((spoilt, name(run::frozen_backward(device, &mut arguments).expect_err(spoilt))));
    }
    let mut arguments = problem.frozen(WriteMode::Overwrite);
    arguments.w = problem.clone().dtypes((DType::F16, DType::F16)).w(0);
    cases.push(("w", name(run::frozen(device, &mut arguments).expect_err("another type"))));
    assert!(cases.iter().all(|(spoilt, named)| spoilt == named), "{cases:?}");
}
