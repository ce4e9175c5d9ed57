//! `lora info`.

mod adapter;
mod base;
mod grouped;

use crate::arguments::Info;
use crate::console::Console;
use crate::failure::{About, Failure, Result};
use adapter::AdapterInfo;
use base::BaseInfo;
use lora_peft::adapter::CONFIG_FILE;
use lora_peft::{Adapter, Checkpoint};
use serde_json::Value;
use std::path::Path;

/// One path of the command line, opened.
enum Input {
    Base(Box<Checkpoint>),
    Adapter(Box<Adapter>),
}

pub fn run(arguments: &Info, console: &Console) -> Result<()> {
    let inputs = arguments
        .paths
        .iter()
        .map(|path| Ok((path.as_path(), open(path)?)))
        .collect::<Result<Vec<(&Path, Input)>>>()?;
    let bases: Vec<(&Path, &Checkpoint)> = inputs
        .iter()
        .filter_map(|(path, input)| match input {
            Input::Base(checkpoint) => Some((*path, checkpoint.as_ref())),
            Input::Adapter(_) => None,
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
    let (mut json, mut text, mut misfit) = (Vec::new(), Vec::new(), None);
    for (path, input) in &inputs {
        match input {
            Input::Base(checkpoint) => {
                let info = BaseInfo::new(path, checkpoint)?;
                json.push(info.json());
                text.push(info.text());
            }
            Input::Adapter(adapter) => {
                let mut info = AdapterInfo::new(path, adapter)?;
                if let Some((base_path, checkpoint)) = base {
                    misfit = info.match_with(base_path, checkpoint).err().or(misfit);
                }
                json.push(info.json());
                text.push(info.text());
            }
        }
    }
    if arguments.json {
        console.result(&format!("{:#}\n", Value::Array(json)))?;
    } else {
        console.result(&text.join("\n"))?;
    }
    misfit.map_or(Ok(()), Err)
}

fn open(path: &Path) -> Result<Input> {
    if path.join(CONFIG_FILE).exists() {
        return Ok(Input::Adapter(Box::new(Adapter::load(path).about(path)?)));
    }
    Ok(Input::Base(Box::new(Checkpoint::open(path).about(path)?)))
}
