//! Steps of plans, timed one by one.

use super::device::{Device, Scalar, driver_version};
use super::layer::Matrices;
use crate::common::grid::{Size, Target, dtypes};
use crate::common::traffic;
use anyhow::Result;
use half::{bf16, f16};
use lora_kernels::cuda::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use lora_kernels::cuda::driver::DriverExecutor;
use lora_kernels::cuda::executor::Executor;
use lora_kernels::cuda::plan::{Plan, backward::backward, forward::forward, weights};
use lora_kernels::cuda::step::{F32Math, Product, Step};
use lora_kernels::memory::{Raw, RawBuffer};
use lora_kernels::ops::{Backward, Output};
use lora_kernels::{Adapter, DType, Dropout, Forward, Layout, MatrixMut, MatrixRef, WeightUpdate};
use lora_measure::Problem;
use lora_measure::inputs::{MERGE_SCALE, SCALE};
use lora_measure::origin::commit;
use lora_measure::record::{quartiles, rounded};
use serde_json::{Value, json};

const PROBABILITIES: [f32; 2] = [0.0, 0.1];

/// Times all kernels on GPU 0, if there is one.
pub fn run() -> Result<()> {
    let Some(device) = Device::open()? else { return Ok(()) };
    let mut bench = Bench {
        executor: DriverExecutor::new(device.stream.clone())?,
        rounds: std::env::var("LORA_BENCH_ROUNDS").map_or(Ok(10), |rounds| rounds.parse())?,
        copy: 0.0,
        rows: Vec::new(),
        device,
    };
    bench.copy = bench.copy_speed()?;
    println!("a copy in device memory: {:.0} GB/s\n", bench.copy);
    println!(
        "{:<22} {:>4}  {:<26} {:>10} {:>10} {:>8}  of a copy",
        "problem", "p", "kernel", "µs", "MB", "GB/s"
    );
    for problem in Size::from_environment().problems(Target::Cuda) {
        for dtype in dtypes(&[DType::Bf16]) {
            match dtype {
                DType::F32 => bench.measure::<f32>(problem),
                DType::F16 => bench.measure::<f16>(problem),
                DType::Bf16 => bench.measure::<bf16>(problem),
            }?;
        }
    }
    if let Ok(path) = std::env::var("LORA_BENCH_JSON") {
        let document = json!({
            "backend": "cuda",
            "device": bench.device.name,
            "driver": driver_version(),
            "commit": commit(),
            "copy_gb_per_s": rounded(bench.copy, 1),
            "kernels": bench.rows,
        });
        std::fs::write(path, serde_json::to_string_pretty(&document)? + "\n")?;
    }
    Ok(())
}

struct Bench {
    device: Device,
    executor: DriverExecutor,
    rounds: usize,
    /// Speed of a copy in GB/s.
    copy: f64,
    rows: Vec<Value>,
}

impl Bench {
    /// GB/s of a copy, reading and writing counted, far beyond the cache.
    fn copy_speed(&self) -> Result<f64> {
        let bytes = (4 * self.device.cache_bytes).max(256 << 20);
        let (from, mut to) = (self.device.zeros::<f32>(bytes / 4)?, self.device.zeros::<f32>(bytes / 4)?);
        let mut times = Vec::new();
        for _ in 0..=self.rounds {
            let start = self.device.mark()?;
            self.device.stream.memcpy_dtod(&from, &mut to)?;
            let end = self.device.mark()?;
            times.push(f64::from(start.elapsed_ms(&end)?) * 1e3);
        }
        Ok(speed(2 * bytes as u64, quartiles(times)[1]))
    }

    fn measure<T: Scalar>(&mut self, problem: Problem) -> Result<()> {
        let sets = Matrices::<T>::sets(&self.device, problem)?;
        let stream = self.device.stream.clone();
        let sets: Vec<_> = sets.iter().map(|set| Addresses::new(&stream, set, problem)).collect();
        for probability in PROBABILITIES {
            let dropout = (probability > 0.0).then(|| Dropout::new(probability, 7, 0)).transpose()?;
            let plans = self
                .plans(&sets, |set, base| Ok(forward(&set.forward(dropout).into(), F32Math::Exact, base)?))?;
            self.time_steps::<T>(problem, probability, &plans)?;
            let plans = self.plans(&sets, |set, base| {
                Ok(backward(&set.backward(dropout).into(), F32Math::Exact, base)?)
            })?;
            self.time_steps::<T>(problem, probability, &plans)?;
        }
        let plans = self.plans(&sets, |set, _| {
            let step = weights::update(&set.merge(), None, &weights::UpdateMemory::default(), false)?;
            Ok(Plan { steps: vec![step], workspace_bytes: 0 })
        })?;
        self.time_steps::<T>(problem, 0.0, &plans)?;
        // The matrices are freed after this.
        Ok(stream.synchronize()?)
    }

    /// The same plan for every set of matrices.
    fn plans(
        &mut self,
        sets: &[Addresses],
        plan: impl Fn(&Addresses, u64) -> Result<Plan>,
    ) -> Result<Vec<Plan>> {
        let bytes = plan(&sets[0], 0)?.workspace_bytes;
        let base = self.executor.workspace(bytes)?;
        sets.iter().map(|set| plan(set, base)).collect()
    }

