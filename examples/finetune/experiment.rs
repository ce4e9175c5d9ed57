//! The experiment, written once for all devices.

use crate::adapter::{self, LoraAdapter};
use crate::checks::{self, Claim, Merging};
use crate::dataset::{self, CLASSES, PIXELS, Samples, Task};
use crate::dense::DenseNetwork;
use crate::device::NamedDevice;
use crate::loss::accuracy;
use crate::memory::Memory;
use crate::network::FrozenNetwork;
use crate::options::Options;
use crate::plot::{self, Curve};
use crate::progress::Progress;
use crate::report::{Table, difference, kibibytes, milliseconds, percent, thousands};
use crate::training::{DROPOUT, Training};
use anyhow::Result;
use lora_kernels::restore::RestoreMethod;
use lora_kernels::{DType, Device};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::time::{Duration, Instant};

const WIDTHS: [usize; 4] = [PIXELS, 512, 512, CLASSES];
const BATCH: usize = 32;
/// A base that has not learned a task of five digits guesses one in five right: it may do twice as well.
const AT_CHANCE: f64 = 0.4;
const LEARNED: f64 = 0.9;
/// To the other adapter and back.
const ROUND_TRIPS: u32 = 50;

/// Accuracies on the held-out images of one task.
struct Accuracies {
    base: f64,
    adapters: [f64; 2],
}

/// Trains, measures and reports. Whether every claim held.
pub fn run<D: NamedDevice>(device: &D, options: &Options) -> Result<bool> {
    let dtype = DType::from(options.dtype);
    let rank = usize::from(options.rank);
    let mut rng = StdRng::seed_from_u64(options.seed);
    let (base_task, tasks) = dataset::tasks(&mut rng)?;

    println!("device    {}", device.name());
    println!("network   {} with ReLU, in {dtype}", WIDTHS.map(|width| width.to_string()).join(" > "));
    println!(
        "adapters  rank {rank} on every layer, in {}, scale {}, dropout {DROPOUT}",
        adapter::ADAPTER_DTYPE,
        adapter::scale(rank)
    );
    println!("data      8 x 8 images of handwritten digits; a quarter of them is held out\n");

    let base = train_base(&base_task, options, &mut rng);
    let mut network = FrozenNetwork::new(device, &base, dtype)?;
    let mut train = |number: usize, task: &Task| {
        train_adapter(device, &network, &format!("adapter {number}: {}", task.name), task, options, &mut rng)
    };
    let [(first, first_curve, first_time), (second, second_curve, second_time)] =
        [train(1, &tasks[0])?, train(2, &tasks[1])?];
    let adapters = [first, second];

    let mut measured = Vec::new();
    for task in [&base_task, &tasks[0], &tasks[1]] {
        measured.push(accuracies(device, &network, &adapters, &task.held_out)?);
    }
    print_accuracies([&base_task, &tasks[0], &tasks[1]], &measured);
    print_costs(base.parameters(), rank, dtype);
    print_times([first_time, second_time]);

    let mut claims = accuracy_claims([&base_task, &tasks[0], &tasks[1]], &measured);
    claims.extend(merging_claims(device, &mut network, &adapters, &tasks)?);
    claims.extend(switching_claims(device, &base, &mut network, &adapters)?);
    print_claims(&claims);

    if let Some(path) = &options.plot {
        let title = format!("LoRA of rank {rank} on a frozen {dtype} network, {}", device.name());
        plot::write(path, &title, &[first_curve, second_curve])?;
        println!("\nloss curves in {}", path.display());
    }
    Ok(claims.iter().all(|claim| claim.held))
}

fn train_base(task: &Task, options: &Options, rng: &mut StdRng) -> DenseNetwork {
    let mut network = DenseNetwork::new(&WIDTHS, rng);
    let epochs = usize::from(options.epochs);
    let mut progress =
        Progress::new(format!("base: {}", task.name), epochs * task.training.len().div_ceil(BATCH));
    network.train(&task.training, epochs, BATCH, rng, |loss| progress.step(loss));
    network
}

/// The adapter, its losses, and the median time of a step.
fn train_adapter<D: Device>(
    device: &D,
    network: &FrozenNetwork<D>,
    name: &str,
    task: &Task,
    options: &Options,
    rng: &mut StdRng,
) -> Result<(LoraAdapter<D>, Curve, Duration)> {
    let adapter = LoraAdapter::new(device, &WIDTHS, usize::from(options.rank), rng)?;
    let mut training = Training::new(device, network, adapter, BATCH, options.seed)?;
    let epochs = usize::from(options.epochs);
    let mut progress = Progress::new(name.into(), epochs * task.training.len().div_ceil(BATCH));
    let mut losses = Vec::new();
    let mut times = Vec::new();
    for _ in 0..epochs {
        for batch in task.training.shuffled_batches(BATCH, rng) {
            let start = Instant::now();
            let loss = training.step(device, &batch)?;
            times.push(start.elapsed());
            progress.step(loss);
            losses.push(loss);
        }
    }
    times.sort_unstable();
    let median = times[times.len() / 2];
    Ok((training.finish(), Curve { name: name.into(), losses }, median))
}

fn accuracies<D: Device>(
    device: &D,
    network: &FrozenNetwork<D>,
    adapters: &[LoraAdapter<D>; 2],
    samples: &Samples,
) -> Result<Accuracies> {
    let of = |adapter| {
        let logits = network.logits(device, &samples.pixels, adapter)?;
        anyhow::Ok(accuracy(&logits, &samples.labels))
    };
    let base = of(None)?;
    Ok(Accuracies { base, adapters: [of(Some(&adapters[0]))?, of(Some(&adapters[1]))?] })
}

