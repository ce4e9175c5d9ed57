//! dX, dA, dB and dbias.

use crate::devices::device_tests;
use lora_kernels::DType;
use lora_kernels::ops::WriteMode;
use lora_oracle::dense::Dense;
use lora_oracle::device::{TestDevice, Tested};
use lora_oracle::expect::{self, assert_close, assert_exact};
use lora_oracle::oracle;
use lora_oracle::problem::{Arrangements, DTYPES, Problem};
use lora_oracle::run::{self, BackwardArguments, Gradient};
use lora_oracle::shapes::{ragged, single_layers};

device_tests!(
    every_shape_and_element_type,
    every_arrangement,
    dbias_in_either_type,
    small_integers_are_exact,
    each_gradient_alone,
    only_what_is_needed,
    saved_s_of_the_forward,
    no_rows,
    scale_zero,
    accumulating_twice,
    finite_differences,
    same_bits_every_time,
);

const MODES: [WriteMode; 2] = [WriteMode::Overwrite, WriteMode::Accumulate];

type Compare = fn(&str, &str, &lora_oracle::matrix::Matrix, &lora_oracle::tolerance::Bounded);

/// Runs the arguments and compares all gradients with the oracle.
pub fn check_arguments<D: TestDevice>(
    device: &Tested<D>,
    arguments: &mut BackwardArguments,
    context: &str,
    compare: Compare,
) {
    let expected = expect::backward(arguments, D::ROUNDINGS);
    run::backward(device, arguments).unwrap_or_else(|error| panic!("{context}: {error}"));
    if let Some(dx) = &arguments.dx {
        compare(context, "dx", &dx.matrix, &expected.dx);
    }
    for (layer, expected) in arguments.projections.iter().zip(&expected.layers) {
        for (name, found, expected) in [
            ("da", &layer.da, &expected.da),
            ("db", &layer.db, &expected.db),
            ("dbias", &layer.dbias, &expected.dbias),
        ] {
            if let Some(found) = found {
                compare(context, name, &found.matrix, expected);
            }
        }
    }
}

pub fn check<D: TestDevice>(device: &Tested<D>, problem: &Problem, mode: WriteMode) {
    let context = format!("{} {mode:?} {problem:?}", D::NAME);
    check_arguments(device, &mut problem.backward(mode), &context, assert_close);
}

fn every_shape_and_element_type<D: TestDevice>(device: &Tested<D>) {
    for (index, shape) in single_layers(D::SIZE).into_iter().enumerate() {
        for dtypes in DTYPES {
            let problem = shape.clone().dtypes(dtypes).bias(dtypes.0);
            let problem = if index % 2 == 0 { problem.dropout(0.25) } else { problem };
            let problem = if index % 3 == 0 { problem.saving_s() } else { problem };
            check(device, &problem, MODES[index / 2 % 2]);
        }
    }
}

fn every_arrangement<D: TestDevice>(device: &Tested<D>) {
    for arrangements in Arrangements::ALL {
        for dtypes in DTYPES {
            for mode in MODES {
                let problem = ragged(D::SIZE).dtypes(dtypes).bias(dtypes.0).saving_s().arranged(arrangements);
                check(device, &problem, mode);
            }
        }
    }
}

fn dbias_in_either_type<D: TestDevice>(device: &Tested<D>) {
    for dtypes in DTYPES {
        for dtype in [dtypes.0, DType::F32] {
            for mode in MODES {
                check(device, &ragged(D::SIZE).dtypes(dtypes).bias(dtype), mode);
            }
        }
    }
}

fn small_integers_are_exact<D: TestDevice>(device: &Tested<D>) {
    for (index, shape) in single_layers(D::SIZE).into_iter().enumerate() {
        for dtypes in DTYPES {
            let arrangements = Arrangements::ALL[index % Arrangements::ALL.len()];
            let mode = MODES[index % 2];
            let problem = shape.clone().dtypes(dtypes).bias(dtypes.0).small_integers().arranged(arrangements);
            for problem in [problem.clone(), problem.dropout(0.5)] {
                let context = format!("{} {mode:?} {problem:?}", D::NAME);
                check_arguments(device, &mut problem.backward(mode), &context, assert_exact);
            }
        }
    }
}

