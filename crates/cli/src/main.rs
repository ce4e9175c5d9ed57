//! `lora`: PEFT LoRA adapters on whole checkpoints, from the command line.

mod adapters;
mod arguments;
mod commands;
mod console;
mod destination;
mod device;
mod element_type;
mod failure;
mod interrupt;
mod summary;
mod table;
mod units;

use arguments::{Arguments, Command};
use clap::{CommandFactory, FromArgMatches};
use console::Console;
use failure::Result;
use lora_peft::Progress;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Ends the process with 0 for --help and --version, and with 2 for wrong usage.
    let matches = Arguments::command().get_matches();
    let result = Arguments::from_arg_matches(&matches)
        .map_err(|error| error.exit())
        .and_then(|arguments| run(&arguments, &matches));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            console::error(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(arguments: &Arguments, matches: &clap::ArgMatches) -> Result<()> {
    let console = Console::new(arguments.quiet);
    let progress = Progress::new();
    interrupt::ignore_file_size_signal();
    let matches = matches.subcommand().map_or(matches, |(_, matches)| matches);
    match &arguments.command {
        Command::Info(info) => info.run(&console),
        Command::Merge(merge) => merge.run(matches, &console, &progress),
        Command::Unmerge(unmerge) => unmerge.run(matches, &console, &progress),
        Command::Switch(switch) => switch.run(matches, &console, &progress),
        Command::Extract(extract) => extract.run(&console, &progress),
        Command::Convert(convert) => convert.run(&console),
        Command::Bench(bench) => bench.run(&console),
        Command::Demo(demo) => demo.run(&console),
        Command::Completions(completions) => completions.run(Arguments::command(), &console),
    }
}
