//! Variants of kernels on a GPU: checked, then timed, then ranked.

use super::device::{Device, driver_version};
use super::kernels::{addresses, copy_speed, rounds};
use super::layer::Matrices;
use super::timer::Timer;
use crate::common::budget::Budget;
use crate::common::clocks;
use crate::common::grid::Size;
use crate::common::matrices::Addresses;
use crate::common::report::{Report, print_not_run};
use crate::common::sweep::check::{self, Outcome};
use crate::common::sweep::launch::{Candidate, candidates};
use crate::common::sweep::ranking::{Contest, Entry, Verdict, document, groups, standings};
use crate::common::sweep::steps::{USES, Use};
use crate::common::sweep::table::variants_of;
use anyhow::{Context, Result, ensure};
use half::bf16;
use lora_kernels::cuda::cudarc::driver::{CudaSlice, DevicePtr};
use lora_kernels::cuda::driver::DriverExecutor;
use lora_kernels::cuda::executor::Executor;
use lora_kernels::cuda::plan::model;
use lora_kernels::cuda::step::Step;
use lora_kernels::{DType, Error};
use lora_measure::Problem;
use lora_measure::origin::commit;
use lora_measure::record::quartiles;
use serde_json::{Value, json};

/// Sweeps all kernels on GPU 0, if there is one.
pub fn run() -> Result<()> {
    let budget = Budget::from_environment();
    let Some(device) = Device::open()? else { return Ok(()) };
    let mut timer = Timer::new(&device)?;
    let rounds = rounds()?;
    let copy = copy_speed(&device, &mut timer, rounds)?;
    println!("a copy in device memory: {copy:.0} GB/s");
    let executor = DriverExecutor::new(device.stream.clone())?;
    let mut sweep = Sweep { device, executor, timer, rounds, copy, contests: Vec::new(), clocks: Vec::new() };
    let report = Report::from_environment();
    let problems = Size::from_environment().sweep_problems();
    report.write(sweep.document(), &problems)?;
    let not_run = budget.run(&problems, |&problem, rest| {
        sweep.problem(problem)?;
        report.write(sweep.document(), rest)
    })?;
    sweep.print_winners();
    print_not_run(not_run);
    Ok(())
}

struct Sweep {
    device: Device,
    executor: DriverExecutor,
    timer: Timer,
    rounds: usize,
    /// Speed of a copy in GB/s.
    copy: f64,
    contests: Vec<Contest>,
    clocks: Vec<Value>,
}

impl Sweep {
    fn document(&self) -> Value {
        let (late, measured) = self.timer.late();
        let origin = json!({
            "backend": "cuda",
            "device": self.device.name,
            "driver": driver_version(),
            "commit": commit(),
            "rounds": self.rounds,
            "measurements": measured,
            "measurements_begun_late": late,
            "clocks": self.clocks,
        });
        document(origin, self.copy, &self.contests)
    }

    fn problem(&mut self, problem: Problem) -> Result<()> {
        let before = clocks::now(&self.device.pci_address);
        let stream = self.device.stream.clone();
        let matrices = Matrices::<bf16>::sets(&self.device, problem)?;
        let sets: Vec<_> = matrices.iter().map(|set| addresses(&stream, set, problem)).collect();
        // What results are compared on: whole numbers, in memory of its own.
        let mut memory: Vec<CudaSlice<bf16>> = Vec::new();
        let checked = Addresses::allocate(problem, lora_kernels::DType::Bf16, |elements| {
            let slice = self.device.zeros::<bf16>(elements)?;
            let address = slice.device_ptr(&stream).0;
            memory.push(slice);
            anyhow::Ok(address)
        })?;
        check::fill_with_whole_numbers(&mut self.executor, &checked)?;
        for used in USES {
            let contest = self.contest(used, &checked, &sets)?;
            print(&contest);
            self.contests.push(contest);
        }
        let after = clocks::now(&self.device.pci_address);
        self.clocks.push(json!({ "problem": problem.to_string(), "before": before, "after": after }));
        // The matrices are freed after this.
        Ok(stream.synchronize()?)
    }

