//! `lora extract`.

use crate::arguments::Extract;
use crate::console::Console;
use crate::destination::Destination;
use crate::failure::{About, Result};
use crate::table::Table;
use crate::units;
use lora_peft::extract::{ExtractOptions, ExtractedModule, extract};
use lora_peft::writer::NewDirectory;
use lora_peft::{Adapter, Checkpoint, Progress};
use std::fs::File;

pub fn run(arguments: &Extract, console: &Console, progress: &Progress) -> Result<()> {
    let base = Checkpoint::open(&arguments.base).about(&arguments.base)?;
    let tuned = Checkpoint::open(&arguments.tuned).about(&arguments.tuned)?;
    let output = &arguments.output;
    let destination = Destination::new(&output.out, output.force, &[&arguments.base, &arguments.tuned])?;
    let options = ExtractOptions { rank: arguments.rank as usize, dtype: arguments.dtype.into() };
    let (adapter, modules) = console
        .watch("comparing", progress, || extract(&base, &tuned, options, progress))
        .about(&arguments.tuned)?;
    save(&adapter, &destination)?;
    destination.finish()?;
    console.note(&errors(&modules))?;
    console.note(&format!(
        "Adapter of {} parameters for {} modules, {} tensors whole; written to {}.\n",
        units::count(adapter.parameters()),
        adapter.layers.len(),
        adapter.replaced.len(),
        output.out.display()
    ))
}

fn save(adapter: &Adapter, destination: &Destination) -> Result<()> {
    let directory = NewDirectory::create(destination.path())?;
    adapter.save(directory.path())?;
    for entry in std::fs::read_dir(directory.path()).about(directory.path())? {
        let path = entry.about(directory.path())?.path();
        File::open(&path).and_then(|file| file.sync_all()).about(&path)?;
    }
    Ok(directory.commit()?)
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
