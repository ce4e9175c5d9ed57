//! The frozen network with an adapter: inference and changes to its weights.

use crate::adapter::LoraAdapter;
use crate::dense::{DenseNetwork, relu};
use crate::matrix::Matrix;
use anyhow::Result;
use lora_kernels::ops::Rounding;
use lora_kernels::restore::{RestoreMethod, RestoreRecord};
use lora_kernels::{Backend, DType, Device, Forward, MatrixRef, WeightUpdate};

/// The base network on a device, in the element type of choice.
pub struct FrozenNetwork<D: Device> {
    /// From the pixels to the logits.
    pub layers: Vec<FrozenLayer<D>>,
    /// Inputs of the first layer, then the outputs of each.
    pub widths: Vec<usize>,
    /// Element type of weights, biases and activations.
    pub dtype: DType,
    off: LoraAdapter<D>,
}

/// One linear layer.
pub struct FrozenLayer<D: Device> {
    weight: Matrix<D>,
    bias: Matrix<D>,
}

/// What it takes to give back the base weights: a record for each layer.
pub type Records<D> = Vec<RestoreRecord<<D as Backend>::Codes>>;

impl<D: Device> FrozenLayer<D> {
    /// W \[in, out\]: stored \[out, in\] as in PyTorch, seen transposed.
    pub fn weight(&self) -> Result<MatrixRef<'_, <D as Backend>::Memory>> {
        Ok(self.weight.view()?.t())
    }

    /// The bias, one row.
    pub fn bias(&self) -> Result<MatrixRef<'_, <D as Backend>::Memory>> {
        Ok(self.bias.view()?)
    }
}

impl<D: Device> FrozenNetwork<D> {
    /// Copies a trained network to the device and rounds it to `dtype`.
    pub fn new(device: &D, base: &DenseNetwork, dtype: DType) -> Result<Self> {
        let mut layers = Vec::new();
        let mut widths = vec![base.layers[0].inputs];
        for layer in &base.layers {
            layers.push(FrozenLayer {
                weight: Matrix::from_values(device, layer.outputs, layer.inputs, dtype, &layer.weight)?,
                bias: Matrix::from_values(device, 1, layer.outputs, dtype, &layer.bias)?,
            });
            widths.push(layer.outputs);
        }
        let off = LoraAdapter::off(device, &widths)?;
        Ok(FrozenNetwork { layers, widths, dtype, off })
    }

    /// The logits of some images, with an adapter beside the weights or with the weights alone.
    pub fn logits(&self, device: &D, pixels: &[f32], adapter: Option<&LoraAdapter<D>>) -> Result<Vec<f32>> {
        let adapter = adapter.unwrap_or(&self.off);
        let images = pixels.len() / self.widths[0];
        let mut values = pixels.to_vec();
        for (index, layer) in self.layers.iter().enumerate() {
            let x = Matrix::from_values(device, images, self.widths[index], self.dtype, &values)?;
            let mut y = Matrix::zeros(device, images, self.widths[index + 1], self.dtype)?;
            device.forward(Forward {
                x: x.view()?,
                w: layer.weight()?,
                adapter: adapter.layer(index)?,
                bias: Some(layer.bias()?),
                dropout: None,
                y: y.view_mut()?,
                s: None,
            })?;
            values = y.read(device)?;
            if index + 1 < self.layers.len() {
                relu(&mut values);
            }
        }
        Ok(values)
    }

    /// Empty records, one for each layer.
    pub fn records(&self, method: RestoreMethod) -> Records<D> {
        self.layers.iter().map(|_| RestoreRecord::new(method)).collect()
    }

    /// Takes an adapter out of the weights, or puts one in, or both in one pass.
    pub fn update(
        &mut self,
        device: &D,
        remove: Option<&LoraAdapter<D>>,
        add: Option<&LoraAdapter<D>>,
        records: Option<&mut Records<D>>,
    ) -> Result<()> {
        let mut records = records.map(|records| records.iter_mut());
        for (index, layer) in self.layers.iter_mut().enumerate() {
            device.update_weights(WeightUpdate {
                w: layer.weight.view_mut()?.t(),
                remove: remove.map(|adapter| adapter.layer(index)).transpose()?,
                add: add.map(|adapter| adapter.layer(index)).transpose()?,
                rounding: Rounding::Nearest,
                record: records.as_mut().and_then(Iterator::next),
                report: false,
            })?;
        }
        Ok(())
    }

    /// The weights of every layer, stored \[out, in\].
    pub fn weights(&self, device: &D) -> Result<Vec<Vec<f32>>> {
        self.layers.iter().map(|layer| layer.weight.read(device)).collect()
    }

    /// The biases of every layer.
    pub fn biases(&self, device: &D) -> Result<Vec<Vec<f32>>> {
        self.layers.iter().map(|layer| layer.bias.read(device)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exact;
    use lora_kernels::cpu::Cpu;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    fn integers(count: usize, rng: &mut StdRng) -> Vec<f32> {
        (0..count).map(|_| rng.random_range(-2i8..=2).into()).collect()
    }

    #[test]
    fn logits_of_small_integers_are_exact() {
        let rng = &mut StdRng::seed_from_u64(1);
        let device = &Cpu::new();
        let mut base = DenseNetwork::new(&[64, 16, 10], rng);
        for layer in &mut base.layers {
            layer.weight = integers(layer.weight.len(), rng);
            layer.bias = integers(layer.bias.len(), rng);
        }
        let network = FrozenNetwork::new(device, &base, DType::F32).unwrap();
        let mut adapter = LoraAdapter::new(device, &network.widths, 4, rng).unwrap();
        for (layer, pair) in adapter.layers.iter_mut().zip(network.widths.windows(2)) {
            layer.a.write(device, &integers(4 * pair[0], rng)).unwrap();
            layer.b.write(device, &integers(4 * pair[1], rng)).unwrap();
        }
        let pixels = integers(3 * 64, rng);
        let adapted = network.logits(device, &pixels, Some(&adapter)).unwrap();
        let exact: Vec<f64> = exact::logits(device, &network, &adapter, &pixels).unwrap();
        assert_eq!(adapted.iter().copied().map(f64::from).collect::<Vec<_>>(), exact);

        adapter.scale = 0.0;
        let alone = network.logits(device, &pixels, None).unwrap();
        let exact = exact::logits(device, &network, &adapter, &pixels).unwrap();
        assert_eq!(alone.iter().copied().map(f64::from).collect::<Vec<_>>(), exact);
        assert_ne!(alone, adapted);
    }
}
