//! Steps of plans, timed one by one; and the library's products that the design chooses between.

use super::device::{Device, Pool, Scalar, driver_version};
use super::layer::Matrices;
use super::timer::Timer;
use crate::common::budget::Budget;
use crate::common::clocks;
use crate::common::grid::{Size, Target, dtypes};
use crate::common::matrices::Addresses;
use crate::common::products::{self, Family, Padded};
use crate::common::report::{Report, print_not_run};
use anyhow::Result;
use half::{bf16, f16};
use lora_kernels::cuda::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use lora_kernels::cuda::driver::DriverExecutor;
use lora_kernels::cuda::executor::Executor;
use lora_kernels::cuda::kernel::Kernel;
use lora_kernels::cuda::plan::{Plan, Settings, backward::backward, forward::forward, model, weights};
use lora_kernels::cuda::step::{F32Math, Step};
use lora_kernels::memory::RawBuffer;
use lora_kernels::{DType, Dropout};
use lora_measure::Problem;
use lora_measure::origin::commit;
use lora_measure::record::{quartiles, rounded};
use serde_json::{Value, json};

const PROBABILITIES: [f32; 2] = [0.0, 0.1];

/// Times all kernels on GPU 0, if there is one.
pub fn run() -> Result<()> {
    let budget = Budget::from_environment();
    let Some(device) = Device::open()? else { return Ok(()) };
    let mut bench = Bench::open(device)?;
    let report = Report::from_environment();
    let problems = Size::from_environment().problems(Target::Cuda);
    report.write(bench.document(), &problems)?;
    println!(
        "{:<22} {:>4}  {:<26} {:>10} {:>10} {:>8}  of a copy",
        "problem", "p", "kernel", "µs", "MB", "GB/s"
    );
    let not_run = budget.run(&problems, |&problem, rest| {
        let before = clocks::now(&bench.device.pci_address);
        for dtype in dtypes(&[DType::Bf16]) {
            match dtype {
                DType::F32 => bench.measure::<f32>(problem),
                DType::F16 => bench.measure::<f16>(problem),
                DType::Bf16 => bench.measure::<bf16>(problem),
            }?;
        }
        let after = clocks::now(&bench.device.pci_address);
        bench.clocks.push(json!({ "problem": problem.to_string(), "before": before, "after": after }));
        report.write(bench.document(), rest)
    })?;
    print_not_run(not_run);
    Ok(())
}

struct Bench {
    device: Device,
    executor: DriverExecutor,
    timer: Timer,
    rounds: usize,
    /// Speed of a copy in GB/s.
    copy: f64,
    rows: Vec<Value>,
    products: Vec<Value>,
    clocks: Vec<Value>,
}

impl Bench {
    fn open(device: Device) -> Result<Self> {
        let mut timer = Timer::new(&device)?;
        let rounds = rounds()?;
        let copy = copy_speed(&device, &mut timer, rounds)?;
        println!("a copy in device memory: {copy:.0} GB/s\n");
        Ok(Bench {
            executor: DriverExecutor::new(device.stream.clone())?,
            timer,
            rounds,
            copy,
            rows: Vec::new(),
            products: Vec::new(),
            clocks: Vec::new(),
            device,
        })
    }

    fn document(&self) -> Value {
        let (late, measured) = self.timer.late();
        json!({
            "backend": "cuda",
            "device": self.device.name,
            "driver": driver_version(),
            "commit": commit(),
            "copy_gb_per_s": rounded(self.copy, 1),
            "measurements": measured,
            "measurements_begun_late": late,
            "clocks": self.clocks,
            "products": self.products,
            "kernels": self.rows,
        })
    }

    fn measure<T: Scalar>(&mut self, problem: Problem) -> Result<()> {
        let matrices = Matrices::<T>::sets(&self.device, problem)?;
        let stream = self.device.stream.clone();
        let sets: Vec<_> = matrices.iter().map(|set| addresses(&stream, set, problem)).collect();
        self.measure_products::<T>(&sets)?;
        for probability in PROBABILITIES {
            let dropout = (probability > 0.0).then(|| Dropout::new(probability, 7, 0)).transpose()?;
            let settings = Settings { target: self.executor.target(), f32_math: F32Math::Exact };
            let plans =
                self.plans(&sets, |set, base| Ok(forward(&set.forward(dropout).into(), settings, base)?))?;
            self.time_steps::<T>(problem, "forward", probability, &plans)?;
            let plans =
                self.plans(&sets, |set, base| Ok(backward(&set.backward(dropout).into(), settings, base)?))?;
            self.time_steps::<T>(problem, "backward", probability, &plans)?;
        }
        let plans = self.plans(&sets, |set, _| {
            let step = weights::update(&set.merge(), None, &weights::UpdateMemory::default(), false)?;
            Ok(Plan { steps: vec![step], workspace_bytes: 0 })
        })?;
        self.time_steps::<T>(problem, "merge", 0.0, &plans)?;
        // The matrices are freed after this.
        Ok(stream.synchronize()?)
    }

    /// The products of each pass in turn, round by round, so that a ratio compares times of one round.
    fn measure_products<T: Scalar>(&mut self, sets: &[Addresses]) -> Result<()> {
        let stream = self.device.stream.clone();
        let pool = Pool::<T>::new();
        let mut memory = Vec::new();
        for number in 0..sets.len() {
            for (matrix, elements) in Padded::elements(sets[0].problem).into_iter().enumerate() {
                memory.push(self.device.random(&pool, 8 * number + 5 + matrix, elements)?);
            }
        }
        let padded: Vec<_> = memory
            .chunks(3)
            .map(|set| {
                let [x, w, dy] = [0, 1, 2].map(|index| set[index].device_ptr(&stream).0);
                Padded { x, w, dy }
            })
            .collect();
        for family in [products::forward, products::backward] {
            let families: Vec<Family> =
                sets.iter().zip(&padded).map(|(set, padded)| family(set, padded)).collect();
            self.time_family::<T>(sets[0].problem, &families)?;
        }
        // The padded matrices are freed after this.
        Ok(stream.synchronize()?)
    }

