//! `lora switch`.

use super::edit;
use crate::adapters;
use crate::arguments::Switch;
use crate::console::Console;
use crate::failure::{About, Result};
use clap::ArgMatches;
use lora_peft::{Checkpoint, Edit, Progress, printable};

const EXACT: &str =
    "Exact: the weights are those of a merge into the base, bit for bit; the restore record was renewed.";

pub fn run(arguments: &Switch, matches: &ArgMatches, console: &Console, progress: &Progress) -> Result<()> {
    let job =
        edit::Job { checkpoint: &arguments.merged, output: &arguments.output, update: &arguments.update };
    let merged = Checkpoint::open(&arguments.merged).about(&arguments.merged)?;
    let [removed, added] = adapters::load(matches, ["from", "to"])?;
    let destination = job.destination(&[&removed, &added], console)?;
    let (from, to) = (adapters::weighted(&removed), adapters::weighted(&added));
    let edit = job.planned(Edit::switch(&merged, &from, &to, job.options()), &[&removed, &added])?;
    let mut done = format!(
        "Exchanged {} for {} in {}.\n",
        adapters::names(&removed),
        adapters::names(&added),
        printable::path(&arguments.merged)
    );
    done += &edit::exactness(&edit, EXACT, console);
    job.write(&edit, destination, &done, console, progress)
}
