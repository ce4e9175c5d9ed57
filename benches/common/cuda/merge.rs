//! Merging, unmerging and switching on a GPU.

use super::criterion::milliseconds;
use super::device::{Device, Scalar};
use super::layer::{Layer, Matrices, view, view_mut};
use super::timer::Timer;
use crate::common::grid::{Size, Target, dtypes, layers};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use half::{bf16, f16};
use lora_kernels::cuda::DeviceCodes;
use lora_kernels::restore::{RestoreMethod, RestoreRecord};
use lora_kernels::{Adapter, Backend, DType, WeightUpdate};
use lora_measure::inputs::MERGE_SCALE;
use lora_measure::{Pass, Problem, System};

/// Times weight updates on GPU 0, if there is one.
pub fn bench(criterion: &mut Criterion) {
    if !Target::Cuda.is_wanted() {
        return;
    }
    let Some(mut device) = Device::open().expect("opening the GPU") else { return };
    for layer in layers(Size::from_environment().problems(Target::Cuda)) {
        for dtype in dtypes(&[DType::Bf16]) {
            match dtype {
                DType::F32 => group::<f32>(criterion, &mut device, layer),
                DType::F16 => group::<f16>(criterion, &mut device, layer),
                DType::Bf16 => group::<bf16>(criterion, &mut device, layer),
            }
        }
    }
}

fn group<T: Scalar>(criterion: &mut Criterion, device: &mut Device, layer: Problem) {
    let Problem { k, n, r, .. } = layer;
    let mut group = criterion.benchmark_group(format!("merge/cuda-{}/{k}x{n}-r{r}", T::DTYPE));
    // W is read once and written once.
    group.throughput(Throughput::Bytes((2 * k * n * size_of::<T>()) as u64));
    let mut matrices = Layer::<T>::new(device, layer).expect("device memory");
    let mut timer = Timer::new(device).expect("the timer");
    for system in [System::Unfused, System::Accumulated, System::Fused] {
        group.bench_function(system.name(), |bencher| {
            bencher.iter_custom(|runs| {
                let enqueue = || (0..runs).try_for_each(|_| matrices.run(device, system, Pass::Merge, 0.0));
                milliseconds(timer.time(enqueue).expect("the measured work"))
            });
        });
    }
    let sets = matrices.sets_mut();
    timed(&mut group, device, sets, "fused-switch", |device, set, _, sign| {
        update(device, set, layer, Kind::Switch(sign), None);
    });
    let method = match T::DTYPE {
        DType::F32 => RestoreMethod::Backup,
        DType::F16 | DType::Bf16 => RestoreMethod::Codes,
    };
    let mut records: Vec<_> = sets.iter().map(|_| RestoreRecord::<DeviceCodes>::new(method)).collect();
    timed(&mut group, device, sets, "fused-recorded", |device, set, number, sign| {
        let kind = if sign > 0.0 { Kind::Merge } else { Kind::Unmerge };
        update(device, set, layer, kind, Some(&mut records[number]));
    });
    group.finish();
}

/// Runs go through the sets in turn. The sign is that of Δ: it alternates for each set, so that weights stay where they
/// are.
fn timed<T>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    device: &mut Device,
    sets: &mut [Matrices<T>],
    name: &str,
    mut run: impl FnMut(&mut Device, &mut Matrices<T>, usize, f32),
) {
    let mut done = 0;
    let mut timer = Timer::new(device).expect("the timer");
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|runs| {
            let enqueue = || {
                for _ in 0..runs {
                    let (number, sign) =
                        (done % sets.len(), if (done / sets.len()).is_multiple_of(2) { 1.0 } else { -1.0 });
                    run(device, &mut sets[number], number, sign);
                    done += 1;
                }
                Ok(())
            };
            milliseconds(timer.time(enqueue).expect("the measured work"))
        });
    });
}

enum Kind {
    Merge,
    Unmerge,
    /// From this sign of Δ to the other.
    Switch(f32),
}

fn update<T: Scalar>(
    device: &mut Device,
    set: &mut Matrices<T>,
    layer: Problem,
    kind: Kind,
    record: Option<&mut RestoreRecord<DeviceCodes>>,
) {
    let Problem { k, n, r, .. } = layer;
    let Matrices { w, a, b, .. } = set;
    let fits = "the slice fits the problem";
    let (a, b) = (view(a, r, k).expect(fits).t(), view(b, n, r).expect(fits).t());
    let adapter = |scale| Adapter { a, b, scale };
    let w = view_mut(w, n, k).expect(fits).t();
    let op = match kind {
        Kind::Merge => WeightUpdate::merge(w, adapter(MERGE_SCALE)),
        Kind::Unmerge => WeightUpdate::unmerge(w, adapter(MERGE_SCALE)),
        Kind::Switch(sign) => {
            WeightUpdate::switch(w, adapter(sign * MERGE_SCALE), adapter(-sign * MERGE_SCALE))
        }
    };
    let op = match record {
        Some(record) => op.record(record),
        None => op,
    };
    device.cuda.update_weights(op).expect("the update");
}
