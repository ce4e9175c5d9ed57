//! Merges and unmerges an adapter that changes from step to step, as a training loop does, and says what that leaves of the
//! base weights: on disk, where each step writes a merged checkpoint and one without the adapter again, and in memory.
//!
//!     cargo run --release --example merge_cycles -- BASE ADAPTERS STEPS
//!
//! `ADAPTERS` has an adapter for each step: `0`, `1` and so on. `scripts/merge-cycles` makes both, and does the same with
//! PEFT. One line of JSON for each step that is looked at.

use lora_kernels::cpu::Cpu;
use lora_peft::files::NewDirectory;
use lora_peft::tensor::float_type;
use lora_peft::{Adapter, Checkpoint, Edit, EditOptions, LoraModel, Progress, Weighted};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [base, adapters, steps] = arguments.as_slice() else {
        return Err("usage: merge_cycles BASE ADAPTERS STEPS".into());
    };
    let (base, adapters, steps) = (Path::new(base), Path::new(adapters), steps.parse()?);
    on_disk(base, adapters, steps)?;
    in_memory(base, adapters, steps, true)?;
    in_memory(base, adapters, steps, false)
}

/// Steps that are looked at: all small ones, and then every tenth.
fn is_shown(step: usize, steps: usize) -> bool {
    step <= 10 || step.is_multiple_of(10) || step == steps
}

fn adapter_of(adapters: &Path, step: usize) -> Result<Adapter, Failure> {
    Ok(Adapter::load(&adapters.join((step - 1).to_string()))?)
}

fn weighted(adapter: &Adapter) -> [Weighted<'_>; 1] {
    [Weighted { name: "step".into(), adapter, weight: 1.0 }]
}

/// Every step starts from the checkpoint that the step before left.
fn on_disk(base: &Path, adapters: &Path, steps: usize) -> Result<(), Failure> {
    let directory = std::env::temp_dir().join(format!("merge-cycles-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let mut names: Vec<String> = Vec::new();
    let (merged_place, first, second) = (directory.join("merged"), directory.join("a"), directory.join("b"));
    let original = Checkpoint::open(base)?;
    let start = Instant::now();
    let mut current: PathBuf = base.to_owned();
    for step in 1..=steps {
        let adapter = adapter_of(adapters, step)?;
        let checkpoint = Checkpoint::open(&current)?;
        let options = EditOptions { restore: Some(Default::default()), ..Default::default() };
        let merge = Edit::merge(&checkpoint, &weighted(&adapter), options)?;
        if names.is_empty() {
            names = merge.changed().map(str::to_owned).collect();
        }
        write(&merge, &merged_place)?;
        let merged = Checkpoint::open(&merged_place)?;
        let unmerge = Edit::unmerge(&merged, &weighted(&adapter), EditOptions::default())?;
        let next = if current == first { &second } else { &first };
        write(&unmerge, next)?;
        current.clone_from(next);
        if is_shown(step, steps) {
            let found = Checkpoint::open(&current)?;
            let record = size(&merged_place.join("lora_restore"))?;
            show(
                "on disk, with a record",
                step,
                &drift(&original, &names, |name| Ok(found.tensor(name)?.to_f32()))?,
                record,
                start,
            );
        }
    }
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

fn write(edit: &Edit<'_>, place: &Path) -> Result<(), Failure> {
    let directory = match place.exists() {
        true => NewDirectory::replace(place)?,
        false => NewDirectory::create(place)?,
    };
    edit.write_into(&Cpu::new(), &directory, &Progress::new())?;
    Ok(directory.commit()?)
}

fn in_memory(base: &Path, adapters: &Path, steps: usize, exact: bool) -> Result<(), Failure> {
    let backend = Cpu::new();
    let original = Checkpoint::open(base)?;
    let mut model = LoraModel::new(Checkpoint::open(base)?);
    model.add_adapter(&backend, "step", adapter_of(adapters, 1)?)?;
    model.set_active(&["step"])?;
    let names: Vec<String> = model.sites("step")?.iter().map(|site| site.weight.clone()).collect();
    let name = if exact { "in memory, with a record" } else { "in memory, without a record" };
    let start = Instant::now();
    for step in 1..=steps {
        // What an optimizer would have made of it.
        model.hot_swap("step", adapter_of(adapters, step)?)?;
        model.merge(&backend, exact.then(Default::default))?;
        let record = model.record_bytes();
        model.unmerge(&backend)?;
        if is_shown(step, steps) {
            show(
                name,
                step,
                &drift(&original, &names, |name| Ok(model.weight(name)?.to_f32()))?,
                record,
                start,
            );
        }
    }
    Ok(())
}

/// What became of the base weights that the adapter changes.
struct Drift {
    weights: usize,
    changed_bits: u64,
    /// Σ |W − W₀| / Σ |W₀|.
    relative: f64,
}

fn drift(
    original: &Checkpoint,
    names: &[String],
    now: impl Fn(&str) -> Result<Vec<f32>, Failure>,
) -> Result<Drift, Failure> {
    let (mut weights, mut changed_bits, mut moved, mut size) = (0, 0, 0.0, 0.0);
    for name in names {
        float_type(original.info(name)?.dtype).ok_or("a weight is not floating-point")?;
        // Values of 16 bits are exact in f32, whose further bits are zero.
        for (before, now) in original.tensor(name)?.to_f32().into_iter().zip(now(name)?) {
            weights += 1;
            changed_bits += u64::from((before.to_bits() ^ now.to_bits()).count_ones());
            moved += f64::from(now - before).abs();
            size += f64::from(before).abs();
        }
    }
    Ok(Drift { weights, changed_bits, relative: moved / size })
}

fn show(name: &str, step: usize, drift: &Drift, record: u64, start: Instant) {
    let values = BTreeMap::from([
        ("step", step.to_string()),
        ("weights", drift.weights.to_string()),
        ("changed_bits", drift.changed_bits.to_string()),
        ("relative_drift", format!("{:e}", drift.relative)),
        ("record_bytes", record.to_string()),
        ("seconds", format!("{:.1}", start.elapsed().as_secs_f64())),
    ]);
    let values: Vec<String> = values.iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
    println!("{{\"system\": \"lora-peft {name}\", {}}}", values.join(", "));
}

/// Bytes of the files in a directory.
fn size(directory: &Path) -> Result<u64, Failure> {
    std::fs::read_dir(directory)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
}
