//! `lora switch`.

use super::edit;
use crate::adapters;
use crate::console::Console;
use crate::destination::Output;
use crate::failure::{About, Result};
use clap::{ArgAction, ArgMatches, Args};
use lora_peft::{Checkpoint, Edit, Progress, printable};
use std::path::PathBuf;

const EXACT: &str =
    "Exact: the weights are those of a merge into the base, bit for bit; the restore record was renewed.";

/// Exchange the adapters of a merged checkpoint in one pass
///
/// With the record of `lora merge --exact` the result is, bit for bit, that of merging the new adapters into the base,
/// and it has a record again. Without one, what rounding lost in the first merge stays lost, which a warning says.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  lora switch --merged merged/ --from my-adapter/ --to other-adapter/ --out switched/
  lora switch --merged new/ --from style/ --weight 0.7 --to facts/ --weight 0.5 --out newer/")]
pub struct Switch {
    /// The merged checkpoint
    #[arg(long, value_name = "PATH")]
    merged: PathBuf,
    /// A merged adapter, which is taken out; repeat for several
    #[arg(long, required = true, value_name = "DIR", action = ArgAction::Append)]
    from: Vec<PathBuf>,
    /// An adapter that is put in; repeat for several
    #[arg(long, required = true, value_name = "DIR", action = ArgAction::Append)]
    to: Vec<PathBuf>,
    /// Factor on the adapter named just before; 1 if not given
    #[arg(long, value_name = "W", allow_negative_numbers = true, action = ArgAction::Append)]
    weight: Vec<f64>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    update: edit::Update,
    #[command(flatten)]
    beside: edit::BesideAdapters,
}

impl Switch {
    /// Runs the command; `matches` know which weight belongs to which adapter.
    pub fn run(&self, matches: &ArgMatches, console: &Console, progress: &Progress) -> Result<()> {
        let job = edit::Job { checkpoint: &self.merged, output: &self.output, update: &self.update };
        let merged = Checkpoint::open(&self.merged).about(&self.merged)?;
        let [removed, added] = adapters::load(matches, ["from", "to"])?;
        let destination = job.destination(&[&removed, &added], console)?;
        let (from, to) = (adapters::weighted(&removed), adapters::weighted(&added));
        let mut edit = job.planned(Edit::switch(&merged, &from, &to, job.options()), &[&removed, &added])?;
        self.beside.take(&mut edit, &added, console)?;
        let mut done = format!(
            "Exchanged {} for {} in {}.\n",
            adapters::names(&removed),
            adapters::names(&added),
            printable::path(&self.merged)
        );
        done += &edit::exactness(&edit, EXACT, console);
        job.write(&edit, destination, &done, console, progress)
    }
}