    fn time_family<T: Scalar>(&mut self, problem: Problem, families: &[Family]) -> Result<()> {
        let count = families[0].len();
        let mut times = vec![Vec::new(); count];
        // The first round chooses algorithms.
        for round in 0..=self.rounds {
            for (index, times) in times.iter_mut().enumerate() {
                let executor = &mut self.executor;
                let milliseconds = self.timer.time(|| {
                    for family in families {
                        executor.run(&Step::Product(family[index].1.clone()))?;
                    }
                    Ok(())
                })?;
                if round > 0 {
                    times.push(milliseconds * 1e3 / families.len() as f64);
                }
            }
        }
        for ((name, product), own) in families[0].iter().zip(&times) {
            let ratios = own.iter().zip(&times[0]).map(|(own, reference)| own / reference).collect();
            let [low, median, high] = quartiles(own.clone());
            let [ratio_low, ratio, ratio_high] = quartiles(ratios);
            let operations = 2 * product.a.rows * product.a.cols * product.b.cols;
            println!(
                "{:<22}       {name:<26} {median:>10.2}  {ratio:.3}× ({ratio_low:.3}–{ratio_high:.3}) of β = 0",
                problem.to_string()
            );
            let Problem { m, k, n, .. } = problem;
            self.products.push(json!({
                "product": name,
                "m": m, "k": k, "n": n,
                "dtype": T::DTYPE.to_string(),
                "microseconds": rounded(median, 3),
                "microseconds_quartiles": [rounded(low, 3), rounded(high, 3)],
                "to_beta0": rounded(ratio, 4),
                "to_beta0_quartiles": [rounded(ratio_low, 4), rounded(ratio_high, 4)],
                "tflop_per_s": rounded(operations as f64 / median / 1e6, 1),
                "rounds": self.rounds,
            }));
        }
        Ok(())
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

    /// Each launch of the plan on its own, on one set of matrices after the other. Scratch memory is the same for all
    /// sets, as it is from layer to layer in training: small partial sums may be read from the cache.
    fn time_steps<T: Scalar>(
        &mut self,
        problem: Problem,
        pass: &str,
        probability: f32,
        plans: &[Plan],
    ) -> Result<()> {
        for step in plans.iter().flat_map(|plan| &plan.steps) {
            self.executor.run(step)?;
        }
        for index in 0..plans[0].steps.len() {
            let Step::Launch(launch) = &plans[0].steps[index] else { continue };
            let Some(bytes) = model::bytes(&plans[0].steps[index], T::DTYPE) else { continue };
            let mut times = Vec::new();
            for _ in 0..self.rounds {
                let executor = &mut self.executor;
                let milliseconds = self.timer.time(|| {
                    plans.iter().try_for_each(|plan| executor.run(&plan.steps[index])).map_err(Into::into)
                })?;
                times.push(milliseconds * 1e3 / plans.len() as f64);
            }
            let row = Row { problem, dtype: T::DTYPE, pass, probability, kernel: launch.kernel, bytes };
            self.report(&row, quartiles(times));
        }
        Ok(())
    }

    fn report(&mut self, row: &Row<'_>, [low, median, high]: [f64; 3]) {
        let &Row { problem, dtype, pass, probability, kernel, bytes } = row;
        let symbol = kernel.symbol();
        let speed = speed(bytes, median);
        println!(
            "{:<22} {probability:>4}  {symbol:<26} {median:>10.2} {:>10.3} {speed:>8.0}  {:.0}%",
            problem.to_string(),
            bytes as f64 / 1e6,
            speed / self.copy * 100.0
        );
        let Problem { m, k, n, r } = problem;
        self.rows.push(json!({
            "kernel": symbol,
            "operation": kernel.operation(),
            "pass": pass,
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

struct Row<'a> {
    problem: Problem,
    dtype: DType,
    pass: &'a str,
    probability: f32,
    kernel: Kernel,
    bytes: u64,
}

/// Of each measurement.
pub fn rounds() -> Result<usize> {
    let rounds = match std::env::var("LORA_BENCH_ROUNDS") {
        Ok(rounds) => rounds.parse()?,
        Err(_) if Size::from_environment() == Size::Smoke => 1,
        Err(_) => 10,
    };
    anyhow::ensure!(rounds > 0, "LORA_BENCH_ROUNDS is 0, but there is no median of nothing");
    Ok(rounds)
}

/// GB/s of a copy, reading and writing counted, far beyond the cache. Random data: zeros may move faster.
pub fn copy_speed(device: &Device, timer: &mut Timer, rounds: usize) -> Result<f64> {
    let elements = (4 * device.cache_bytes).max(256 << 20) / 4;
    let from = device.random(&Pool::<f32>::new(), 0, elements)?;
    let mut to = device.zeros::<f32>(elements)?;
    let mut times = Vec::new();
    for _ in 0..=rounds {
        times.push(timer.time(|| Ok(device.stream.memcpy_dtod(&from, &mut to)?))? * 1e3);
    }
    Ok(speed(8 * elements as u64, quartiles(times)[1]))
}

/// GB/s.
fn speed(bytes: u64, microseconds: f64) -> f64 {
    bytes as f64 / microseconds / 1e3
}

/// The matrices of a set as bare addresses.
pub fn addresses<T: Scalar>(stream: &CudaStream, set: &Matrices<T>, problem: Problem) -> Addresses {
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