/// Any set of gradients may be asked for; the others need not be computed, nor what they depend on be given.
fn each_gradient_alone<D: TestDevice>(device: &Tested<D>) {
    for dtypes in DTYPES {
        for wanted in 0..16 {
            for saved in [false, true] {
                let problem = ragged(D::SIZE).dtypes(dtypes).bias(dtypes.0).dropout(0.25);
                let problem = if saved { problem.saving_s() } else { problem };
                let mut arguments = problem.backward(WriteMode::Overwrite);
                keep_only(&mut arguments, wanted);
                let context = format!("{} gradients {wanted:04b} {problem:?}", D::NAME);
                check_arguments(device, &mut arguments, &context, assert_close);
            }
            if D::SIZE == lora_oracle::device::Size::Small && dtypes.0 != dtypes.1 {
                break;
            }
        }
    }
}

/// Bit 0 dX, bit 1 dA, bit 2 dB, bit 3 dbias.
fn keep_only(arguments: &mut BackwardArguments, wanted: u32) {
    let drop_unless = |bit: u32, gradient: &mut Option<Gradient>| {
        if wanted & 1 << bit == 0 {
            *gradient = None;
        }
    };
    drop_unless(0, &mut arguments.dx);
    for layer in &mut arguments.projections {
        drop_unless(1, &mut layer.da);
        drop_unless(2, &mut layer.db);
        drop_unless(3, &mut layer.dbias);
    }
}

/// Without dA, and with S given, X is not needed.
fn only_what_is_needed<D: TestDevice>(device: &Tested<D>) {
    for wanted in [0b0001, 0b0100, 0b1000, 0b1101] {
        let problem = ragged(D::SIZE).bias(DType::F32).saving_s().dropout(0.25);
        let mut arguments = problem.backward(WriteMode::Overwrite);
        keep_only(&mut arguments, wanted);
        arguments.x = None;
        let context = format!("{} gradients {wanted:04b} without X", D::NAME);
        check_arguments(device, &mut arguments, &context, assert_close);
    }
}

/// What the forward saved is what the backward wants.
fn saved_s_of_the_forward<D: TestDevice>(device: &Tested<D>) {
    for dtypes in DTYPES {
        let problem = ragged(D::SIZE).dtypes(dtypes).saving_s().dropout(0.25);
        let mut forward = problem.forward();
        run::forward(device, &mut forward).unwrap();
        let mut arguments = problem.backward(WriteMode::Overwrite);
        arguments.projections[0].s = forward.projections[0].s.clone();
        let context = format!("{} {problem:?} with S of the forward", D::NAME);
        check_arguments(device, &mut arguments, &context, assert_close);
    }
}

/// Gradients of no tokens are zero; accumulated ones stay as they are.
fn no_rows<D: TestDevice>(device: &Tested<D>) {
    for dtypes in DTYPES {
        for mode in MODES {
            for dropout in [0.0, 0.5] {
                let problem =
                    Problem { rows: 0, ..ragged(D::SIZE) }.dtypes(dtypes).bias(dtypes.0).dropout(dropout);
                check(device, &problem, mode);
            }
        }
    }
}

fn scale_zero<D: TestDevice>(device: &Tested<D>) {
    for dtypes in DTYPES {
        check(device, &Problem { scale: 0.0, ..ragged(D::SIZE) }.dtypes(dtypes), WriteMode::Overwrite);
    }
}

