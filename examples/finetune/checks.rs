//! What LoRA promises about merging, measured.

use crate::adapter::LoraAdapter;
use crate::dataset::CLASSES;
use crate::device::Device;
use crate::exact;
use crate::loss::predictions;
use crate::network::{FrozenNetwork, Records};
use anyhow::Result;
use lora_kernels::restore::{RestoreMethod, RestoreRecord};
use std::time::{Duration, Instant};

/// A claim of the report, and whether it held.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// What should be so, with the numbers found.
    pub text: String,
    /// Whether it is.
    pub held: bool,
}

impl Claim {
    /// A claim with the numbers found.
    pub fn new(held: bool, text: impl Into<String>) -> Self {
        Claim { text: text.into(), held }
    }
}

/// Logits with the adapter merged into the weights against logits with the adapter beside them.
#[derive(Debug)]
pub struct Merging {
    /// Largest difference of a logit.
    pub difference: f64,
    /// Largest distance of an unmerged logit from exact arithmetic: what rounding does anyway.
    pub rounding: f64,
    /// Largest logit.
    pub largest_logit: f64,
    /// Images that get the same class either way.
    pub same_class: usize,
    /// Images compared.
    pub images: usize,
}

/// Compares merged and unmerged logits; the weights are afterwards as before.
pub fn merging<D: Device>(
    device: &mut D,
    network: &mut FrozenNetwork<D>,
    adapter: &LoraAdapter<D>,
    pixels: &[f32],
) -> Result<Merging> {
    let unmerged = network.logits(device, pixels, Some(adapter))?;
    let exact = exact::logits(device, network, adapter, pixels)?;
    let mut records = network.records(RestoreMethod::Codes);
    network.update(device, None, Some(adapter), Some(&mut records))?;
    let merged = network.logits(device, pixels, None)?;
    network.update(device, Some(adapter), None, Some(&mut records))?;
    let classes = predictions(&unmerged, CLASSES);
    let same_class = classes.iter().zip(predictions(&merged, CLASSES)).filter(|(a, b)| **a == *b).count();
    let unmerged: Vec<f64> = unmerged.into_iter().map(f64::from).collect();
    let merged: Vec<f64> = merged.into_iter().map(f64::from).collect();
    Ok(Merging {
        difference: largest_difference(&merged, &unmerged),
        rounding: largest_difference(&unmerged, &exact),
        largest_logit: exact.iter().fold(0.0, |largest, logit| logit.abs().max(largest)),
        same_class,
        images: classes.len(),
    })
}

impl Merging {
    /// Merging rounds each weight once more and leaves out the rounding of S, so the difference should be a small
    /// multiple of the rounding that is there anyway. Four times is allowed: twice for the larger error of the two ways,
    /// and twice because they add up.
    pub fn claims(&self, adapter: &str) -> [Claim; 2] {
        let Merging { difference, rounding, largest_logit, same_class, images } = *self;
        // Where two classes are a tie up to rounding, either may win in 16 bits.
        let ties = images / 100;
        [
            Claim::new(
                difference <= 4.0 * rounding,
                format!(
                    "{adapter}: merged logits equal unmerged ones up to {difference:.2e} \
                     (allowed {:.2e}: 4 times the rounding error without merging; the largest logit is {largest_logit:.1})",
                    4.0 * rounding
                ),
            ),
            Claim::new(
                images - same_class <= ties,
                format!("{adapter}: merged and unmerged give {same_class} of {images} images the same class"),
            ),
        ]
    }
}

/// What many switches between two adapters leave behind.
#[derive(Debug)]
pub struct Switching {
    /// Weights of the network.
    pub weights: usize,
    /// Weights with an adapter in them that differ, after the switches, from those right after its first merge.
    pub merged_changed: usize,
    /// Weights that differ from the base in the end.
    pub base_changed: usize,
    /// Bytes of restore record a weight.
    pub record_bytes: f64,
    /// Time of one switch of all layers.
    pub time: Duration,
}

/// Merges the first adapter, switches to the second and back many times, and takes the first one out, with restore records or without.
pub fn switching<D: Device>(
    device: &mut D,
    network: &mut FrozenNetwork<D>,
    adapters: &[LoraAdapter<D>; 2],
    round_trips: u32,
    method: Option<RestoreMethod>,
) -> Result<Switching> {
    let base = network.weights(device)?;
    let mut records = method.map(|method| network.records(method));
    let [first, second] = adapters;
    network.update(device, None, Some(first), records.as_mut())?;
    let freshly_merged = network.weights(device)?;
    let start = Instant::now();
    for _ in 0..round_trips {
        network.update(device, Some(first), Some(second), records.as_mut())?;
        network.update(device, Some(second), Some(first), records.as_mut())?;
    }
    let time = start.elapsed() / (2 * round_trips);
    let merged = network.weights(device)?;
    let weights = base.iter().map(Vec::len).sum();
    let record_bytes = records.as_ref().map_or(0, record_bytes::<D>) as f64 / weights as f64;
    network.update(device, Some(first), None, records.as_mut())?;
    Ok(Switching {
        weights,
        merged_changed: different_bits(&merged, &freshly_merged),
        base_changed: different_bits(&network.weights(device)?, &base),
        record_bytes,
        time,
    })
}

fn record_bytes<D: Device>(records: &Records<D>) -> usize {
    let of = |record: &RestoreRecord<D::Codes>| {
        let codes = record
            .recorded()
            .map_or(0, |made| RestoreRecord::<D::Codes>::code_bytes(record.method(), made.shape, made.dtype));
        codes + 12 * record.escapes().len()
    };
    records.iter().map(of).sum()
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn different_bits(a: &[Vec<f32>], b: &[Vec<f32>]) -> usize {
    let (a, b) = (a.iter().flatten(), b.iter().flatten());
    a.zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count()
}
