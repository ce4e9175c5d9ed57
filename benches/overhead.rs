//! LoRA's overhead over the frozen layer, as ratios in one run.
//!
//! Every round times all systems one after the other, so that whatever slows the machine for a while slows them alike; a
//! ratio compares two times of one round. Prints a table; `LORA_BENCH_JSON=FILE` also writes the records.
//! `LORA_BENCH_DTYPE=f32|f16|bf16` (default f32 and bf16), `LORA_BENCH_ROUNDS`, `LORA_BENCH_GRID=full`,
//! `LORA_BENCH_SMOKE=1`.

#[allow(dead_code, reason = "each bench uses a part")]
mod common;

use common::cpu::Layer;
use common::grid::{Pass, Problem, Size, System};
use common::record::{Record, document, quartiles};
use half::{bf16, f16};
use lora_kernels::Element;
use std::time::Instant;

const PROBABILITIES: [f32; 2] = [0.0, 0.1];
const SYSTEMS: [System; 5] =
    [System::Frozen, System::Library, System::Fused, System::Unfused, System::Accumulated];

fn main() -> anyhow::Result<()> {
    let size = Size::from_environment();
    let rounds = match std::env::var("LORA_BENCH_ROUNDS") {
        Ok(rounds) => rounds.parse()?,
        Err(_) if size == Size::Smoke => 1,
        Err(_) => 15,
    };
    let wanted = std::env::var("LORA_BENCH_DTYPE").unwrap_or_else(|_| "f32,bf16".into());
    let mut records = Vec::new();
    println!(
        "{:<22} {:<5} {:>4}  {:<8} {:<12} {:>10}  {:>6}  quartiles",
        "problem", "dtype", "p", "pass", "system", "ms", "ratio"
    );
    for problem in size.problems() {
        for dtype in wanted.split(',') {
            match dtype {
                "f32" => measure::<f32>(problem, rounds, &mut records),
                "f16" => measure::<f16>(problem, rounds, &mut records),
                "bf16" => measure::<bf16>(problem, rounds, &mut records),
                other => anyhow::bail!("LORA_BENCH_DTYPE: {other} is none of f32, f16, bf16"),
            }
        }
    }
    if let Ok(path) = std::env::var("LORA_BENCH_JSON") {
        let threads = rayon::current_num_threads();
        let document = document("cpu", &device(), threads, &commit(), &records);
        std::fs::write(&path, serde_json::to_string_pretty(&document)? + "\n")?;
    }
    Ok(())
}

fn measure<T: Element>(problem: Problem, rounds: usize, records: &mut Vec<Record>) {
    let mut layer = Layer::<T>::new(problem);
    let mut cases = Vec::new();
    for probability in PROBABILITIES {
        for system in SYSTEMS {
            if Layer::<T>::has(system, probability) {
                cases.push((system, probability));
            }
        }
    }
    let mut times = vec![[Vec::new(), Vec::new()]; cases.len()];
    // The first round warms caches, pages and scratch memory.
    for round in 0..=rounds {
        for (&(system, probability), [forward, backward]) in cases.iter().zip(&mut times) {
            for (pass, times) in [(Pass::Forward, forward), (Pass::Backward, backward)] {
                let start = Instant::now();
                layer.run(system, pass, probability);
                if round > 0 {
                    times.push(start.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
    }
    let frozen = times[0].clone();
    for (&(system, probability), [forward, backward]) in cases.iter().zip(&times) {
        let sums = |[forward, backward]: &[Vec<f64>; 2]| -> Vec<f64> {
            forward.iter().zip(backward).map(|(forward, backward)| forward + backward).collect()
        };
        let step = sums(&[forward.clone(), backward.clone()]);
        for (pass, times, frozen) in
            [(Pass::Forward, forward, &frozen[0]), (Pass::Step, &step, &sums(&frozen))]
        {
            let ratios = times.iter().zip(frozen).map(|(time, frozen)| time / frozen).collect();
            let record = Record {
                problem,
                dtype: T::DTYPE,
                probability,
                pass,
                system,
                milliseconds: quartiles(times.clone())[1],
                ratios: quartiles(ratios),
                rounds,
            };
            print_row(&record);
            records.push(record);
        }
    }
}

fn print_row(record: &Record) {
    let Record { problem, dtype, probability, pass, system, milliseconds, ratios, .. } = record;
    println!(
        "{:<22} {:<5} {:>4}  {:<8} {:<12} {:>10.3}  {:>6.3}  {:.3}–{:.3}",
        problem.to_string(),
        dtype.to_string(),
        probability,
        pass.name(),
        system.name(),
        milliseconds,
        ratios[1],
        ratios[0],
        ratios[2]
    );
}

/// The processor's name.
fn device() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let name = name.trim_start_matches([' ', '\t', ':']);
    if name.is_empty() { std::env::consts::ARCH.to_string() } else { name.to_string() }
}

/// From `LORA_COMMIT` where there is no repository, else from git.
fn commit() -> String {
    std::env::var("LORA_COMMIT").unwrap_or_else(|_| {
        let output = std::process::Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string()).unwrap_or_default()
    })
}
