//! `lora info`.

mod adapter;
mod base;
mod grouped;

use crate::console::Console;
use crate::failure::{About, Failure, Result};
use adapter::AdapterInfo;
use base::BaseInfo;
use clap::Args;
use lora_peft::formats::{Format, identify, load};
use lora_peft::printable::{PATH, line};
use lora_peft::{Adapter, Checkpoint};
use serde_json::{Value, json};
use std::path::Path;
use std::path::PathBuf;

/// One path of the command line, opened.
enum Input {
    Base(Box<Checkpoint>),
    Adapter(Format, Box<Adapter>),
    /// Something that is not read.
    Other(Format),
}

/// Show what checkpoints and adapters hold, and whether they fit each other
///
/// Of a base: modules, element types, sizes, how it is quantised, and whether it has a restore record. Of an adapter: the
/// format (PEFT, kohya, diffusers, mlx-lm), ranks, scales, targets and sizes. Of files that are not read, GGUF among them:
/// what they are. Of adapters together with one base: also which modules they match, and the share of parameters that they
/// train.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  lora info llama/
  lora info my-adapter/
  lora info style.safetensors             what is this file?
  lora info llama/ my-adapter/            does it fit? what does it change? trainable parameters
  lora info --json llama/ my-adapter/ | jq '.[1].match.trainable_percent'

Modules that differ only in numbers are shown as one line, with `*` for the number; --json lists
each.")]
pub struct Info {
    /// Base checkpoints and adapters; with adapters, at most one base
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Print JSON: an array with one object for each path
    #[arg(long)]
    json: bool,
}

impl Info {
    /// Runs the command.
    pub fn run(&self, console: &Console) -> Result<()> {
        let inputs = self
            .paths
            .iter()
            .map(|path| Ok((path.as_path(), open(path)?)))
            .collect::<Result<Vec<(&Path, Input)>>>()?;
        let bases: Vec<(&Path, &Checkpoint)> = inputs
            .iter()
            .filter_map(|(path, input)| match input {
                Input::Base(checkpoint) => Some((*path, checkpoint.as_ref())),
                Input::Adapter(..) | Input::Other(_) => None,
            })
            .collect();
        if bases.len() > 1 && bases.len() < inputs.len() {
            return Err(Failure::Usage(format!(
                "adapters are matched with one base, but both {} and {} are base checkpoints",
                bases[0].0.display(),
                bases[1].0.display()
            )));
        }
        let base = bases.first().copied();
        // Adapters are merged into the plain numbers of quantised weights.
        let plain = match base {
            Some((path, base)) if base.quantized_formats().is_ok_and(|formats| !formats.is_empty()) => {
                Some(Checkpoint::open(path).and_then(Checkpoint::dequantized).about(path)?)
            }
            _ => None,
        };
        let (mut json, mut text, mut misfit) = (Vec::new(), Vec::new(), None);
        for (path, input) in &inputs {
            match input {
                Input::Base(checkpoint) => {
                    checkpoint.notes().iter().for_each(|note| console.remark(note));
                    let info = BaseInfo::new(path, checkpoint)?;
                    json.push(info.json());
                    text.push(info.text());
                }
                Input::Other(format) => {
                    let path = path.display().to_string();
                    json.push(json!({ "path": path, "type": format.name(), "format": format.to_string() }));
                    text.push(format!("{}: {format}\n", line(&path, PATH)));
                }
                Input::Adapter(format, adapter) => {
                    adapter.notes.iter().for_each(|note| console.remark(note));
                    let mut info = AdapterInfo::new(path, *format, adapter)?;
                    if let Some((base_path, checkpoint)) = base {
                        let checkpoint = plain.as_ref().unwrap_or(checkpoint);
                        misfit = info.match_with(base_path, checkpoint).err().or(misfit);
                        info.notes().iter().for_each(|note| console.remark(note));
                    }
                    json.push(info.json());
                    text.push(info.text());
                }
            }
        }
        if self.json {
            console.result(&format!("{:#}\n", Value::Array(json)))?;
        } else {
            console.result(&text.join("\n"))?;
        }
        misfit.map_or(Ok(()), Err)
    }
}

fn open(path: &Path) -> Result<Input> {
    Ok(match identify(path).about(path)? {
        Format::Checkpoint => Input::Base(Box::new(Checkpoint::open(path).about(path)?)),
        Format::Peft
        | Format::PeftSharded
        | Format::PeftPickled
        | Format::Kohya
        | Format::Diffusers
        | Format::Mlx => {
            let (format, adapter) = load(path).about(path)?;
            Input::Adapter(format, Box::new(adapter))
        }
        format => Input::Other(format),
    })
}
