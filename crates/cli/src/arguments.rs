//! The command line.

use crate::device::DeviceChoice;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use lora_kernels::DType;
use std::path::PathBuf;

const AFTER_HELP: &str = "\
Words:
  base      a model's checkpoint: a directory with model.safetensors, or with shards and
            model.safetensors.index.json; or one of these files
  adapter   a LoRA adapter as PEFT saves it: a directory with adapter_config.json and
            adapter_model.safetensors

Examples:
  lora info llama/ my-adapter/                    what is in them, and do they fit?
  lora merge --base llama/ --adapter my-adapter/ --out merged/
  lora merge --base llama/ --adapter my-adapter/ --out merged/ --exact
  lora unmerge --merged merged/ --adapter my-adapter/ --out base-again/
  lora switch --merged merged/ --from my-adapter/ --to other-adapter/ --out switched/
  lora extract --base llama/ --tuned llama-tuned/ --rank 32 --out adapter/
  lora bench                                      how fast is this machine?
  lora demo lora-demo                             something to try all this on
  lora help merge                                 everything about one command

Inputs are never changed. A new checkpoint is written beside its place as `.NAME.partial-…`,
synced to the disk and renamed when it is complete: a full disk or Ctrl-C leaves nothing behind.
Ctrl-C ends at once, whatever is being done.

Exit codes:
  0    done
  1    failed: an input is broken or does not fit, or a file cannot be read or written
  2    wrong usage
  130  ended by Ctrl-C; by another signal: 128 and its number, as shells show it";

/// LoRA adapters on whole checkpoints, without Python: look at them, merge them, take them out, exchange them.
///
/// Reads and writes PEFT's files. Checkpoints are streamed: memory is needed for a few of the largest tensors and the
/// adapter, not for the model.
#[derive(Debug, Parser)]
#[command(name = "lora", version, after_long_help = AFTER_HELP, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Arguments {
    /// No progress bar, no summary, no warnings; errors and what was asked for are still printed
    #[arg(short, long, global = true, display_order = 900)]
    pub quiet: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Info(Info),
    Merge(Merge),
    Unmerge(Unmerge),
    Switch(Switch),
    Extract(Extract),
    Bench(Bench),
    Demo(Demo),
    Completions(Completions),
}

/// Show what checkpoints and adapters hold, and whether they fit each other
///
/// Of a base: modules, element types, sizes, and whether it has a restore record. Of an adapter: ranks, scales, targets
/// and sizes. Of adapters together with one base: also which modules they match, and the share of parameters that they
/// train.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  lora info llama/
  lora info my-adapter/
  lora info llama/ my-adapter/            does it fit? what does it change? trainable parameters
  lora info --json llama/ my-adapter/ | jq '.[1].match.trainable_percent'

Modules that differ only in numbers are shown as one line, with `*` for the number; --json lists
each.")]
pub struct Info {
    /// Base checkpoints and adapters; with adapters, at most one base
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Print JSON: an array with one object for each path
    #[arg(long)]
    pub json: bool,
}

/// Put adapters into a base checkpoint
///
/// Writes W + s·B·A for every adapted weight W (A and B are the adapter's matrices, s its scale), summed in f32 and
/// rounded once; several adapters are summed before the rounding. The other tensors, the configuration and the tokenizer are copied. The new checkpoint has the shards and
/// the element types of the base. DoRA, biases, saved modules and embeddings are merged as PEFT merges them.
///
/// Something in the adapter that cannot be honoured is an error that names it; nothing is skipped. Weights that are
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
    pub base: PathBuf,
    /// An adapter; repeat for several
    #[arg(long, required = true, value_name = "DIR", action = ArgAction::Append)]
    pub adapter: Vec<PathBuf>,
    /// Factor on the adapter named just before, on top of its own scale; 1 if not given
    #[arg(long, value_name = "W", allow_negative_numbers = true, action = ArgAction::Append)]
    pub weight: Vec<f64>,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    pub update: Update,
    /// Keep a record that makes taking the adapters out exact
    #[arg(long)]
    pub exact: bool,
    /// Element type of the new checkpoint; that of the base if not given
    #[arg(long, value_name = "TYPE", conflicts_with = "exact")]
    pub dtype: Option<ElementType>,
}

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
    pub merged: PathBuf,
    /// A merged adapter; repeat for several
    #[arg(long, required = true, value_name = "DIR", action = ArgAction::Append)]
    pub adapter: Vec<PathBuf>,
    /// Factor that the adapter named just before was merged with; 1 if not given
    #[arg(long, value_name = "W", allow_negative_numbers = true, action = ArgAction::Append)]
    pub weight: Vec<f64>,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    pub update: Update,
}

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
    pub merged: PathBuf,
    /// A merged adapter, which is taken out; repeat for several
    #[arg(long, required = true, value_name = "DIR", action = ArgAction::Append)]
    pub from: Vec<PathBuf>,
    /// An adapter that is put in; repeat for several
    #[arg(long, required = true, value_name = "DIR", action = ArgAction::Append)]
    pub to: Vec<PathBuf>,
    /// Factor on the adapter named just before; 1 if not given
    #[arg(long, value_name = "W", allow_negative_numbers = true, action = ArgAction::Append)]
    pub weight: Vec<f64>,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    pub update: Update,
}