fn print_accuracies(tasks: [&Task; 3], measured: &[Accuracies]) {
    let mut table = Table::new(["", "images", "base alone", "adapter 1", "adapter 2"]);
    for (task, accuracies) in tasks.into_iter().zip(measured) {
        let [first, second] = accuracies.adapters;
        let shares = [accuracies.base, first, second].map(percent);
        table.row([task.name.to_owned(), task.held_out.len().to_string()].into_iter().chain(shares));
    }
    println!("\naccuracy on held-out images\n{table}");
}

fn print_costs(base: usize, rank: usize, dtype: DType) {
    let trained = adapter::parameters(&WIDTHS, rank);
    let (full, lora) = (Memory::full(base, dtype), Memory::lora(base, dtype, trained));
    let mut table = Table::new(["", "full fine-tuning", "LoRA, each task"]);
    let mut row = |name: &str, full: String, lora: String| table.row([name.to_owned(), full, lora]);
    row("all parameters", thousands(base), thousands(base + trained));
    row("trained parameters", thousands(base), thousands(trained));
    row("trained share", percent(1.0), percent(trained as f64 / (base + trained) as f64));
    row("weights", kibibytes(full.weights), kibibytes(lora.weights));
    row("gradients", kibibytes(full.gradients), kibibytes(lora.gradients));
    row("optimizer state", kibibytes(full.optimizer), kibibytes(lora.optimizer));
    row("together", kibibytes(full.total()), kibibytes(lora.total()));
    println!("parameters and memory for training\n{table}");
}

fn print_times(times: [Duration; 2]) {
    let mut table = Table::new(["", "adapter 1", "adapter 2"]);
    table.row(std::iter::once("forward, backward, Adam".into()).chain(times.map(milliseconds)));
    println!("median time of a training step with {BATCH} images\n{table}");
}

fn accuracy_claims(tasks: [&Task; 3], measured: &[Accuracies]) -> Vec<Claim> {
    let base = &measured[0];
    let mut claims = vec![Claim::new(
        base.base >= LEARNED,
        format!(
            "the base reads {} in {} of new images (at least {})",
            tasks[0].name,
            percent(base.base),
            percent(LEARNED)
        ),
    )];
    for index in 0..2 {
        let (before, after) = (measured[index + 1].base, measured[index + 1].adapters[index]);
        claims.push(Claim::new(
            before <= AT_CHANCE && after >= LEARNED,
            format!(
                "adapter {} raises {} from {} (at most {}) to {} (at least {})",
                index + 1,
                tasks[index + 1].name,
                percent(before),
                percent(AT_CHANCE),
                percent(after),
                percent(LEARNED)
            ),
        ));
    }
    claims
}

fn merging_claims<D: Device>(
    device: &D,
    network: &mut FrozenNetwork<D>,
    adapters: &[LoraAdapter<D>; 2],
    tasks: &[Task; 2],
) -> Result<Vec<Claim>> {
    let mut measured = Vec::new();
    for (adapter, task) in adapters.iter().zip(tasks) {
        measured.push(checks::merging(device, network, adapter, &task.held_out.pixels)?);
    }
    let mut table = Table::new(["", "adapter 1", "adapter 2"]);
    let mut row = |name: &str, of: fn(&Merging) -> String| {
        table.row(std::iter::once(name.to_owned()).chain(measured.iter().map(of)));
    };
    row("largest logit", |merging| format!("{:.1}", merging.largest_logit));
    row("rounding error without merging", |merging| difference(merging.rounding));
    row("difference between merged and unmerged", |merging| difference(merging.difference));
    row("limit: 4 rounding errors", |merging| difference(merging.allowed_difference()));
    println!("merging adapters into the weights\n{table}");
    let claims = measured.iter().enumerate();
    Ok(claims.flat_map(|(index, merging)| merging.claims(&format!("adapter {}", index + 1))).collect())
}

fn switching_claims<D: Device>(
    device: &D,
    base: &DenseNetwork,
    network: &mut FrozenNetwork<D>,
    adapters: &[LoraAdapter<D>; 2],
) -> Result<[Claim; 2]> {
    let switches = 2 * ROUND_TRIPS;
    let exact = checks::switching(device, network, adapters, ROUND_TRIPS, Some(RestoreMethod::Codes))?;
    // On a copy of its own, which it spoils.
    let mut copy = FrozenNetwork::new(device, base, network.dtype)?;
    let plain = checks::switching(device, &mut copy, adapters, ROUND_TRIPS, None)?;
    println!("switching adapters in the weights, {switches} times");
    let mut table = Table::new(["", "with restore records", "without"]);
    let mut row = |name: &str, exact: String, plain: String| table.row([name.to_owned(), exact, plain]);
    row("time of a switch", milliseconds(exact.time), milliseconds(plain.time));
    row("record, bytes a weight", format!("{:.2}", exact.record_bytes), "0".into());
    row("base weights changed", thousands(exact.base_changed), thousands(plain.base_changed));
    println!("{table}");
    let weights = thousands(exact.weights);
    Ok([
        Claim::new(
            exact.merged_changed == 0,
            format!(
                "after {switches} switches the weights are those of a fresh merge, bit for bit ({} of {weights} differ)",
                thousands(exact.merged_changed)
            ),
        ),
        Claim::new(
            exact.base_changed == 0,
            format!(
                "taking the adapter out gives back the base weights, bit for bit ({} of {weights} differ)",
                thousands(exact.base_changed)
            ),
        ),
    ])
}

fn print_claims(claims: &[Claim]) {
    println!("claims");
    for claim in claims {
        println!("  {:<6}  {}", if claim.held { "ok" } else { "FAILED" }, claim.text);
    }
}
