//! The command line.

use crate::commands::bench::Bench;
use crate::commands::completions::Completions;
use crate::commands::convert::Convert;
use crate::commands::demo::Demo;
use crate::commands::extract::Extract;
use crate::commands::info::Info;
use crate::commands::merge::Merge;
use crate::commands::switch::Switch;
use crate::commands::unmerge::Unmerge;
use clap::{Parser, Subcommand};

const AFTER_HELP: &str = "\
Words:
  base      a model's checkpoint: a directory with model.safetensors, or with shards and
            model.safetensors.index.json; or one of these files
  adapter   a LoRA adapter. As PEFT saves it: a directory with adapter_config.json and
            adapter_model.safetensors, its shards, or adapter_model.bin; or in the format of
            kohya (sd-scripts), diffusers or mlx-lm: the directory or the file

Examples:
  lora info llama/ my-adapter/                    what is in them, and do they fit?
  lora merge --base llama/ --adapter my-adapter/ --out merged/
  lora merge --base llama/ --adapter my-adapter/ --out merged/ --exact
  lora unmerge --merged merged/ --adapter my-adapter/ --out base-again/
  lora switch --merged merged/ --from my-adapter/ --to other-adapter/ --out switched/
  lora extract --base llama/ --tuned llama-tuned/ --rank 32 --out adapter/
  lora convert --adapter style.safetensors --base unet/ --to peft --out style/
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
/// Reads and writes PEFT's files, and those of kohya, diffusers and mlx-lm. Checkpoints are streamed: memory is needed for a few of the largest tensors and the
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
    Convert(Convert),
    Bench(Bench),
    Demo(Demo),
    Completions(Completions),
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
