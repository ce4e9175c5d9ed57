//! Runs cases with changed kernels, for `scripts/mutate-kernels`, which calls this once for each fault that it makes.
//!
//! `list` prints every case's number, its milliseconds with the kernels as they are, what it launches, and its description.
//! `run` takes `LORA_EMULATOR_CHANGED`, a directory with all kernels; `LORA_EMULATOR_FILES`, those to compile anew, with commas
//! between them; `LORA_EMULATOR_KERNELS`, those of their kernels that are needed; `LORA_EMULATOR_CASES`, numbers of cases with commas, `NUMBER*SCHEDULES` for more schedules than the first. It
//! exits with 0 if all pass, with 3 and the first message if one does not, and with 4 if the kernels do not compile.

#[path = "mutants/cases.rs"]
mod cases;
mod operations;

use lora_emulator::{KernelLibrary, Schedule};
use operations::{Case, Device, far};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::exit;
use std::time::Instant;

fn all() -> Vec<Case> {
    let far = [31, 32]
        .into_iter()
        .flat_map(|bits| far::What::ALL.iter().map(move |&what| far::Case { what, bits }));
    cases::all().into_iter().chain(operations::matrix::cases()).chain(far.map(Case::Far)).collect()
}

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

#[test]
#[ignore = "for scripts/mutate-kernels"]
fn list() {
    let library = KernelLibrary::standard().expect("the emulator has kernels");
    let mut device = Device::new(library);
    println!();
    for (number, case) in all().iter().enumerate() {
        let start = Instant::now();
        case.check(&mut device, &[Schedule::default()]);
        let milliseconds = start.elapsed().as_millis();
        let mut kernels = device.take_launched();
        kernels.sort();
        kernels.dedup();
        println!("{number}\t{milliseconds}\t{}\t{case:?}", kernels.join(","));
    }
}

#[test]
#[ignore = "for scripts/mutate-kernels"]
fn run() {
    let files = setting("LORA_EMULATOR_FILES");
    let builder = KernelLibrary::builder().directory(setting("LORA_EMULATOR_CHANGED"));
    let kernels = setting("LORA_EMULATOR_KERNELS");
    let library =
        builder.files(files.split(',')).kernels(kernels.split(',')).keep_others().build().unwrap_or_else(
            |error| {
                println!("{error}");
                exit(4)
            },
        );
    let schedules = Schedule::matrix(10);
    let all = all();
    let mut device = Device::new(library);
    std::panic::set_hook(Box::new(|_| ()));
    for wanted in setting("LORA_EMULATOR_CASES").split(',') {
        let (number, count) = wanted.split_once('*').unwrap_or((wanted, "1"));
        let case = &all[number.parse::<usize>().expect("the number of a case")];
        let schedules = &schedules[..count.parse().expect("a number of schedules")];
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| case.check(&mut device, schedules))) {
            let text = payload.downcast_ref::<String>().cloned();
            let text = text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string));
            println!("\ncaught\t{number}\t{}", text.unwrap_or_default().lines().next().unwrap_or_default());
            exit(3);
        }
    }
    exit(0)
}
