//! One Criterion group a problem, with every system in it, timed with events.

use super::device::{Device, Scalar};
use super::layer::Layer;
use super::timer::Timer;
use crate::common::grid::{Size, Target, dtypes};
use criterion::{BenchmarkId, Criterion, Throughput};
use half::{bf16, f16};
use lora_kernels::DType;
use lora_measure::{Pass, Problem, System};
use std::time::Duration;

/// Times one pass of all systems on GPU 0, if there is one.
pub fn bench(criterion: &mut Criterion, pass: Pass) {
    if !Target::Cuda.is_wanted() {
        return;
    }
    let Some(mut device) = Device::open().expect("opening the GPU") else { return };
    for problem in Size::from_environment().problems(Target::Cuda) {
        for dtype in dtypes(&[DType::Bf16]) {
            match dtype {
                DType::F32 => group::<f32>(criterion, &mut device, pass, problem),
                DType::F16 => group::<f16>(criterion, &mut device, pass, problem),
                DType::Bf16 => group::<bf16>(criterion, &mut device, pass, problem),
            }
        }
    }
}

fn group<T: Scalar>(criterion: &mut Criterion, device: &mut Device, pass: Pass, problem: Problem) {
    let Problem { m, k, n, .. } = problem;
    let mut group = criterion.benchmark_group(format!("{}/cuda-{}/{problem}", pass.name(), T::DTYPE));
    // The frozen product's.
    group.throughput(Throughput::Elements(2 * (m * k * n) as u64));
    let mut timer = Timer::new(device).expect("the timer");
    let mut layer = Layer::<T>::new(device, problem).expect("device memory");
    for probability in [0.0, 0.1] {
        for system in System::ALL {
            if Layer::<T>::has(system, probability) {
                let id = BenchmarkId::new(system.name(), format!("p={probability}"));
                layer.round(device, system, Pass::Forward, probability).expect("the forward");
                group.bench_function(id, |bencher| {
                    bencher.iter_custom(|runs| {
                        let enqueue =
                            || (0..runs).try_for_each(|_| layer.run(device, system, pass, probability));
                        milliseconds(timer.time(enqueue).expect("the measured work"))
                    });
                });
            }
        }
    }
    group.finish();
}

pub fn milliseconds(value: f64) -> Duration {
    Duration::from_secs_f64(value / 1e3)
}
