//! Layers that share X.

use crate::devices::device_tests;
use crate::{backward, forward};
use lora_kernels::ops::WriteMode;
use lora_oracle::device::{TestDevice, Tested};
use lora_oracle::expect::{assert_close, assert_exact};
use lora_oracle::problem::{Arrangements, DTYPES, Layer, Problem};
use lora_oracle::run::{self, BackwardArguments};
use lora_oracle::shapes::siblings;

device_tests!(
    forward_of_three,
    backward_of_three,
    integers_equal_singles,
    some_gradients_of_some_layers,
    mixed_adapter_types,
    none_is_no_work,
);

fn forward_of_three<D: TestDevice>(device: &Tested<D>) {
    for dtypes in DTYPES {
        for arrangements in [Arrangements::Packed, Arrangements::Peft, Arrangements::Mixed(2)] {
            let problem = siblings(D::SIZE).dtypes(dtypes).bias(dtypes.0).arranged(arrangements);
            forward::check(device, &problem.saving_s().dropout(0.25));
        }
    }
}

fn backward_of_three<D: TestDevice>(device: &Tested<D>) {
    for dtypes in DTYPES {
        for mode in [WriteMode::Overwrite, WriteMode::Accumulate] {
            for problem in [siblings(D::SIZE).arranged(Arrangements::Mixed(3)), siblings(D::SIZE).saving_s()]
            {
                backward::check(device, &problem.dtypes(dtypes).bias(dtypes.0).dropout(0.25), mode);
            }
        }
    }
}

/// The layers of `problem` one by one.
fn singles(problem: &Problem) -> Vec<Problem> {
    problem.layers.iter().map(|&layer| Problem { layers: vec![layer], ..problem.clone() }).collect()
}

/// With whole numbers, three together give the bits of three alone, and their dX is the sum.
fn integers_equal_singles<D: TestDevice>(device: &Tested<D>) {
    for dtypes in DTYPES {
        let problem = siblings(D::SIZE).dtypes(dtypes).small_integers().saving_s().dropout(0.5);
        let mut together = problem.forward();
        run::forward(device, &mut together).unwrap();
        let mut gradients = problem.backward(WriteMode::Overwrite);
        let mut sum_of_dx = vec![0.0; problem.rows * problem.in_features];
        for (index, single) in singles(&problem).iter().enumerate() {
            let context = format!("{} layer {index} of {problem:?}", D::NAME);
            let mut alone = single.forward();
            alone.projections[0] = {
                let mut layer = problem.forward().projections.remove(index);
                layer.y = alone.projections[0].y.clone();
                layer
            };
            run::forward(device, &mut alone).unwrap();
            assert!(
                alone.projections[0].y.data.bytes() == together.projections[index].y.data.bytes(),
                "{context}: Y"
            );

            let mut alone = single.backward(WriteMode::Overwrite);
            alone.projections[0] = problem.backward(WriteMode::Overwrite).projections.remove(index);
            run::backward(device, &mut alone).unwrap();
            let dx = &alone.dx.as_ref().unwrap().matrix;
            for (element, sum) in sum_of_dx.iter_mut().enumerate() {
                *sum += dx.get(element / problem.in_features, element % problem.in_features);
            }
            let layer = &mut gradients.projections[index];
            for (gradient, alone) in
                [(&mut layer.da, &alone.projections[0].da), (&mut layer.db, &alone.projections[0].db)]
            {
                gradient.as_mut().unwrap().matrix = alone.as_ref().unwrap().matrix.clone();
            }
        }

        let alone = gradients.clone();
        let mut together = problem.backward(WriteMode::Overwrite);
        backward::check_arguments(device, &mut together, &format!("{} {problem:?}", D::NAME), assert_exact);
        for (index, (together, alone)) in together.projections.iter().zip(&alone.projections).enumerate() {
            for (name, together, alone) in [("dA", &together.da, &alone.da), ("dB", &together.db, &alone.db)]
            {
                let bytes = |gradient: &Option<run::Gradient>| {
                    gradient.as_ref().unwrap().matrix.data.bytes().to_vec()
                };
                assert!(bytes(together) == bytes(alone), "{} {dtypes:?}: {name} of layer {index}", D::NAME);
            }
        }
        let dx = &together.dx.as_ref().unwrap().matrix;
        for (element, sum) in sum_of_dx.iter().enumerate() {
            let found = dx.get(element / problem.in_features, element % problem.in_features);
            assert_eq!(found, *sum, "{} {dtypes:?}: dX element {element}", D::NAME);
        }
    }
}

/// One layer wants only dA, one only dB, one nothing but its part of dX.
fn some_gradients_of_some_layers<D: TestDevice>(device: &Tested<D>) {
    for dtypes in DTYPES {
        for (saved, with_dx) in [(false, true), (true, false), (true, true)] {
            let problem = siblings(D::SIZE).dtypes(dtypes).bias(dtypes.0).dropout(0.25);
            let problem = if saved { problem.saving_s() } else { problem };
            let mut arguments: BackwardArguments = problem.backward(WriteMode::Overwrite);
            if !with_dx {
                arguments.dx = None;
            }
            arguments.projections[0].db = None;
            arguments.projections[1].da = None;
            arguments.projections[1].s = None;
            arguments.projections[2].da = None;
            arguments.projections[2].db = None;
            arguments.projections[2].dbias = None;
            let context = format!("{} some gradients, S given: {saved}, dX: {with_dx}, {problem:?}", D::NAME);
            backward::check_arguments(device, &mut arguments, &context, assert_close);
        }
    }
}

/// An f32 adapter beside one in the layer's type.
fn mixed_adapter_types<D: TestDevice>(device: &Tested<D>) {
    use lora_kernels::DType;
    let layers = |problem: Problem| Problem {
        layers: vec![Layer { out_features: 21, rank: 5 }, Layer { out_features: 21, rank: 5 }],
        ..problem
    };
    for dtype in [DType::F16, DType::Bf16] {
        let same = layers(siblings(D::SIZE)).dtypes((dtype, dtype)).saving_s();
        let wide = layers(siblings(D::SIZE)).dtypes((dtype, DType::F32)).saving_s();
        let context = format!("{} {dtype} and f32 adapters", D::NAME);

        let mut arguments = same.forward();
        arguments.projections[1] = wide.forward().projections.remove(1);
        run::forward(device, &mut arguments).unwrap_or_else(|error| panic!("{context}: {error}"));
        let expected = lora_oracle::expect::forward(&arguments, D::ROUNDINGS);
        for (layer, expected) in arguments.projections.iter().zip(&expected) {
            assert_close(&context, "y", &layer.y, &expected.y);
            assert_close(&context, "s", layer.s.as_ref().unwrap(), &expected.s);
        }

        let mut arguments = same.backward(WriteMode::Overwrite);
        arguments.projections[1] = wide.backward(WriteMode::Overwrite).projections.remove(1);
        backward::check_arguments(device, &mut arguments, &context, assert_close);
    }
}

fn none_is_no_work<D: TestDevice>(device: &Tested<D>) {
    let problem = Problem { layers: Vec::new(), ..siblings(D::SIZE) };
    run::forward(device, &mut problem.forward()).unwrap();
    let mut arguments = problem.backward(WriteMode::Accumulate);
    let before = arguments.dx.clone().unwrap().matrix;
    run::backward(device, &mut arguments).unwrap();
    let after = arguments.dx.unwrap().matrix;
    assert!(before.data.bytes() == after.data.bytes(), "{}: dX of no layers", D::NAME);
}