    /// Each step of the plan on its own, on one set of matrices after the other. Scratch memory is the same for all
    /// sets, as it is from layer to layer in training: small partial sums may be read from the cache.
    fn time_steps<T: Scalar>(&mut self, problem: Problem, probability: f32, plans: &[Plan]) -> Result<()> {
        for step in plans.iter().flat_map(|plan| &plan.steps) {
            self.executor.run(step)?;
        }
        for index in 0..plans[0].steps.len() {
            let steps: Vec<_> = plans.iter().map(|plan| plan.steps[index].clone()).collect();
            for (name, steps) in variants(steps) {
                let Some(bytes) = traffic::bytes::<T>(&steps[0]) else { continue };
                let mut times = Vec::new();
                for _ in 0..self.rounds {
                    let start = self.device.mark()?;
                    for step in &steps {
                        self.executor.run(step)?;
                    }
                    let end = self.device.mark()?;
                    times.push(f64::from(start.elapsed_ms(&end)?) * 1e3 / steps.len() as f64);
                }
                self.report(problem, T::DTYPE, probability, &name, bytes, quartiles(times));
            }
        }
        Ok(())
    }

    fn report(
        &mut self,
        problem: Problem,
        dtype: DType,
        probability: f32,
        name: &str,
        bytes: u64,
        [low, median, high]: [f64; 3],
    ) {
        let speed = speed(bytes, median);
        println!(
            "{:<22} {probability:>4}  {name:<26} {median:>10.2} {:>10.3} {speed:>8.0}  {:.0}%",
            problem.to_string(),
            bytes as f64 / 1e6,
            speed / self.copy * 100.0
        );
        let Problem { m, k, n, r } = problem;
        self.rows.push(json!({
            "kernel": name,
            "operation": traffic::operation(name),
            "m": m, "k": k, "n": n, "r": r,
            "dtype": dtype.to_string(),
            "p": rounded(f64::from(probability), 3),
            "microseconds": rounded(median, 3),
            "microseconds_quartiles": [rounded(low, 3), rounded(high, 3)],
            "bytes": bytes,
            "gb_per_s": rounded(speed, 1),
            "of_copy": rounded(speed / self.copy, 3),
            "rounds": self.rounds,
        }));
    }
}

/// The same step for every set of matrices, named; a product both with β = 0 and with β = 1.
fn variants(steps: Vec<Step>) -> Vec<(String, Vec<Step>)> {
    let product = |accumulate| {
        let steps = steps.iter().map(|step| match step {
            Step::Product(product) => Step::Product(Product { accumulate, ..product.clone() }),
            other => other.clone(),
        });
        (format!("product_{}", if accumulate { "beta1" } else { "beta0" }), steps.collect())
    };
    match &steps[0] {
        Step::Product(_) => vec![product(false), product(true)],
        Step::Launch(launch) => vec![(launch.kernel.clone(), steps)],
        Step::Zero(_) => Vec::new(),
    }
}

/// GB/s.
fn speed(bytes: u64, microseconds: f64) -> f64 {
    bytes as f64 / microseconds / 1e3
}

/// The matrices of one layer as bare addresses.
struct Addresses {
    problem: Problem,
    x: RawBuffer,
    w: RawBuffer,
    a: RawBuffer,
    b: RawBuffer,
    dy: RawBuffer,
    y: RawBuffer,
    s: RawBuffer,
    dx: RawBuffer,
    da: RawBuffer,
    db: RawBuffer,
}

impl Addresses {
    fn new<T: Scalar>(stream: &CudaStream, set: &Matrices<T>, problem: Problem) -> Self {
        let raw = |slice: &CudaSlice<T>| RawBuffer {
            address: slice.device_ptr(stream).0,
            len: slice.len(),
            dtype: T::DTYPE,
        };
        Addresses {
            problem,
            x: raw(&set.x),
            w: raw(&set.w),
            a: raw(&set.a),
            b: raw(&set.b),
            dy: raw(&set.dy),
            y: raw(&set.y),
            s: raw(&set.s),
            dx: raw(&set.dx),
            da: raw(&set.da),
            db: raw(&set.db),
        }
    }

    fn adapter(&self, scale: f32) -> Adapter<'static, Raw> {
        let Problem { k, n, r, .. } = self.problem;
        Adapter { a: read(self.a, r, k).t(), b: read(self.b, n, r).t(), scale }
    }

    fn forward(&self, dropout: Option<Dropout>) -> Forward<'static, Raw> {
        let Problem { m, k, n, r } = self.problem;
        Forward {
            x: read(self.x, m, k),
            w: read(self.w, n, k).t(),
            adapter: self.adapter(SCALE),
            bias: None,
            dropout,
            y: write(self.y, m, n),
            s: Some(write(self.s, m, r)),
        }
    }

    fn backward(&self, dropout: Option<Dropout>) -> Backward<'static, Raw> {
        let Problem { m, k, n, r } = self.problem;
        Backward {
            x: Some(read(self.x, m, k)),
            w: read(self.w, n, k).t(),
            adapter: self.adapter(SCALE),
            dropout,
            dy: read(self.dy, m, n),
            s: Some(read(self.s, m, r)),
            dx: Some(Output::overwrite(write(self.dx, m, k))),
            da: Some(Output::overwrite(write(self.da, r, k).t())),
            db: Some(Output::overwrite(write(self.db, n, r).t())),
            dbias: None,
        }
    }

    fn merge(&self) -> WeightUpdate<'static, Raw, lora_kernels::cuda::engine::RawCodes> {
        let Problem { k, n, .. } = self.problem;
        WeightUpdate::merge(write(self.w, n, k).t(), self.adapter(MERGE_SCALE))
    }
}

fn read(buffer: RawBuffer, rows: usize, cols: usize) -> MatrixRef<'static, Raw> {
    MatrixRef::from_buffer(buffer, Layout::packed(rows, cols).expect("small"))
        .expect("the buffer fits the problem")
}

fn write(buffer: RawBuffer, rows: usize, cols: usize) -> MatrixMut<'static, Raw> {
    MatrixMut::from_buffer(buffer, Layout::packed(rows, cols).expect("small"))
        .expect("the buffer fits the problem")
}
