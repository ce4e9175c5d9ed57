//! `lora merge`.

use super::edit;
use crate::adapters;
use crate::console::Console;
use crate::destination::Output;
use crate::element_type::ElementType;
use crate::failure::{About, Result};
use clap::{ArgAction, ArgMatches, Args, ValueEnum};
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
/// and has one meaning is taken, and a note says how.
///
/// A base whose weights are quantised needs --dequantize, which writes plain numbers: FP8 (scales for tensors, rows or
/// blocks), bitsandbytes NF4, FP4 and int8, GPTQ, AWQ, and MXFP4 of gpt-oss.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  lora merge --base llama/ --adapter my-adapter/ --out merged/
  lora merge --base llama/ --adapter my-adapter/ --weight 0.7 \\
       --adapter other-adapter/ --weight 0.3 --out new/
  lora merge --base llama/ --adapter my-adapter/ --out merged/ --report
  lora merge --base llama/ --adapter my-adapter/ --out merged/ --rounding stochastic --seed 1
  lora merge --base deepseek-fp8/ --adapter my-adapter/ --out merged/ --dequantize bf16
  lora merge --base deepseek-fp8/ --adapter my-adapter/ --out merged/ --requantize same
  lora merge --base sd/unet/ --adapter style.safetensors --out merged/         kohya's file
  lora merge --base llama/ --adapter my-adapter/ --out merged/ --exact

The record that --exact writes lets `lora unmerge` and `lora switch` restore the base exactly. It
is the directory lora_restore in the new checkpoint, and takes about one byte for each changed
weight. Delete it when the adapter will never be taken out.")]
pub struct Merge {
    /// The base checkpoint
    #[arg(long, value_name = "PATH")]
    base: PathBuf,
    /// An adapter; repeat for several
    #[arg(long, required = true, value_name = "PATH", action = ArgAction::Append)]
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
    /// Merge into the plain numbers of a quantised base, and write all of it in this element type
    #[arg(long, value_name = "TYPE", conflicts_with_all = ["exact", "dtype"])]
    dequantize: Option<ElementType>,
    /// Merge into the plain numbers of an FP8 base, and quantise what changes again, in the format of the base; what that
    /// loses is said
    #[arg(long, value_name = "FORMAT", conflicts_with_all = ["exact", "dtype", "dequantize"])]
    requantize: Option<Requantize>,
    #[command(flatten)]
    beside: edit::BesideAdapters,
}

/// Formats of --requantize.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Requantize {
    /// That of the base.
    Same,
}

impl Merge {
    /// Runs the command; `matches` know which weight belongs to which adapter.
    pub fn run(&self, matches: &ArgMatches, console: &Console, progress: &Progress) -> Result<()> {
        let job = edit::Job { checkpoint: &self.base, output: &self.output, update: &self.update };
        let mut base = Checkpoint::open(&self.base).about(&self.base)?;
        if self.dequantize.is_some() || self.requantize.is_some() {
            base = base.dequantized().about(&self.base)?;
        }
        let [added] = adapters::load(matches, ["adapter"])?;
        let destination = job.destination(&[&added], console)?;
        let options = EditOptions {
            restore: self.exact.then(Default::default),
            requantize: self.requantize.is_some(),
            dtype: self.dtype.or(self.dequantize).map(Into::into),
            ..job.options()
        };
        let mut edit = job.planned(Edit::merge(&base, &adapters::weighted(&added), options), &[&added])?;
        self.beside.take(&mut edit, &added, console)?;
        let mut done = format!("Merged {} into {}", adapters::names(&added), printable::path(&self.base));
        done += if self.exact { ", with a restore record.\n" } else { ".\n" };
        job.write(&edit, destination, &done, console, progress)
    }
}
