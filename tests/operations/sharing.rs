//! Threads that use one backend at once.

use crate::devices::device_tests;
use lora_kernels::DType;
use lora_kernels::ops::WriteMode;
use lora_oracle::device::{Size, TestDevice, Tested};
use lora_oracle::matrix::Matrix;
use lora_oracle::problem::Problem;
use lora_oracle::run;

device_tests!(threads_get_the_results_of_one_after_the_other);

/// Forward, backward, frozen layer and merge of a problem: the bits of all results.
fn results<D: TestDevice>(device: &Tested<D>, problem: &Problem) -> Vec<u8> {
    let mut forward = problem.forward();
    run::forward(device, &mut forward).unwrap();
    let mut backward = problem.backward(WriteMode::Overwrite);
    run::backward(device, &mut backward).unwrap();
    let mut frozen = problem.frozen(WriteMode::Overwrite);
    run::frozen(device, &mut frozen).unwrap();
    let mut w = problem.w(0);
    run::update_weights(device, &mut w, None, Some(&problem.adapter(0)), None).unwrap();
    let gradients = &backward.projections[0];
    let gradients =
        [&gradients.da, &gradients.db, &backward.dx].map(|gradient| &gradient.as_ref().unwrap().matrix);
    let matrices: [&Matrix; 3] = [&forward.projections[0].y, &frozen.y.matrix, &w];
    matrices.into_iter().chain(gradients).flat_map(|matrix| matrix.data.bytes().to_vec()).collect()
}

fn threads_get_the_results_of_one_after_the_other<D: TestDevice>(device: &Tested<D>) {
    let rounds = if D::SIZE == Size::Small { 2 } else { 20 };
    // Scratch memory of different sizes.
    let problems = [(20, 37, 29, 5), (67, 20, 93, 20)].map(|(rows, inputs, outputs, rank)| {
        Problem::new(rows, inputs, outputs, rank).dtypes((DType::Bf16, DType::F32)).dropout(0.25)
    });
    let expected = problems.each_ref().map(|problem| results(device, problem));
    std::thread::scope(|scope| {
        for (problem, expected) in problems.iter().zip(&expected) {
            scope.spawn(move || {
                for _ in 0..rounds {
                    assert!(results(device, problem) == *expected, "{} {problem:?}", D::NAME);
                }
            });
        }
    });
}
