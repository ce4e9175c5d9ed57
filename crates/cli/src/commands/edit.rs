//! What merge, unmerge and switch have in common.

use crate::adapters::NamedAdapter;
use crate::console::Console;
use crate::destination::{Destination, Output};
use crate::device::{self, DeviceChoice};
use crate::failure::{About, Failure, Result};
use crate::summary;
use clap::{Args, ValueEnum};
use lora_kernels::Rounding;
use lora_peft::merge::{AdapterFileOptions, TokenizerOf};
use lora_peft::{Edit, EditOptions, Progress};
use std::path::Path;
use std::time::Instant;

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

/// Names of rounding modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoundingMode {
    Nearest,
    Stochastic,
}

/// What is done about the files beside adapters that are put in.
#[derive(Debug, Args)]
pub struct BesideAdapters {
    /// Whose tokenizer and chat template the new checkpoint gets where an adapter's directory has others
    #[arg(long, value_name = "WHOSE", default_value = "adapter")]
    tokenizer: Tokenizer,
    /// Go on without the further weights that an adapter's directory has, such as non_lora_trainables.bin or
    /// new_embeddings.safetensors
    #[arg(long)]
    leave_weights: bool,
}

/// Names of those who have a tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tokenizer {
    Base,
    Adapter,
}

impl BesideAdapters {
    /// Looks at what lies beside the adapters, and says what is taken or left.
    pub fn take(&self, edit: &mut Edit<'_>, adapters: &[NamedAdapter], console: &Console) -> Result<()> {
        let directories: Vec<&Path> = adapters.iter().map(|named| named.path.as_path()).collect();
        let tokenizer = match self.tokenizer {
            Tokenizer::Base => TokenizerOf::Base,
            Tokenizer::Adapter => TokenizerOf::Adapter,
        };
        let options = AdapterFileOptions { tokenizer, leave_weights: self.leave_weights };
        let notes = edit.take_adapter_files(&directories, options)?;
        notes.iter().for_each(|note| console.warning(&note.to_string()));
        Ok(())
    }
}

/// The options of an edit.
pub struct Job<'a> {
    pub checkpoint: &'a Path,
    pub output: &'a Output,
    pub update: &'a Update,
}

impl Job<'_> {
    pub fn destination(&self, adapters: &[&[NamedAdapter]], console: &Console) -> Result<Destination> {
        let adapters = adapters.iter().copied().flatten().map(|named| named.path.as_path());
        let inputs: Vec<&Path> = std::iter::once(self.checkpoint).chain(adapters).collect();
        Destination::new(&self.output.out, self.output.force, &inputs, console)
    }

    pub fn options(&self) -> EditOptions {
        let rounding = match self.update.rounding {
            RoundingMode::Nearest => Rounding::Nearest,
            RoundingMode::Stochastic => Rounding::Stochastic { seed: self.update.seed },
        };
        EditOptions { rounding, report: self.update.report, ..EditOptions::default() }
    }

    /// Says which files a plan is about that cannot be made.
    pub fn planned<'e>(
        &self,
        plan: lora_peft::Result<Edit<'e>>,
        adapters: &[&[NamedAdapter]],
    ) -> Result<Edit<'e>> {
        plan.map_err(|error| {
            let paths = adapters.iter().copied().flatten().map(|named| named.path.display().to_string());
            let paths = paths.collect::<Vec<_>>().join(" and ");
            Failure::Failed(format!("{} with {paths}: {error}", self.checkpoint.display()))
        })
    }

    /// Writes the new checkpoint, and says what was done.
    pub fn write(
        &self,
        edit: &Edit<'_>,
        destination: Destination,
        done: &str,
        console: &Console,
        progress: &Progress,
    ) -> Result<()> {
        let known = edit.notes();
        known.iter().for_each(|note| console.remark(note));
        let (mut backend, device) = device::open(self.update.device)?;
        let start = Instant::now();
        let directory = destination.create(console)?;
        let result = console
            .watch("writing", progress, || edit.write_into(backend.as_mut(), &directory, progress))
            .about(self.checkpoint)?;
        destination.finish(directory)?;
        let found = result.notes.iter().filter(|note| !known.contains(note));
        found.for_each(|note| console.warning(&note.to_string()));
        if self.update.report {
            console.result(&summary::report(&result))?;
        }
        console.note(done)?;
        console.note(&summary::requantized(&result))?;
        console.note(&summary::written(&result, &self.output.out, &device, start.elapsed()))
    }
}

/// What to say of the exactness of taking adapters out: `exact`, or a warning now.
pub fn exactness(edit: &Edit<'_>, exact: &str, console: &Console) -> String {
    if edit.is_exact() {
        return format!("{exact}\n");
    }
    console.warning(
        "not exact: the checkpoint has no restore record, so what rounding lost when it was merged stays lost; \
         `lora merge --exact` keeps a record",
    );
    String::new()
}
