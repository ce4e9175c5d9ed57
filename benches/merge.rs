//! Merging an adapter into a weight, taking it out again, and switching, against a separate product and addition.
//!
//! Runs on the CPU, and on GPU 0 if there is one; `LORA_BENCH_DEVICE=cpu|cuda` chooses. `LORA_BENCH_GRID=full` times every
//! layer and rank, `LORA_BENCH_SMOKE=1` or `--test` tiny shapes; `LORA_BENCH_DTYPE=f32,f16,bf16` chooses element types.

#[allow(dead_code, reason = "each bench uses a part")]
mod common;

use common::criterion_cpu::configuration;
use common::grid::{Size, Target, dtypes, layers};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::{bf16, f16};
use lora_kernels::cpu::Cpu;
use lora_kernels::restore::{RestoreMethod, RestoreRecord};
use lora_kernels::{Adapter, Backend, DType, Element, MatrixMut, MatrixRef, WeightUpdate};
use lora_measure::inputs::{Inputs, MERGE_SCALE};
use lora_measure::{Pass, Problem, System, cpu};

fn merge(criterion: &mut Criterion) {
    if Target::Cpu.is_wanted() {
        for layer in layers(Size::from_environment().problems(Target::Cpu)) {
            for dtype in dtypes(&[DType::F32, DType::Bf16]) {
                match dtype {
                    DType::F32 => group::<f32>(criterion, layer),
                    DType::F16 => group::<f16>(criterion, layer),
                    DType::Bf16 => group::<bf16>(criterion, layer),
                }
            }
        }
    }
    #[cfg(feature = "cuda")]
    common::cuda::merge::bench(criterion);
}

fn group<T: Element>(criterion: &mut Criterion, layer: Problem) {
    let Problem { k, n, r, .. } = layer;
    let mut group = criterion.benchmark_group(format!("merge/cpu-{}/{k}x{n}-r{r}", T::DTYPE));
    // W is read once and written once.
    group.throughput(Throughput::Bytes((2 * k * n * size_of::<T>()) as u64));
    let Inputs { mut w, a, b, .. } = Inputs::<T>::new(layer);
    let backend = Cpu::new();

    let mut separate = cpu::Layer::<T>::new(layer);
    group.bench_function(System::Unfused.name(), |bencher| {
        bencher.iter(|| separate.run(System::Unfused, Pass::Merge, 0.0).expect("shapes fit"));
    });

    // Every function alternates between an update and its opposite, so that the weights stay where they are.
    let mut sign = 1.0;
    group.bench_function("fused-switch", |bencher| {
        bencher.iter(|| {
            let (from, to) =
                (adapter(&a, &b, layer, sign * MERGE_SCALE), adapter(&a, &b, layer, -sign * MERGE_SCALE));
            sign = -sign;
            backend
                .update_weights(WeightUpdate::switch(weight(&mut w, layer, false), from, to))
                .expect("shapes fit")
        });
    });
    for (suffix, transposed) in [("", false), ("-out-in", true)] {
        let mut merged = false;
        group.bench_function(format!("fused{suffix}"), |bencher| {
            bencher.iter(|| {
                let (w, adapter) = (weight(&mut w, layer, transposed), adapter(&a, &b, layer, MERGE_SCALE));
                let op =
                    if merged { WeightUpdate::unmerge(w, adapter) } else { WeightUpdate::merge(w, adapter) };
                merged = !merged;
                backend.update_weights(op).expect("shapes fit")
            });
        });
        let mut record = RestoreRecord::new(match T::DTYPE {
            DType::F32 => RestoreMethod::Backup,
            DType::F16 | DType::Bf16 => RestoreMethod::Codes,
        });
        let mut recorded = false;
        group.bench_function(format!("fused-recorded{suffix}"), |bencher| {
            bencher.iter(|| {
                let (w, adapter) = (weight(&mut w, layer, transposed), adapter(&a, &b, layer, MERGE_SCALE));
                let op = if recorded {
                    WeightUpdate::unmerge(w, adapter)
                } else {
                    WeightUpdate::merge(w, adapter)
                };
                recorded = !recorded;
                backend.update_weights(op.record(&mut record)).expect("shapes fit")
            });
        });
    }
    group.finish();
}

fn adapter<'a, T: Element>(a: &'a [T], b: &'a [T], layer: Problem, scale: f32) -> Adapter<'a> {
    Adapter { a: view(a, layer.k, layer.r), b: view(b, layer.r, layer.n), scale }
}

fn view<T: Element>(data: &[T], rows: usize, cols: usize) -> MatrixRef<'_> {
    MatrixRef::new(data, rows, cols).expect("the buffer fits the layer")
}

/// W \[in, out\], stored so or as \[out, in\], nn.Linear's way.
fn weight<T: Element>(data: &mut [T], layer: Problem, transposed: bool) -> MatrixMut<'_> {
    let (rows, cols) = if transposed { (layer.n, layer.k) } else { (layer.k, layer.n) };
    let matrix = MatrixMut::new(data, rows, cols).expect("the buffer fits the layer");
    if transposed { matrix.t() } else { matrix }
}

criterion_group! {
    name = benches;
    config = configuration();
    targets = merge
}
criterion_main!(benches);
