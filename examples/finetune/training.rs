//! Trains an adapter: forward, loss, backward, Adam.
//!
//! The products with weights and adapters, nearly all of the arithmetic, are this crate's operations on the device.
//! What is between them (ReLU, loss, Adam) belongs to a framework; here it is a few lines on the host.

use crate::adapter::LoraAdapter;
use crate::dataset::Samples;
use crate::dense::{relu, relu_backward};
use crate::loss::cross_entropy;
use crate::matrix::Matrix;
use crate::network::FrozenNetwork;
use crate::optimizer::Adam;
use anyhow::Result;
use lora_kernels::ops::Output;
use lora_kernels::{Backward, Device, Dropout, Forward};

const LEARNING_RATE: f32 = 2e-3;
/// Probability of dropping an input of the adapter's branch.
pub const DROPOUT: f32 = 0.1;

/// An adapter in training on top of a frozen network.
pub struct Training<'a, D: Device> {
    network: &'a FrozenNetwork<D>,
    adapter: LoraAdapter<D>,
    layers: Vec<LayerState<D>>,
    seed: u64,
    steps: u64,
}

/// What training keeps for one layer, allocated once for the largest batch.
struct LayerState<D: Device> {
    x: Matrix<D>,
    y: Matrix<D>,
    s: Matrix<D>,
    dx: Matrix<D>,
    dy: Matrix<D>,
    da: Trained<D>,
    db: Trained<D>,
}

/// One trained matrix: its gradient on the device; its values and the optimizer's state on the host.
struct Trained<D: Device> {
    gradient: Matrix<D>,
    values: Vec<f32>,
    adam: Adam,
}

impl<D: Device> Trained<D> {
    /// For a matrix of this shape.
    fn new(device: &D, of: &Matrix<D>) -> Result<Self> {
        let values = of.read(device)?;
        let adam = Adam::new(values.len(), LEARNING_RATE);
        Ok(Trained { gradient: Matrix::zeros_like(device, of)?, values, adam })
    }

    fn step(&mut self, device: &D, matrix: &mut Matrix<D>, batch: usize) -> Result<()> {
        let gradient = self.gradient.read(device)?;
        self.adam.step(&mut self.values, &gradient, batch);
        matrix.write(device, &self.values)
    }
}

impl<'a, D: Device> Training<'a, D> {
    /// Prepares for batches of at most `batch` images.
    pub fn new(
        device: &D,
        network: &'a FrozenNetwork<D>,
        adapter: LoraAdapter<D>,
        batch: usize,
        seed: u64,
    ) -> Result<Self> {
        let mut layers = Vec::new();
        for (index, lora) in adapter.layers.iter().enumerate() {
            let (inputs, outputs) = (network.widths[index], network.widths[index + 1]);
            let zeros = |cols| Matrix::zeros(device, batch, cols, network.dtype);
            layers.push(LayerState {
                x: zeros(inputs)?,
                y: zeros(outputs)?,
                s: zeros(lora.rank())?,
                dx: zeros(inputs)?,
                dy: zeros(outputs)?,
                da: Trained::new(device, &lora.a)?,
                db: Trained::new(device, &lora.b)?,
            });
        }
        Ok(Training { network, adapter, layers, seed, steps: 0 })
    }

    /// One step on a batch; returns its mean loss.
    pub fn step(&mut self, device: &D, batch: &Samples) -> Result<f32> {
        let (inputs, logits) = self.forward(device, &batch.pixels)?;
        let (loss, gradient) = cross_entropy(&logits, &batch.labels);
        self.backward(device, &inputs, gradient)?;
        for (layer, lora) in self.layers.iter_mut().zip(&mut self.adapter.layers) {
            layer.da.step(device, &mut lora.a, batch.len())?;
            layer.db.step(device, &mut lora.b, batch.len())?;
        }
        self.steps += 1;
        Ok(loss)
    }

    /// The trained adapter.
    pub fn finish(self) -> LoraAdapter<D> {
        self.adapter
    }

    /// A new mask for every layer and step; the backward asks for the same again.
    fn dropout(&self, layer: usize) -> Result<Dropout> {
        let offset = self.steps * self.layers.len() as u64 + layer as u64;
        Ok(Dropout::new(DROPOUT, self.seed, offset)?)
    }