/// Make an adapter from the difference of two checkpoints
///
/// For each matrix that differs, B·A is the best approximation of the difference at the rank, by truncated singular
/// value decomposition. Changed tensors that are no matrices go along whole. The summary lists what the rank leaves
/// over: 0 means that the adapter is all of the difference, 1 that it has nothing of it.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  lora extract --base llama/ --tuned llama-tuned/ --rank 32 --out adapter/
  lora extract --base llama/ --tuned llama-tuned/ --rank 64 --dtype bf16 --out adapter/

Time grows with the cube of the layers' width. Try a small rank first: the errors show what more
would bring.")]
pub struct Extract {
    /// The base checkpoint
    #[arg(long, value_name = "PATH")]
    pub base: PathBuf,
    /// The checkpoint after fine-tuning
    #[arg(long, value_name = "PATH")]
    pub tuned: PathBuf,
    /// Rank of each module's adapter
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..))]
    pub rank: u32,
    /// Element type of the adapter
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub dtype: ElementType,
    #[command(flatten)]
    pub output: Output,
}

/// Time forward, backward and merge of a layer on this machine
///
/// Compares the layer with a fused adapter to the frozen layer alone (what LoRA's overhead is measured against) and to
/// the usual separate passes. Every round times all of them one after the other; ratios are to the frozen layer of the
/// same round, and those of merge to the separate passes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  lora bench                                    a few layers of a 7B model
  lora bench --shape 2048x4096x14336 --rank 64  one layer: tokens × inputs × outputs
  lora bench --dtype f32 --rounds 30 --json > bench.json")]
pub struct Bench {
    /// A layer: tokens × inputs × outputs; repeat for several. Standard layers if not given
    #[arg(long, value_name = "MxKxN", action = ArgAction::Append)]
    pub shape: Vec<crate::commands::bench::LayerShape>,
    /// Rank of the adapters
    #[arg(long, value_name = "R", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub rank: u32,
    /// Element type of weights and activations
    #[arg(long, value_name = "TYPE", default_value = "bf16")]
    pub dtype: ElementType,
    /// How often everything is timed
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Where to compute: auto, cpu, or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Write a tiny model with adapters, to try the other commands on
///
/// The directory gets a Llama with random weights of about 0.3 MB (`llama`), the same after a change of rank 4
/// (`llama-tuned`), and two adapters of it (`my-adapter`, `other-adapter`).
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  lora demo lora-demo
  cd lora-demo
  lora info llama/ my-adapter/")]
pub struct Demo {
    /// Directory to write; it must not exist, or be empty
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  lora completions bash > ~/.local/share/bash-completion/completions/lora
  lora completions zsh > \"${fpath[1]}/_lora\"
  lora completions fish > ~/.config/fish/completions/lora.fish")]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}

/// Where results go.
#[derive(Debug, Args)]
pub struct Output {
    /// Directory to write; it must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Replace an existing checkpoint or adapter in --out, once the new one is complete
    #[arg(long)]
    pub force: bool,
}

/// How weights change.
#[derive(Debug, Args)]
pub struct Update {
    /// Where to compute: auto (a GPU if there is one that can be used), cpu, or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// How changed 16-bit weights are rounded: to the nearest value, or up or down at random, so that small changes
    /// survive on average
    #[arg(long, value_name = "HOW", default_value = "nearest")]
    pub rounding: RoundingMode,
    /// Seed of --rounding stochastic
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// List for each weight what rounding did: the share of unchanged elements, the largest and the RMS error
    #[arg(long)]
    pub report: bool,
}

/// Names of element types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ElementType {
    F32,
    F16,
    Bf16,
}

impl From<ElementType> for DType {
    fn from(name: ElementType) -> Self {
        match name {
            ElementType::F32 => DType::F32,
            ElementType::F16 => DType::F16,
            ElementType::Bf16 => DType::Bf16,
        }
    }
}

/// Names of rounding modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoundingMode {
    Nearest,
    Stochastic,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_that_fit_the_width() {
        let mut arguments = Arguments::command();
        let main = arguments.get_after_long_help().map(ToString::to_string);
        let others =
            arguments.get_subcommands_mut().map(|c| c.get_after_long_help().map(ToString::to_string));
        for help in main.into_iter().map(Some).chain(others) {
            let help = help.unwrap_or_default();
            assert!(help.contains("Examples:\n  lora "), "{help}");
            for line in help.lines() {
                assert!(line.chars().count() < 100, "{line}");
            }
        }
    }
}
