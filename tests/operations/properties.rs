//! Problems nobody thought of.

use crate::devices::device_tests;
use crate::{backward, forward};
use lora_kernels::DType;
use lora_kernels::ops::WriteMode;
use lora_oracle::device::{Size, TestDevice, Tested};
use lora_oracle::oracle::Dropout;
use lora_oracle::problem::{Arrangements, DTYPES, Layer, Problem, Values};
use lora_oracle::run::Place;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

device_tests!(any_forward, any_backward);

fn layer() -> impl Strategy<Value = Layer> {
    (1..50usize, 1..20usize).prop_map(|(out_features, rank)| Layer { out_features, rank })
}

fn dropout() -> impl Strategy<Value = Option<Dropout>> {
    // Up to 15 of 16: a kept f16 element times 16 is far from overflow.
    let some = (0.0..0.9375f32, any::<u64>(), any::<u64>());
    proptest::option::of(some.prop_map(|(probability, seed, offset)| Dropout { probability, seed, offset }))
}

prop_compose! {
    fn problem()(
        (rows, in_features) in (0..70usize, 1..70usize),
        layers in proptest::collection::vec(layer(), 1..4),
        (dtype, adapter_dtype) in proptest::sample::select(&DTYPES[..]),
        bias in proptest::option::of(any::<bool>()),
        dropout in dropout(),
        scale in -2.0..2.0f32,
        (save_s, arrangement, seed) in any::<(bool, u64, u32)>(),
        place in proptest::sample::select(&[Place::Apart, Place::Padded, Place::BesideX][..]),
    ) -> Problem {
        let bias = bias.map(|wide| if wide { DType::F32 } else { dtype });
        let (arrangements, seed) = (Arrangements::Mixed(arrangement), u64::from(seed));
        let values = Values::Random;
        Problem { rows, in_features, layers, dtype, adapter_dtype, other_adapter_dtype: None, bias, dropout, scale, arrangements, values, save_s, place, seed }
    }
}

fn runner<D: TestDevice>() -> TestRunner {
    let cases = if D::SIZE == Size::Full { 128 } else { 8 };
    TestRunner::new(Config { cases, max_shrink_iters: 64, failure_persistence: None, ..Config::default() })
}

fn any_forward<D: TestDevice>(device: &Tested<D>) {
    let result = runner::<D>().run(&problem(), |problem| {
        forward::check(device, &problem);
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

fn any_backward<D: TestDevice>(device: &Tested<D>) {
    let problems = (problem(), any::<bool>());
    let result = runner::<D>().run(&problems, |(problem, accumulate)| {
        let mode = if accumulate { WriteMode::Accumulate } else { WriteMode::Overwrite };
        backward::check(device, &problem, mode);
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}
