//! Does the watchdog bite? Faults planted in copies of the kernels, one at a time: each must be reported, or give wrong or
//! varying results, under the same schedules under which the kernels as they are must be silent.
//!
//! `LORA_EMULATOR_MUTANT` takes a part of a fault's description and shows how it is caught.

mod mutants;
mod operations;

use lora_emulator::{KernelLibrary, Schedule, available};
use mutants::{Mutant, cases};
use operations::Device;
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

fn schedules() -> Vec<Schedule> {
    Schedule::matrix(10)
}

/// Compiles the mutant's kernel file without the kernels that are not launched; all other files are as they are.
fn build(mutant: &Mutant) -> Arc<KernelLibrary> {
    let files = KernelLibrary::builder().files([mutant.kernel]);
    let mut builder = files.kernels(mutant.launched).keep_others();
    for (file, from, to) in mutant.changes {
        builder = builder.replace(*file, *from, *to);
    }
    builder.build().unwrap_or_else(|error| panic!("{}: {error}", mutant.fault))
}

/// How a fault was caught, in the words of the first check that failed.
fn provoke(mutant: &Mutant) -> Option<String> {
    let mut device = Device::new(build(mutant));
    let run = || (mutant.cases)().iter().for_each(|case| case.check(&mut device, &schedules()));
    let caught = catch_unwind(AssertUnwindSafe(run)).err().map(|payload| message(&*payload))?;
    assert!(!caught.contains("InvalidLaunch"), "a kernel is missing from `launched`: {caught}");
    Some(caught)
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}

/// A word for the way of being caught.
fn way(message: &str) -> &str {
    match message.split_once(" in kernel ") {
        Some((before, _)) => before.rsplit(' ').next().unwrap_or(before),
        None if message.contains("other bits than before") => "VaryingResults",
        None => "WrongResults",
    }
}

#[test]
fn kernels_as_they_are_cause_no_alarm() {
    let test = "kernels_as_they_are_cause_no_alarm";
    let Some(library) = available(test, KernelLibrary::standard()) else { return };
    let mut device = Device::new(library);
    cases::all().iter().for_each(|case| case.check(&mut device, &schedules()));
}

#[test]
fn every_planted_fault_is_caught() {
    let test = "every_planted_fault_is_caught";
    if available(test, KernelLibrary::standard()).is_none() {
        return;
    }
    let wanted = std::env::var("LORA_EMULATOR_MUTANT").ok();
    let chosen = |mutant: &&Mutant| wanted.as_ref().is_none_or(|wanted| mutant.fault.contains(wanted));
    let mutants: Vec<&Mutant> = mutants::all().filter(chosen).collect();
    assert!(wanted.is_some() || mutants.len() >= 30);
    let (queue, results) = (Mutex::new(mutants.iter()), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let Some(&mutant) = queue.lock().unwrap().next() else { break };
            let caught = catch_unwind(|| provoke(mutant));
            results.lock().unwrap().push((mutant, caught.map_err(|payload| message(&*payload))));
        }
    };
    // Panics are what is hoped for here.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    std::panic::set_hook(hook);

    let (mut ways, mut failures) = (BTreeMap::new(), Vec::new());
    for (mutant, result) in results.into_inner().unwrap() {
        let name = format!("{}: {}", mutant.kernel, mutant.fault);
        match result {
            Ok(Some(message)) => {
                *ways.entry(way(&message).to_owned()).or_insert(0) += 1;
                println!("{name}\n    {message}\n");
            }
            Ok(None) => failures.push(format!("not caught: {name}")),
            Err(message) => failures.push(format!("not planted: {name}: {message}")),
        }
    }
    println!("caught: {ways:?}");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