    fn contest(&mut self, used: Use, checked: &Addresses, sets: &[Addresses]) -> Result<Contest> {
        let workspace = self.executor.workspace(used.workspace_bytes(checked)?)?;
        let (before, planned) = used.steps(checked, workspace)?;
        let variants = variants_of(planned.kernel);
        let all: Vec<Candidate> =
            variants.iter().flat_map(|variant| candidates(&planned, variant, 0)).collect();
        let slab_bytes = all.iter().map(Candidate::slab_bytes).max().unwrap_or(0);
        let slabs = self.device.zeros::<f32>(slab_bytes.div_ceil(4))?;
        let slab_address = slabs.device_ptr(&self.device.stream.clone()).0;

        // Saves S of each set. dS is in scratch memory, and that of the checked matrices stays there.
        let mut launches = Vec::new();
        for set in sets {
            let (before, launch) = used.steps(set, workspace)?;
            before.iter().try_for_each(|step| self.executor.run(step))?;
            launches.push(launch);
        }
        before.iter().try_for_each(|step| self.executor.run(step))?;

        let mut right: Option<Outcome> = None;
        let mut entries = Vec::new();
        for variant in &variants {
            let checks = candidates(&planned, variant, slab_address);
            let timed: Vec<Vec<Candidate>> =
                launches.iter().map(|launch| candidates(launch, variant, slab_address)).collect();
            for (index, candidate) in checks.iter().enumerate() {
                let verdict = match check::outcome(&mut self.executor, candidate) {
                    Err(Error::CudaUnavailable(_)) if !variant.is_usual => Verdict::NotCompiled,
                    Err(error) => Verdict::Wrong(error.to_string()),
                    Ok(outcome) => match &right {
                        None => {
                            ensure!(outcome.says_something(), "{:?}: nothing to compare", planned.kernel);
                            right = Some(outcome);
                            self.time(timed.iter().map(|set| &set[index]))?
                        }
                        Some(right) => match outcome.difference(right) {
                            Some(difference) => Verdict::Wrong(difference),
                            None => self.time(timed.iter().map(|set| &set[index]))?,
                        },
                    },
                };
                entries.push(Entry::new(candidate, verdict));
            }
        }
        self.device.stream.synchronize()?;
        let bytes =
            model::bytes(&Step::Launch(planned), DType::Bf16).context("all swept kernels are known")?;
        Ok(Contest { problem: checked.problem, used, bytes, entries })
    }

    /// The same candidate on one set of matrices after the other.
    fn time<'a>(&mut self, candidates: impl Iterator<Item = &'a Candidate>) -> Result<Verdict> {
        let steps: Vec<_> = candidates.map(|candidate| Step::Launch(candidate.launch.clone())).collect();
        let mut times = Vec::new();
        for _ in 0..self.rounds {
            let executor = &mut self.executor;
            let milliseconds = self
                .timer
                .time(|| steps.iter().try_for_each(|step| executor.run(step)).map_err(Into::into))?;
            times.push(milliseconds * 1e3 / steps.len() as f64);
        }
        Ok(Verdict::Right(quartiles(times)))
    }

    fn print_winners(&self) {
        println!("\nover all problems, times to those of the planner's launch (geometric mean):");
        for group in groups(&self.contests) {
            let used = group[0].used;
            for standing in standings(&group).iter().take(3) {
                println!(
                    "{:<14} {:<9} p {:<4} {:<52} {:.3}× over {}",
                    used.operation,
                    used.pass,
                    used.probability,
                    standing.kernel,
                    standing.to_planned,
                    standing.problems
                );
            }
        }
    }
}

fn print(contest: &Contest) {
    let Contest { problem, used, entries, .. } = contest;
    println!("\n{problem} {} {} p {}", used.operation, used.pass, used.probability);
    for (entry, median) in contest.ranked().into_iter().take(3) {
        let to_planned = contest.planned().map_or(f64::NAN, |planned| median / planned);
        println!(
            "    {median:>9.2} µs  {to_planned:.3}×  {} splits {} groups {}",
            entry.kernel, entry.splits, entry.groups
        );
    }
    for entry in entries {
        if let Verdict::Wrong(why) = &entry.verdict {
            println!("    WRONG {} splits {} groups {}: {why}", entry.kernel, entry.splits, entry.groups);
        }
    }
    let missing = entries.iter().filter(|entry| entry.verdict == Verdict::NotCompiled).count();
    if missing > 0 {
        println!(
            "    {missing} launches of kernels that are not in this build: LORA_KERNELS_SWEEP=1 was not set for it"
        );
    }
}
