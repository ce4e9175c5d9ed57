//! `lora unmerge`.

use super::edit;
use crate::adapters;
use crate::arguments::Unmerge;
use crate::console::Console;
use crate::failure::{About, Result};
use clap::ArgMatches;
use lora_peft::{Checkpoint, Edit, Progress, printable};

const EXACT: &str = "Exact: the base's weights are back, bit for bit, from the restore record.";

pub fn run(arguments: &Unmerge, matches: &ArgMatches, console: &Console, progress: &Progress) -> Result<()> {
    let job =
        edit::Job { checkpoint: &arguments.merged, output: &arguments.output, update: &arguments.update };
    let merged = Checkpoint::open(&arguments.merged).about(&arguments.merged)?;
    let [removed] = adapters::load(matches, ["adapter"])?;
    let destination = job.destination(&[&removed], console)?;
    let edit =
        job.planned(Edit::unmerge(&merged, &adapters::weighted(&removed), job.options()), &[&removed])?;
    let names = adapters::names(&removed);
    let mut done = format!("Took {names} out of {}.\n", printable::path(&arguments.merged));
    done += &edit::exactness(&edit, EXACT, console);
    job.write(&edit, destination, &done, console, progress)
}
