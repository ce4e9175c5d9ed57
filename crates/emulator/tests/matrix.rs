//! Every kernel, through the planner of the CUDA backend, over element types, ragged shapes, ranks and layouts, under every
//! schedule: against an independent oracle, and with the same bits every time.
//!
//! `LORA_EMULATOR_LONG=1` tries hundreds of random schedules. To look into a failure, `LORA_EMULATOR_CASE` takes a part of
//! a case's name and `LORA_EMULATOR_SEED` the seed of the one random schedule to run.

mod operations;

use lora_emulator::{KernelLibrary, Schedule, available};
use operations::{Case, Device};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

fn schedules() -> Vec<Schedule> {
    match std::env::var("LORA_EMULATOR_SEED").map(|seed| seed.parse()) {
        Ok(seed) => vec![Schedule::random(seed.expect("LORA_EMULATOR_SEED is a number"))],
        Err(_) if std::env::var("LORA_EMULATOR_LONG").is_ok_and(|value| value == "1") => {
            Schedule::matrix(300)
        }
        Err(_) => Schedule::matrix(10),
    }
}

#[test]
fn every_kernel_under_every_schedule() {
    let test = "every_kernel_under_every_schedule";
    let Some(library) = available(test, KernelLibrary::standard()) else { return };
    let wanted = std::env::var("LORA_EMULATOR_CASE").ok();
    let chosen = |case: &Case| wanted.as_ref().is_none_or(|wanted| format!("{case:?}").contains(wanted));
    let cases: Vec<Case> = operations::matrix::cases().into_iter().filter(chosen).collect();
    let (queue, schedules) = (Mutex::new(cases.iter()), schedules());
    let (launched, failures) = (Mutex::new(BTreeSet::new()), Mutex::new(Vec::new()));
    let work = || {
        let mut device = Device::new(library.clone());
        loop {
            let Some(case) = queue.lock().unwrap().next() else { break };
            // The message is printed at once; what counts here is that the other cases run as well.
            if catch_unwind(AssertUnwindSafe(|| case.check(&mut device, &schedules))).is_err() {
                failures.lock().unwrap().push(format!("{case:?}"));
                device = Device::new(library.clone());
            }
            launched.lock().unwrap().extend(device.take_launched());
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} of {} cases failed:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
    if wanted.is_none() {
        let launched = launched.into_inner().unwrap();
        let missed: Vec<&str> = library.kernel_names().filter(|name| !launched.contains(*name)).collect();
        assert!(missed.is_empty(), "no case launches {missed:?}");
    }
}
