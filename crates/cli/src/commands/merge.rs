//! `lora merge`.

use super::edit;
use crate::adapters;
use crate::arguments::Merge;
use crate::console::Console;
use crate::failure::{About, Result};
use clap::ArgMatches;
use lora_peft::{Checkpoint, Edit, EditOptions, Progress, printable};

pub fn run(arguments: &Merge, matches: &ArgMatches, console: &Console, progress: &Progress) -> Result<()> {
    let job = edit::Job { checkpoint: &arguments.base, output: &arguments.output, update: &arguments.update };
    let base = Checkpoint::open(&arguments.base).about(&arguments.base)?;
    let [added] = adapters::load(matches, ["adapter"])?;
    let destination = job.destination(&[&added], console)?;
    let options = EditOptions {
        restore: arguments.exact.then(Default::default),
        dtype: arguments.dtype.map(Into::into),
        ..job.options()
    };
    let edit = job.planned(Edit::merge(&base, &adapters::weighted(&added), options), &[&added])?;
    let mut done = format!("Merged {} into {}", adapters::names(&added), printable::path(&arguments.base));
    done += if arguments.exact { ", with a restore record.\n" } else { ".\n" };
    job.write(&edit, destination, &done, console, progress)
}
