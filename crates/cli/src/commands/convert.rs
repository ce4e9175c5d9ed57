//! `lora convert`.

use crate::console::Console;
use crate::destination::{Destination, Output};
use crate::failure::{About, Result};
use clap::{Args, ValueEnum};
use lora_peft::formats::{self, Target};
use lora_peft::{Checkpoint, printable};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// Write an adapter in another format
///
/// Reads adapters of PEFT (also in shards, and pickled ones as data), kohya (sd-scripts), diffusers and mlx-lm. What the
/// new format has no place for is an error. kohya's names have `_` for dots: from such a file the other formats need
/// --base, whose own names tell where the dots were.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  lora convert --adapter my-adapter/ --to mlx --out mlx-adapter/
  lora convert --adapter style.safetensors --base sd/unet/ --to diffusers --out style/
  lora convert --adapter flux-lora/ --to kohya --out for-comfyui/

What is written into --out:
  peft       adapter_config.json and adapter_model.safetensors
  kohya      lora.safetensors
  diffusers  pytorch_lora_weights.safetensors; B holds the scale, which diffusers takes for 1
  mlx        adapter_config.json and adapters.safetensors")]
pub struct Convert {
    /// The adapter: a directory or a file
    #[arg(long, value_name = "PATH")]
    adapter: PathBuf,
    /// The format to write
    #[arg(long, value_name = "FORMAT")]
    to: FormatName,
    /// A checkpoint whose names the adapter gets; of an adapter for several parts of a pipeline only that part stays
    #[arg(long, value_name = "PATH")]
    base: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// Names of formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatName {
    Peft,
    Kohya,
    Diffusers,
    Mlx,
}

impl From<FormatName> for Target {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Peft => Target::Peft,
            FormatName::Kohya => Target::Kohya,
            FormatName::Diffusers => Target::Diffusers,
            FormatName::Mlx => Target::Mlx,
        }
    }
}

impl Convert {
    /// Runs the command.
    pub fn run(&self, console: &Console) -> Result<()> {
        let (format, adapter) = formats::load(&self.adapter).about(&self.adapter)?;
        let mut placed = Cow::Borrowed(&adapter);
        if let Some(path) = &self.base {
            let base = Checkpoint::open(path).about(path)?;
            let (found, notes) = formats::place(&adapter, &base).about(&self.adapter)?;
            notes.iter().for_each(|note| console.warning(&note.to_string()));
            placed = Cow::Owned(found.into_owned());
        }
        let output = &self.output;
        let inputs: Vec<&Path> =
            [&self.adapter].into_iter().chain(&self.base).map(PathBuf::as_path).collect();
        let destination = Destination::new(&output.out, output.force, &inputs, console)?;
        let directory = destination.create(console)?;
        formats::write(&placed, self.to.into(), directory.path())
            .map_err(|error| directory.explain(error))
            .about(&self.adapter)?;
        destination.finish(directory)?;
        console.note(&format!(
            "Converted {} ({format}, {} modules) into {}.\n",
            printable::path(&self.adapter),
            placed.layers.len(),
            printable::path(&output.out)
        ))
    }
}