/// Two accumulating calls after an overwriting one: gradient accumulation over three batches.
fn accumulating_twice<D: TestDevice>(device: &Tested<D>) {
    let problem = ragged(D::SIZE).bias(DType::F32).small_integers();
    let mut arguments = problem.backward(WriteMode::Overwrite);
    let expected = expect::backward(&arguments, D::ROUNDINGS);
    run::backward(device, &mut arguments).unwrap();
    for _ in 0..2 {
        let layer = &mut arguments.projections[0];
        for gradient in [&mut arguments.dx, &mut layer.da, &mut layer.db, &mut layer.dbias] {
            gradient.as_mut().unwrap().mode = WriteMode::Accumulate;
        }
        run::backward(device, &mut arguments).unwrap();
    }
    let layer = &arguments.projections[0];
    for (name, found, once) in [
        ("dx", &arguments.dx, &expected.dx),
        ("da", &layer.da, &expected.layers[0].da),
        ("db", &layer.db, &expected.layers[0].db),
        ("dbias", &layer.dbias, &expected.layers[0].dbias),
    ] {
        let found = &found.as_ref().unwrap().matrix;
        for i in 0..found.rows {
            for j in 0..found.cols {
                assert_eq!(found.get(i, j), 3.0 * once.value.at(i, j), "{} {name}[{i}, {j}]", D::NAME);
            }
        }
    }
}

/// The gradients are those of the function that the forward computes: Σ dY⊙Y differs by as much as they say when an
/// element of X, A, B or the bias does. The function is linear in each element, so that differences have no truncation
/// error, and only the f64 oracle's rounding is added to the gradients' own bounds.
fn finite_differences<D: TestDevice>(device: &Tested<D>) {
    let problem = Problem::new(6, 7, 5, 3).bias(DType::F32).dropout(0.3);
    let mut arguments = problem.backward(WriteMode::Overwrite);
    let bounds = expect::backward(&arguments, D::ROUNDINGS);
    run::backward(device, &mut arguments).unwrap();

    let inputs = problem.forward();
    let layer = &inputs.projections[0];
    let parameters =
        [&inputs.x, &layer.adapter.a, &layer.adapter.b, layer.bias.as_ref().unwrap()].map(Dense::from);
    let (w, dy) = (Dense::from(&layer.w), Dense::from(&arguments.projections[0].dy));
    let mask = oracle::mask(6, 7, problem.dropout);
    let loss = |parameters: &[Dense; 4]| -> f64 {
        let [x, a, b, bias] = parameters;
        let terms = oracle::Layer { w: &w, a, b, scale: f64::from(problem.scale) };
        let y = oracle::forward(x, &mask, &terms, Some(bias));
        y.values.iter().zip(&dy.values).map(|(y, dy)| y * dy).sum()
    };

    let gradients = &arguments.projections[0];
    let found = [&arguments.dx, &gradients.da, &gradients.db, &gradients.dbias];
    let bounds = [&bounds.dx, &bounds.layers[0].da, &bounds.layers[0].db, &bounds.layers[0].dbias];
    for (which, name) in ["dx", "da", "db", "dbias"].into_iter().enumerate() {
        let found = Dense::from(&found[which].as_ref().unwrap().matrix);
        for element in 0..found.values.len() {
            let at = |step: f64| {
                let mut moved = parameters.clone();
                moved[which].values[element] += step;
                loss(&moved)
            };
            let difference = (at(0.5) - at(-0.5)) / 1.0;
            let error = (found.values[element] - difference).abs();
            let bound = bounds[which].error.values[element] + 1e-12;
            assert!(
                error <= bound,
                "{} {name} element {element}: gradient {}, difference {difference}, bound {bound:e}",
                D::NAME,
                found.values[element]
            );
        }
    }
}

fn same_bits_every_time<D: TestDevice>(device: &Tested<D>) {
    for dtypes in DTYPES {
        let problem = ragged(D::SIZE).dtypes(dtypes).bias(dtypes.0).dropout(0.1);
        let run = |device: &Tested<D>| {
            let mut arguments = problem.backward(WriteMode::Accumulate);
            run::backward(device, &mut arguments).unwrap();
            let layer = &arguments.projections[0];
            [&arguments.dx, &layer.da, &layer.db, &layer.dbias]
                .map(|gradient| gradient.as_ref().unwrap().matrix.data.bytes().to_vec())
        };
        let first = run(device);
        for _ in 0..3 {
            assert!(run(device) == first, "{} {dtypes:?}: gradients differ", D::NAME);
        }
    }
}
