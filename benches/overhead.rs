//! LoRA's overhead over the frozen layer, as ratios in one run.
//!
//! Every round times all systems one after the other, so that whatever slows the machine for a while slows them alike; a
//! ratio compares two times of one round. Prints a table; `LORA_BENCH_JSON=FILE` also writes the records, after every
//! problem. `LORA_BENCH_SECONDS=N` begins no problem after N seconds and lists the others.
//! `LORA_BENCH_DEVICE=cpu|cuda` (default cpu), `LORA_BENCH_DTYPE=f32,f16,bf16` (default f32 and bf16),
//! `LORA_BENCH_ROUNDS`, `LORA_BENCH_GRID=full`, `LORA_BENCH_SMOKE=1`. On a GPU, `LORA_BENCH_GRAPHS=1` replays captured
//! graphs instead of launching kernel by kernel.

#[allow(dead_code, reason = "each bench uses a part")]
mod common;

use common::budget::Budget;
use common::grid::{Size, Target, dtypes};
use common::report::{Report, print_not_run};
use half::{bf16, f16};
use lora_kernels::{DType, Element};
use lora_measure::cpu::Layer;
use lora_measure::origin::{commit, processor};
use lora_measure::record::{Case, Record, document};
use lora_measure::{Pass, Problem, System};
use serde_json::json;
use std::time::Instant;

const PROBABILITIES: [f32; 2] = [0.0, 0.1];

/// Times of forward and backward in milliseconds, one of each a round.
type Times = [Vec<f64>; 2];

fn main() -> anyhow::Result<()> {
    let size = Size::from_environment();
    let rounds = match std::env::var("LORA_BENCH_ROUNDS") {
        Ok(rounds) => rounds.parse()?,
        Err(_) if size == Size::Smoke => 1,
        Err(_) => 15,
    };
    anyhow::ensure!(rounds > 0, "LORA_BENCH_ROUNDS is 0, but there is no median of nothing");
    match Target::from_environment() {
        None | Some(Target::Cpu) => on_cpu(size, rounds),
        Some(Target::Cuda) => on_cuda(size, rounds),
    }
}

fn on_cpu(size: Size, rounds: usize) -> anyhow::Result<()> {
    let (budget, report) = (Budget::from_environment(), Report::from_environment());
    let origin = json!({
        "backend": "cpu",
        "device": processor(),
        "threads": rayon::current_num_threads(),
        "commit": commit(),
    });
    let mut records = Vec::new();
    let problems = size.problems(Target::Cpu);
    report.write(document(origin.clone(), &records), &problems)?;
    print_header();
    let not_run = budget.run(&problems, |&problem, rest| {
        for dtype in dtypes(&[DType::F32, DType::Bf16]) {
            match dtype {
                DType::F32 => measure::<f32>(problem, rounds, &mut records),
                DType::F16 => measure::<f16>(problem, rounds, &mut records),
                DType::Bf16 => measure::<bf16>(problem, rounds, &mut records),
            }
        }
        report.write(document(origin.clone(), &records), rest)
    })?;
    print_not_run(not_run);
    Ok(())
}

