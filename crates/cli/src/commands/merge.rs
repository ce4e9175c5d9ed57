//! `lora merge`.

use super::edit;
use crate::adapters;
use crate::console::Console;
use crate::destination::Output;
use crate::element_type::ElementType;
use crate::failure::{About, Result};
use clap::{ArgAction, ArgMatches, Args};
use lora_peft::{Checkpoint, Edit, EditOptions, Progress, printable};
use std::path::PathBuf;

/// Put adapters into a base checkpoint
///
/// Writes W + s·B·A for every adapted weight W (A and B are the adapter's matrices, s its scale), summed in f32 and
/// rounded once; several adapters are summed before the rounding. The other tensors, the configuration and the tokenizer are copied. The new checkpoint has the shards and
/// the element types of the base. DoRA, biases, saved modules and embeddings are merged as PEFT merges them.
///
/// Something in the adapter that cannot be honoured is an error that names it; nothing is skipped. A checkpoint may have other
/// names than the adapter's model and may have experts, or queries, keys and values, apart or as one; what is not as it should be
/// and has one meaning is taken, and a note says how. Weights that are
/// stored quantised (GPTQ, AWQ, bitsandbytes, FP8) are refused: merge into the model that they were made from.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  lora merge --base llama/ --adapter my-adapter/ --out merged/
  lora merge --base llama/ --adapter my-adapter/ --weight 0.7 \\
       --adapter other-adapter/ --weight 0.3 --out new/
  lora merge --base llama/ --adapter my-adapter/ --out merged/ --report
  lora merge --base llama/ --adapter my-adapter/ --out merged/ --rounding stochastic --seed 1
  lora merge --base llama/ --adapter my-adapter/ --out merged/ --exact

The record that --exact writes lets `lora unmerge` and `lora switch` restore the base exactly. It
is the directory lora_restore in the new checkpoint, and takes about one byte for each changed
weight. Delete it when the adapter will never be taken out.")]
pub struct Merge {
    /// The base checkpoint
    #[arg(long, value_name = "PATH")]
    base: PathBuf,
    /// An adapter; repeat for several
    #[arg(long, required = true, value_name = "DIR", action = ArgAction::Append)]
    adapter: Vec<PathBuf>,
    /// Factor on the adapter named just before, on top of its own scale; 1 if not given
    #[arg(long, value_name = "W", allow_negative_numbers = true, action = ArgAction::Append)]
    weight: Vec<f64>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    update: edit::Update,
    /// Keep a record that makes taking the adapters out exact
    #[arg(long)]
    exact: bool,
    /// Element type of the new checkpoint; that of the base if not given
    #[arg(long, value_name = "TYPE", conflicts_with = "exact")]
    dtype: Option<ElementType>,
    #[command(flatten)]
    beside: edit::BesideAdapters,
}

impl Merge {
    /// Runs the command; `matches` know which weight belongs to which adapter.
    pub fn run(&self, matches: &ArgMatches, console: &Console, progress: &Progress) -> Result<()> {
        let job = edit::Job { checkpoint: &self.base, output: &self.output, update: &self.update };
        let base = Checkpoint::open(&self.base).about(&self.base)?;
        let [added] = adapters::load(matches, ["adapter"])?;
        let destination = job.destination(&[&added], console)?;
        let options = EditOptions {
            restore: self.exact.then(Default::default),
            dtype: self.dtype.map(Into::into),
            ..job.options()
        };
        let mut edit = job.planned(Edit::merge(&base, &adapters::weighted(&added), options), &[&added])?;
        self.beside.take(&mut edit, &added, console)?;
        let mut done = format!("Merged {} into {}", adapters::names(&added), printable::path(&self.base));
        done += if self.exact { ", with a restore record.\n" } else { ".\n" };
        job.write(&edit, destination, &done, console, progress)
    }
}
