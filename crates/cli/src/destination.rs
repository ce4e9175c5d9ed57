//! Where a result goes, and the replacing of what is there.

use crate::console::Console;
use crate::failure::{About, Failure, Result};
use crate::interrupt;
use clap::Args;
use lora_peft::files::{NewDirectory, resolve};
use std::path::{Path, PathBuf};

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

/// A directory that is free, or that will be exchanged for a complete new one.
#[derive(Debug)]
pub struct Destination {
    out: PathBuf,
    replaces: bool,
    inputs: Vec<PathBuf>,
}

impl Destination {
    /// Checks that a directory can be put at `out`, and that no input would be touched by that. It is tried with empty
    /// ones, of which nothing is left. From now on, signals leave nothing unfinished.
    pub fn new(out: &Path, force: bool, inputs: &[&Path], console: &Console) -> Result<Self> {
        for input in inputs {
            check_apart(out, input)?;
        }
        interrupt::clean_up_on_signals()?;
        // What was put back is there.
        NewDirectory::clear_leftovers(out)?.iter().for_each(|note| console.warning(note));
        let replaces = !is_free(out);
        if replaces && !force {
            return Err(Failure::Failed(format!(
                "{} already exists; choose another --out, or replace it with --force",
                out.display()
            )));
        }
        if replaces && !is_ours(out) {
            return Err(Failure::Failed(format!(
                "{} is neither a checkpoint nor an adapter; --force does not replace it",
                out.display()
            )));
        }
        let inputs = inputs.iter().map(|&path| path.into()).collect();
        let destination = Destination { out: out.to_owned(), replaces, inputs };
        destination.create(console)?;
        Ok(destination)
    }

    /// Starts the new directory.
    pub fn create(&self, console: &Console) -> Result<NewDirectory> {
        let directory = match self.replaces {
            true => NewDirectory::replace(&self.out)?,
            false => NewDirectory::create(&self.out)?,
        };
        directory.notes().iter().for_each(|note| console.warning(note));
        Ok(directory)
    }

    /// Puts the complete new directory in its place.
    pub fn finish(&self, directory: NewDirectory) -> Result<()> {
        for input in &self.inputs {
            check_apart(&self.out, input)?;
        }
        Ok(directory.commit()?)
    }
}

fn is_free(out: &Path) -> bool {
    match std::fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_none(),
        // A link may lead to where nothing is yet.
        Err(_) => out.metadata().is_err(),
    }
}

/// Whether a directory holds what this program writes.
fn is_ours(out: &Path) -> bool {
    std::fs::read_dir(out).into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")
    })
}

/// Neither may be inside the other; beside an input that is a file there is room.
fn check_apart(out: &Path, input: &Path) -> Result<()> {
    let found = input.canonicalize().about(input)?;
    let place = resolve(out)?;
    if place.starts_with(&found) || found.starts_with(&place) {
        return Err(Failure::Failed(format!(
            "--out {} and the input {} are one inside the other; inputs are never changed",
            out.display(),
            input.display()
        )));
    }
    Ok(())
}
