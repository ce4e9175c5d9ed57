//! What LoRA promises about merging, measured.

use crate::adapter::LoraAdapter;
use crate::dataset::CLASSES;
use crate::exact;
use crate::loss::predictions;
use crate::network::{FrozenNetwork, Records};
use crate::report::difference;
use anyhow::Result;
use lora_kernels::restore::{RestoreMethod, RestoreRecord};
use lora_kernels::{Backend, Device};
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
    device: &D,
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
    /// Merging rounds each weight once more and leaves out the rounding of S. So its error is of the size of the one
    /// that is there anyway: at most twice as large is allowed, and once more twice because the two add up in the
    /// difference.
    pub fn allowed_difference(&self) -> f64 {
        4.0 * self.rounding
    }

    /// Merged and unmerged logits are equal up to rounding, and so are the classes.
    pub fn claims(&self, adapter: &str) -> [Claim; 2] {
        // Where two classes are a tie up to rounding, either may win in 16 bits.
        let ties = self.images / 100;
        [
            Claim::new(
                self.difference <= self.allowed_difference(),
                format!(
                    "{adapter}: merged logits equal unmerged ones up to {} (limit {})",
                    difference(self.difference),
                    difference(self.allowed_difference())
                ),
            ),
            Claim::new(
                self.images - self.same_class <= ties,
                format!(
                    "{adapter}: merged and unmerged give {} of {} images the same class (limit {})",
                    self.same_class,
                    self.images,
                    self.images - ties
                ),
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
    device: &D,
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
    let of = |record: &RestoreRecord<<D as Backend>::Codes>| {
        let codes = record.recorded().map_or(0, |made| {
            RestoreRecord::<<D as Backend>::Codes>::code_bytes(record.method(), made.shape, made.dtype)
        });
        codes + 12 * record.escapes().len()
    };
    records.iter().map(of).sum()
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    // Unlike `f64::max`, this keeps NaN.
    differences.fold(0.0, |largest, difference| if difference <= largest { largest } else { difference })
}

fn different_bits(a: &[Vec<f32>], b: &[Vec<f32>]) -> usize {
    let (a, b) = (a.iter().flatten(), b.iter().flatten());
    a.zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::{DenseNetwork, uniform};
    use lora_kernels::DType;
    use lora_kernels::cpu::Cpu;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    /// A network and two adapters that change it a lot, all random.
    fn random(device: &Cpu, dtype: DType) -> (FrozenNetwork<Cpu>, [LoraAdapter<Cpu>; 2]) {
        let rng = &mut StdRng::seed_from_u64(1);
        let base = DenseNetwork::new(&[64, 48, 10], rng);
        let network = FrozenNetwork::new(device, &base, dtype).unwrap();
        let adapters = [3, 5].map(|rank| {
            let mut adapter = LoraAdapter::new(device, &network.widths, rank, rng).unwrap();
            for (layer, outputs) in adapter.layers.iter_mut().zip([48, 10]) {
                layer.b.write(device, &uniform(outputs * rank, 0.05, rng)).unwrap();
            }
            adapter
        });
        (network, adapters)
    }

    #[test]
    fn claims_hold_for_random_weights_of_every_type() {
        let device = &Cpu::new();
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let (mut network, adapters) = random(device, dtype);
            let base = network.weights(device).unwrap();
            let pixels = uniform(200 * 64, 1.0, &mut StdRng::seed_from_u64(2));
            let merging = merging(device, &mut network, &adapters[0], &pixels).unwrap();
            assert_eq!((held(&merging)[0], merging.images), (true, 200), "{dtype}: {merging:?}");
            assert!(merging.difference > 0.0, "{dtype}: the merge did nothing");
            assert_eq!(different_bits(&network.weights(device).unwrap(), &base), 0);

            let method = Some(RestoreMethod::Codes);
            let exact = switching(device, &mut network, &adapters, 4, method).unwrap();
            assert_eq!((exact.merged_changed, exact.base_changed), (0, 0), "{dtype}");
            assert!(exact.record_bytes >= 1.0);
            let plain = switching(device, &mut network, &adapters, 4, None).unwrap();
            assert!(plain.base_changed > 0 && plain.record_bytes == 0.0, "{dtype}: {plain:?}");
        }
    }

    fn held(merging: &Merging) -> [bool; 2] {
        merging.claims("adapter").map(|claim| claim.held)
    }

    #[test]
    fn merging_is_held_to_four_rounding_errors_and_one_class_in_a_hundred() {
        let good =
            Merging { difference: 0.4, rounding: 0.1, largest_logit: 20.0, same_class: 198, images: 200 };
        assert_eq!(held(&good), [true, true]);
        assert_eq!(held(&Merging { difference: 0.41, ..good }), [false, true]);
        assert_eq!(held(&Merging { same_class: 197, ..good }), [true, false]);
        assert_eq!(held(&Merging { difference: f64::NAN, ..good }), [false, true]);
    }

    #[test]
    fn differences_see_every_bit_and_every_number() {
        assert_eq!(different_bits(&[vec![0.0, 1.0], vec![2.0]], &[vec![-0.0, 1.0], vec![2.5]]), 2);
        assert_eq!(largest_difference(&[1.0, -3.0], &[0.5, 1.0]), 4.0);
        assert!(largest_difference(&[1.0, f64::NAN], &[1.0, 1.0]).is_nan());
    }
}