    /// The input of every layer, and the logits.
    fn forward(&mut self, device: &D, pixels: &[f32]) -> Result<(Vec<Vec<f32>>, Vec<f32>)> {
        let rows = pixels.len() / self.network.widths[0];
        let mut inputs = Vec::new();
        let mut values = pixels.to_vec();
        for (index, layer) in self.network.layers.iter().enumerate() {
            if index > 0 {
                relu(&mut values);
            }
            let dropout = self.dropout(index)?;
            let state = &mut self.layers[index];
            state.x.write(device, &values)?;
            inputs.push(values);
            device.forward(Forward {
                x: state.x.top(rows)?,
                w: layer.weight()?,
                adapter: self.adapter.layer(index)?,
                bias: Some(layer.bias()?),
                dropout: Some(dropout),
                y: state.y.top_mut(rows)?,
                s: Some(state.s.top_mut(rows)?),
            })?;
            values = state.y.read_top(device, rows)?;
        }
        Ok((inputs, values))
    }

    /// The gradients of every A and B, from that of the logits.
    fn backward(&mut self, device: &D, inputs: &[Vec<f32>], mut gradient: Vec<f32>) -> Result<()> {
        let rows = inputs[0].len() / self.network.widths[0];
        for (index, layer) in self.network.layers.iter().enumerate().rev() {
            let dropout = self.dropout(index)?;
            let state = &mut self.layers[index];
            state.dy.write(device, &gradient)?;
            // Nothing is trained below the first layer.
            let dx = (index > 0).then(|| state.dx.top_mut(rows)).transpose()?;
            device.backward(Backward {
                x: Some(state.x.top(rows)?),
                w: layer.weight()?,
                adapter: self.adapter.layer(index)?,
                dropout: Some(dropout),
                dy: state.dy.top(rows)?,
                s: Some(state.s.top(rows)?),
                dx: dx.map(Output::overwrite),
                da: Some(Output::overwrite(state.da.gradient.view_mut()?.t())),
                db: Some(Output::overwrite(state.db.gradient.view_mut()?.t())),
                dbias: None,
            })?;
            if index > 0 {
                gradient = state.dx.read_top(device, rows)?;
                relu_backward(&mut gradient, &inputs[index]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::DenseNetwork;
    use lora_kernels::DType;
    use lora_kernels::cpu::Cpu;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn training_learns_in_every_type_and_leaves_the_weights_alone() {
        let device = &Cpu::new();
        let mut pixels = vec![0.0; 128];
        pixels[..32].fill(1.0);
        pixels[96..].fill(1.0);
        let samples = Samples { pixels, labels: vec![3, 7] };
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let rng = &mut StdRng::seed_from_u64(1);
            let base = DenseNetwork::new(&[64, 16, 10], rng);
            let network = FrozenNetwork::new(device, &base, dtype).unwrap();
            let before = network.weights(device).unwrap();
            let adapter = LoraAdapter::new(device, &network.widths, 4, rng).unwrap();
            // Room for more images than there are.
            let mut training = Training::new(device, &network, adapter, 5, 1).unwrap();
            let losses: Vec<f32> = (0..200).map(|_| training.step(device, &samples).unwrap()).collect();
            let adapter = training.finish();
            let logits = network.logits(device, &samples.pixels, Some(&adapter)).unwrap();
            let (after, _) = cross_entropy(&logits, &samples.labels);
            assert!(losses[0] > 1.0 && after < 0.1, "{dtype}: {} to {after}", losses[0]);
            assert_eq!(network.weights(device).unwrap(), before);
        }
    }

    #[test]
    fn every_step_and_layer_has_a_dropout_mask_of_its_own() {
        let device = &Cpu::new();
        let rng = &mut StdRng::seed_from_u64(1);
        let base = DenseNetwork::new(&[64, 16, 10], rng);
        let network = FrozenNetwork::new(device, &base, DType::F32).unwrap();
        let adapter = LoraAdapter::new(device, &network.widths, 4, rng).unwrap();
        let mut training = Training::new(device, &network, adapter, 1, 1).unwrap();
        let mut offsets = Vec::new();
        for steps in 0..3 {
            training.steps = steps;
            offsets.extend((0..2).map(|layer| training.dropout(layer).unwrap().offset()));
        }
        assert_eq!(offsets, [0, 1, 2, 3, 4, 5]);
    }
}
