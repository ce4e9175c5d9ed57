//! `lora unmerge`.

use super::edit;
use crate::adapters;
use crate::console::Console;
use crate::destination::Output;
use crate::failure::{About, Result};
use clap::{ArgAction, ArgMatches, Args};
use lora_peft::{Checkpoint, Edit, Progress, printable};
use std::path::PathBuf;

const EXACT: &str = "Exact: the base's weights are back, bit for bit, from the restore record.";

/// Take adapters out of a merged checkpoint
///
/// Exact, bit for bit, if the checkpoint was merged with --exact: it has a record then. Without a record each weight
/// comes back as close as rounding allows, which a warning says. Give the adapters in the order and with the weights
/// that they were merged with.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  lora unmerge --merged merged/ --adapter my-adapter/ --out base-again/
  lora unmerge --merged new/ --adapter my-adapter/ --weight 0.7 \\
       --adapter other-adapter/ --weight 0.3 --out old/

`lora info merged/` shows whether there is a record, and of which adapters.")]
pub struct Unmerge {
    /// The merged checkpoint
    #[arg(long, value_name = "PATH")]
    merged: PathBuf,
    /// A merged adapter; repeat for several
    #[arg(long, required = true, value_name = "DIR", action = ArgAction::Append)]
    adapter: Vec<PathBuf>,
    /// Factor that the adapter named just before was merged with; 1 if not given
    #[arg(long, value_name = "W", allow_negative_numbers = true, action = ArgAction::Append)]
    weight: Vec<f64>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    update: edit::Update,
}

impl Unmerge {
    /// Runs the command; `matches` know which weight belongs to which adapter.
    pub fn run(&self, matches: &ArgMatches, console: &Console, progress: &Progress) -> Result<()> {
        let job = edit::Job { checkpoint: &self.merged, output: &self.output, update: &self.update };
        let merged = Checkpoint::open(&self.merged).about(&self.merged)?;
        let [removed] = adapters::load(matches, ["adapter"])?;
        let destination = job.destination(&[&removed], console)?;
        let edit =
            job.planned(Edit::unmerge(&merged, &adapters::weighted(&removed), job.options()), &[&removed])?;
        let names = adapters::names(&removed);
        let mut done = format!("Took {names} out of {}.\n", printable::path(&self.merged));
        done += &edit::exactness(&edit, EXACT, console);
        job.write(&edit, destination, &done, console, progress)
    }
}