#[cfg(feature = "cuda")]
fn on_cuda(size: Size, rounds: usize) -> anyhow::Result<()> {
    use common::clocks;
    use common::cuda::{device, overhead, timer::Timer};
    let (budget, report) = (Budget::from_environment(), Report::from_environment());
    let graphs = std::env::var("LORA_BENCH_GRAPHS").is_ok_and(|value| value == "1");
    let Some(mut device) = device::Device::open()? else { return Ok(()) };
    let mut timer = Timer::new(&device)?;
    let cases = cases(overhead::has);
    let mut origin = json!({
        "backend": "cuda",
        "device": if graphs { format!("{}, CUDA graphs", device.name) } else { device.name.clone() },
        "driver": device::driver_version(),
        "commit": commit(),
        "clocks": [],
    });
    let mut records = Vec::new();
    let problems = size.problems(Target::Cuda);
    report.write(document(origin.clone(), &records), &problems)?;
    print_header();
    let not_run = budget.run(&problems, |&problem, rest| {
        let before = clocks::now(&device.pci_address);
        for dtype in dtypes(&[DType::F32, DType::Bf16]) {
            let (device, timer) = (&mut device, &mut timer);
            let times = match dtype {
                DType::F32 => overhead::times::<f32>(device, timer, problem, &cases, rounds, graphs),
                DType::F16 => overhead::times::<f16>(device, timer, problem, &cases, rounds, graphs),
                DType::Bf16 => overhead::times::<bf16>(device, timer, problem, &cases, rounds, graphs),
            }?;
            keep(problem, dtype, &cases, &times, &mut records);
        }
        let clocks = json!({
            "problem": problem.to_string(), "before": before, "after": clocks::now(&device.pci_address),
        });
        origin["clocks"].as_array_mut().expect("made above").push(clocks);
        let (late, measured) = timer.late();
        (origin["measurements"], origin["measurements_begun_late"]) = (json!(measured), json!(late));
        report.write(document(origin.clone(), &records), rest)
    })?;
    print_not_run(not_run);
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn on_cuda(_: Size, _: usize) -> anyhow::Result<()> {
    anyhow::bail!("LORA_BENCH_DEVICE=cuda, but this benchmark was built without the feature `cuda`")
}

/// Systems and dropout probabilities, the frozen layer first.
fn cases(has: impl Fn(System, f32) -> bool) -> Vec<(System, f32)> {
    let all = PROBABILITIES.into_iter().flat_map(|p| System::ALL.map(|system| (system, p)));
    all.filter(|&(system, probability)| has(system, probability)).collect()
}

fn measure<T: Element>(problem: Problem, rounds: usize, records: &mut Vec<Record>) {
    let mut layer = Layer::<T>::new(problem);
    let cases = cases(Layer::<T>::has);
    let mut times = vec![[Vec::new(), Vec::new()]; cases.len()];
    // The first round warms caches, pages and scratch memory.
    for round in 0..=rounds {
        for (&(system, probability), [forward, backward]) in cases.iter().zip(&mut times) {
            for (pass, times) in [(Pass::Forward, forward), (Pass::Backward, backward)] {
                let start = Instant::now();
                layer.run(system, pass, probability).expect("shapes fit");
                if round > 0 {
                    times.push(start.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
    }
    keep(problem, T::DTYPE, &cases, &times, records);
}

/// Prints and keeps the times of all cases of one problem, with their ratios to those of the first.
fn keep(problem: Problem, dtype: DType, cases: &[(System, f32)], times: &[Times], records: &mut Vec<Record>) {
    let frozen = &times[0];
    let sums = |[forward, backward]: &Times| -> Vec<f64> {
        forward.iter().zip(backward).map(|(forward, backward)| forward + backward).collect()
    };
    for (&(system, probability), both) in cases.iter().zip(times) {
        let step = sums(both);
        for (pass, times, frozen) in
            [(Pass::Forward, &both[0], &frozen[0]), (Pass::Step, &step, &sums(frozen))]
        {
            let case = Case { problem, dtype, probability, pass, system };
            let record = Record::new(case, times, frozen);
            print_row(&record);
            records.push(record);
        }
    }
}

fn print_header() {
    println!(
        "{:<22} {:<5} {:>4}  {:<8} {:<12} {:>10}  {:>6}  quartiles",
        "problem", "dtype", "p", "pass", "system", "ms", "ratio"
    );
}

fn print_row(record: &Record) {
    let Record { case: Case { problem, dtype, probability, pass, system }, milliseconds, ratios, .. } =
        record;
    println!(
        "{:<22} {:<5} {:>4}  {:<8} {:<12} {:>10.4}  {:>6.3}  {:.3}–{:.3}",
        problem.to_string(),
        dtype.to_string(),
        probability,
        pass.name(),
        system.name(),
        milliseconds[1],
        ratios[1],
        ratios[0],
        ratios[2]
    );
}
