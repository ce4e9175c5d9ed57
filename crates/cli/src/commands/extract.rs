//! `lora extract`.

use crate::console::Console;
use crate::destination::Destination;
use crate::destination::Output;
use crate::element_type::ElementType;
use crate::failure::{About, Result};
use crate::table::Table;
use crate::units;
use clap::Args;
use lora_peft::adapter::CONFIG_FILE;
use lora_peft::adapter::WEIGHTS_FILE;
use lora_peft::making::{ExtractOptions, Extracted, ExtractedModule, extract};
use lora_peft::{Adapter, Checkpoint, Progress, printable};
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;

/// Make an adapter from the difference of two checkpoints
///
/// For each matrix that differs, B·A is the best approximation of the difference at the rank, by truncated singular
/// value decomposition; stacked experts get factors too. Changed tensors that are no matrices of a layer go along whole:
/// norms, biases, depthwise convolutions, embeddings with added tokens. The summary lists what the rank leaves
/// over: 0 means that the adapter is all of the difference, 1 that it has nothing of it.
///
/// Modules are named as the model's class in transformers names them, so that PEFT finds them. A difference that no
/// adapter can have, such as a tensor that only one of the checkpoints has, is an error before the work starts.
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
    base: PathBuf,
    /// The checkpoint after fine-tuning
    #[arg(long, value_name = "PATH")]
    tuned: PathBuf,
    /// Rank of each module's adapter
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..))]
    rank: u32,
    /// Element type of the adapter
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    dtype: ElementType,
    /// Leave out differences that no adapter can have, and say which
    #[arg(long)]
    skip: bool,
    #[command(flatten)]
    output: Output,
}

impl Extract {
    /// Runs the command.
    pub fn run(&self, console: &Console, progress: &Progress) -> Result<()> {
        let base = Checkpoint::open(&self.base).about(&self.base)?;
        let tuned = Checkpoint::open(&self.tuned).about(&self.tuned)?;
        base.notes().iter().chain(tuned.notes()).for_each(|note| console.remark(note));
        let output = &self.output;
        let inputs: [&Path; 2] = [&self.base, &self.tuned];
        let destination = Destination::new(&output.out, output.force, &inputs, console)?;
        let options = ExtractOptions { rank: self.rank as usize, dtype: self.dtype.into(), skip: self.skip };
        let Extracted { adapter, modules, notes } = console
            .watch("comparing", progress, || extract(&base, &tuned, options, progress))
            .about(&self.tuned)?;
        let directory = destination.create(console)?;
        write(&adapter, directory.path()).map_err(|error| directory.explain(error))?;
        destination.finish(directory)?;
        notes.iter().for_each(|note| console.warning(&note.to_string()));
        console.note(&errors(&modules))?;
        console.note(&format!(
            "Adapter of {} parameters for {} modules, {} tensors whole; written to {}.\n",
            units::count(adapter.parameters()),
            adapter.layers.len(),
            adapter.replaced.len(),
            printable::path(&output.out)
        ))
    }
}

/// Unlike [`Adapter::save`] it never creates the directory, which a signal may have removed, and syncs.
fn write(adapter: &Adapter, directory: &Path) -> lora_peft::Result<()> {
    adapter.config.save(directory)?;
    let at = |path: &Path, source| lora_peft::Error::Io { path: path.to_owned(), source };
    let path = directory.join(WEIGHTS_FILE);
    std::fs::write(&path, adapter.to_bytes()?).map_err(|error| at(&path, error))?;
    for file in [CONFIG_FILE, WEIGHTS_FILE] {
        let path = directory.join(file);
        File::open(&path).and_then(|file| file.sync_all()).map_err(|error| at(&path, error))?;
    }
    Ok(())
}

fn errors(modules: &[ExtractedModule]) -> String {
    let mut table = Table::new(&["module", "rank", "norm of difference", "relative error left"]);
    for module in modules {
        table.row(vec![
            module.module.clone(),
            module.rank.to_string(),
            format!("{:.4}", module.norm),
            format!("{:.4}", module.relative_error),
        ]);
    }
    table.text()
}
