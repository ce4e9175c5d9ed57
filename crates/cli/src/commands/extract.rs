//! `lora extract`.

use crate::arguments::Extract;
use crate::console::Console;
use crate::destination::Destination;
use crate::failure::{About, Result};
use crate::table::Table;
use crate::units;
use lora_peft::adapter::CONFIG_FILE;
use lora_peft::adapter::WEIGHTS_FILE;
use lora_peft::making::{ExtractOptions, ExtractedModule, extract};
use lora_peft::{Adapter, Checkpoint, Progress, printable};
use std::fs::File;
use std::path::Path;

pub fn run(arguments: &Extract, console: &Console, progress: &Progress) -> Result<()> {
    let base = Checkpoint::open(&arguments.base).about(&arguments.base)?;
    let tuned = Checkpoint::open(&arguments.tuned).about(&arguments.tuned)?;
    let output = &arguments.output;
    let inputs: [&Path; 2] = [&arguments.base, &arguments.tuned];
    let destination = Destination::new(&output.out, output.force, &inputs, console)?;
    let options = ExtractOptions { rank: arguments.rank as usize, dtype: arguments.dtype.into() };
    let (adapter, modules) = console
        .watch("comparing", progress, || extract(&base, &tuned, options, progress))
        .about(&arguments.tuned)?;
    let directory = destination.create(console)?;
    write(&adapter, directory.path()).map_err(|error| directory.explain(error))?;
    destination.finish(directory)?;
    console.note(&errors(&modules))?;
    console.note(&format!(
        "Adapter of {} parameters for {} modules, {} tensors whole; written to {}.\n",
        units::count(adapter.parameters()),
        adapter.layers.len(),
        adapter.replaced.len(),
        printable::path(&output.out)
    ))
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
