//! One Criterion group a problem and element type, with every system in it.

use super::grid::{Size, Target, dtypes};
use criterion::{BenchmarkId, Criterion, Throughput};
use half::{bf16, f16};
use lora_kernels::{DType, Element};
use lora_measure::cpu::Layer;
use lora_measure::{Pass, Problem, System};
use std::time::Duration;

/// Times one pass of all systems on the CPU, without dropout and with p = 0.1.
pub fn bench(criterion: &mut Criterion, pass: Pass) {
    if !Target::Cpu.is_wanted() {
        return;
    }
    for problem in Size::from_environment().problems(Target::Cpu) {
        for dtype in dtypes(&[DType::F32, DType::Bf16]) {
            match dtype {
                DType::F32 => group::<f32>(criterion, pass, problem),
                DType::F16 => group::<f16>(criterion, pass, problem),
                DType::Bf16 => group::<bf16>(criterion, pass, problem),
            }
        }
    }
}

/// Few samples: the CPU takes up to seconds a run on the large problems.
pub fn configuration() -> Criterion {
    let criterion = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500));
    match Size::from_environment() {
        Size::Smoke => {
            criterion.measurement_time(Duration::from_millis(1)).warm_up_time(Duration::from_millis(1))
        }
        Size::Default | Size::Full => criterion.measurement_time(Duration::from_secs(2)),
    }
}

fn group<T: Element>(criterion: &mut Criterion, pass: Pass, problem: Problem) {
    let Problem { m, k, n, .. } = problem;
    let mut group = criterion.benchmark_group(format!("{}/cpu-{}/{problem}", pass.name(), T::DTYPE));
    // The frozen product's.
    group.throughput(Throughput::Elements(2 * (m * k * n) as u64));
    let mut layer = Layer::<T>::new(problem);
    for probability in [0.0, 0.1] {
        for system in System::ALL {
            if Layer::<T>::has(system, probability) {
                let id = BenchmarkId::new(system.name(), format!("p={probability}"));
                // The backward of the baselines reads what the forward left.
                layer.run(system, Pass::Forward, probability).expect("shapes fit");
                group.bench_function(id, |bencher| {
                    bencher.iter(|| layer.run(system, pass, probability).expect("shapes fit"))
                });
            }
        }
    }
    group.finish();
}
