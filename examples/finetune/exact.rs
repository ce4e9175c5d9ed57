//! The network in `f64` on the host: what its logits would be if nothing were rounded.

use crate::adapter::LoraAdapter;
use crate::network::FrozenNetwork;
use anyhow::Result;
use lora_kernels::Device;

/// The logits of some images with the adapter beside the weights, from the numbers on the device.
pub fn logits<D: Device>(
    device: &D,
    network: &FrozenNetwork<D>,
    adapter: &LoraAdapter<D>,
    pixels: &[f32],
) -> Result<Vec<f64>> {
    let (weights, biases) = (network.weights(device)?, network.biases(device)?);
    let mut values: Vec<f64> = pixels.iter().copied().map(f64::from).collect();
    for (index, (weight, bias)) in weights.iter().zip(&biases).enumerate() {
        let (a, b) = (adapter.layers[index].a.read(device)?, adapter.layers[index].b.read(device)?);
        let inputs = network.widths[index];
        let mut y = linear(&values, inputs, weight);
        let s = linear(&values, inputs, &a);
        let delta = linear(&s, adapter.layers[index].rank(), &b);
        for (row, delta) in y.chunks_mut(bias.len()).zip(delta.chunks(bias.len())) {
            for ((y, delta), &bias) in row.iter_mut().zip(delta).zip(bias) {
                *y += f64::from(adapter.scale) * delta + f64::from(bias);
                if index + 1 < weights.len() {
                    *y = y.max(0.0);
                }
            }
        }
        values = y;
    }
    Ok(values)
}

/// x·Wᵀ, with W stored \[out, in\].
fn linear(x: &[f64], inputs: usize, weight: &[f32]) -> Vec<f64> {
    let product = |x: &[f64], w: &[f32]| x.iter().zip(w).map(|(x, &w)| x * f64::from(w)).sum();
    x.chunks(inputs).flat_map(|x| weight.chunks(inputs).map(move |w| product(x, w))).collect()
}
