//! `lora`: PEFT LoRA adapters on whole checkpoints, from the command line.

mod adapters;
mod arguments;
mod commands;
mod console;
mod destination;
mod device;
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
        Command::Info(info) => commands::info::run(info, &console),
        Command::Merge(merge) => commands::merge::run(merge, matches, &console, &progress),
        Command::Unmerge(unmerge) => commands::unmerge::run(unmerge, matches, &console, &progress),
        Command::Switch(switch) => commands::switch::run(switch, matches, &console, &progress),
        Command::Extract(extract) => commands::extract::run(extract, &console, &progress),
        Command::Bench(bench) => commands::bench::run(bench, &console),
        Command::Demo(demo) => commands::demo::run(demo, &console),
        Command::Completions(completions) => commands::completions::run(completions, &console),
    }
}
