//! Trains the base network: ordinary dense layers on the host.
//!
//! Full training needs the gradient of every weight, which is what LoRA does without and this crate does not offer.
//! So this file uses nothing of it: plain loops in `f32`.

use crate::dataset::Samples;
use crate::loss::cross_entropy;
use crate::optimizer::Adam;
use rand::rngs::StdRng;
use rand::{Rng, RngExt};

const LEARNING_RATE: f32 = 1e-3;

/// y = x·Wᵀ + bias, with W stored \[out, in\] as PyTorch's `nn.Linear` does.
#[derive(Clone, Debug)]
pub struct DenseLayer {
    /// Inputs.
    pub inputs: usize,
    /// Outputs.
    pub outputs: usize,
    /// W, row by row.
    pub weight: Vec<f32>,
    /// One number an output.
    pub bias: Vec<f32>,
}

/// Layers with ReLU between them.
#[derive(Clone, Debug)]
pub struct DenseNetwork {
    /// From the pixels to the logits.
    pub layers: Vec<DenseLayer>,
}

/// A uniformly random number in (-bound, bound) for each parameter.
pub fn uniform(parameters: usize, bound: f32, rng: &mut impl Rng) -> Vec<f32> {
    (0..parameters).map(|_| rng.random_range(-bound..bound)).collect()
}

/// Replaces negative numbers by zero.
pub fn relu(values: &mut [f32]) {
    for value in values {
        *value = value.max(0.0);
    }
}

/// The gradient before a ReLU from the one after it: zero where the ReLU gave zero.
pub fn relu_backward(gradient: &mut [f32], activations: &[f32]) {
    for (gradient, &activation) in gradient.iter_mut().zip(activations) {
        if activation <= 0.0 {
            *gradient = 0.0;
        }
    }
}

impl DenseLayer {
    /// PyTorch's default for `nn.Linear`: weights and biases uniform in ±1/√in.
    fn new(inputs: usize, outputs: usize, rng: &mut StdRng) -> Self {
        let bound = (inputs as f32).sqrt().recip();
        DenseLayer {
            inputs,
            outputs,
            weight: uniform(inputs * outputs, bound, rng),
            bias: uniform(outputs, bound, rng),
        }
    }

    /// Weights and biases.
    pub fn parameters(&self) -> usize {
        self.weight.len() + self.bias.len()
    }

    fn forward(&self, x: &[f32]) -> Vec<f32> {
        let mut y = Vec::with_capacity(x.len() / self.inputs * self.outputs);
        for row in x.chunks(self.inputs) {
            let weights = self.weight.chunks(self.inputs).zip(&self.bias);
            y.extend(weights.map(|(weights, bias)| dot(row, weights) + bias));
        }
        y
    }

    /// The gradients of x, W and bias.
    fn backward(&self, x: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let mut dx = vec![0.0; x.len()];
        let mut dweight = vec![0.0; self.weight.len()];
        let mut dbias = vec![0.0; self.bias.len()];
        let rows = x.chunks(self.inputs).zip(dx.chunks_mut(self.inputs)).zip(dy.chunks(self.outputs));
        for ((x, dx), dy) in rows {
            for (output, &gradient) in dy.iter().enumerate() {
                // ReLU makes about half of the gradients zero.
                if gradient != 0.0 {
                    let weights = output * self.inputs..(output + 1) * self.inputs;
                    add_scaled(dx, gradient, &self.weight[weights.clone()]);
                    add_scaled(&mut dweight[weights], gradient, x);
                    dbias[output] += gradient;
                }
            }
        }
        (dx, dweight, dbias)
    }
}

impl DenseNetwork {
    /// Layers of these widths, inputs first.
    pub fn new(widths: &[usize], rng: &mut StdRng) -> Self {
        let layers = widths.windows(2).map(|pair| DenseLayer::new(pair[0], pair[1], rng)).collect();
        DenseNetwork { layers }
    }

    /// Weights and biases of all layers.
    pub fn parameters(&self) -> usize {
        self.layers.iter().map(DenseLayer::parameters).sum()
    }

    /// Trains all weights; `after_step` learns the loss of each batch.
    pub fn train(
        &mut self,
        samples: &Samples,
        epochs: usize,
        batch: usize,
        rng: &mut StdRng,
        mut after_step: impl FnMut(f32),
    ) {
        let mut optimizers: Vec<(Adam, Adam)> = self
            .layers
            .iter()
            .map(|layer| {
                (Adam::new(layer.weight.len(), LEARNING_RATE), Adam::new(layer.bias.len(), LEARNING_RATE))
            })
            .collect();
        for _ in 0..epochs {
            for batch in samples.shuffled_batches(batch, rng) {
                after_step(self.step(&batch, &mut optimizers));
            }
        }
    }

    fn step(&mut self, batch: &Samples, optimizers: &mut [(Adam, Adam)]) -> f32 {
        let mut inputs = vec![batch.pixels.clone()];
        let mut logits = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            logits = layer.forward(&inputs[index]);
            if index + 1 < self.layers.len() {
                relu(&mut logits);
                inputs.push(std::mem::take(&mut logits));
            }
        }
        let (loss, mut gradient) = cross_entropy(&logits, &batch.labels);
        for ((layer, x), (weight, bias)) in self.layers.iter_mut().zip(&inputs).zip(optimizers).rev() {
            let (mut dx, dweight, dbias) = layer.backward(x, &gradient);
            weight.step(&mut layer.weight, &dweight, batch.len());
            bias.step(&mut layer.bias, &dbias, batch.len());
            relu_backward(&mut dx, x);
            gradient = dx;
        }
        loss
    }
}

/// Sixteen partial sums, so that the compiler can use vector instructions.
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut sums = [0.0; 16];
    let (x_blocks, x_rest) = x.as_chunks::<16>();
    let (y_blocks, y_rest) = y.as_chunks::<16>();
    for (x, y) in x_blocks.iter().zip(y_blocks) {
        for lane in 0..16 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let rest: f32 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f32>() + rest
}

fn add_scaled(sum: &mut [f32], factor: f32, values: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += factor * value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn layer_by_hand() {
        let layer = DenseLayer {
            inputs: 2,
            outputs: 3,
            weight: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            bias: vec![0.5, 0.0, -1.0],
        };
        let x = [1.0, -1.0, 2.0, 0.0];
        assert_eq!(layer.forward(&x), [-0.5, -1.0, -2.0, 2.5, 6.0, 9.0]);
        let (dx, dweight, dbias) = layer.backward(&x, &[1.0, 0.0, -1.0, 0.0, 2.0, 0.0]);
        assert_eq!(dx, [-4.0, -4.0, 6.0, 8.0]);
        assert_eq!(dweight, [1.0, -1.0, 4.0, 0.0, -1.0, 1.0]);
        assert_eq!(dbias, [1.0, 2.0, -1.0]);
        assert_eq!(layer.parameters(), 9);
    }

    #[test]
    fn dot_takes_blocks_and_the_rest() {
        let ones = [1.0f32; 37];
        let numbers: Vec<f32> = (0..37).map(|i| i as f32).collect();
        assert_eq!(dot(&ones, &numbers), 666.0);
    }

    #[test]
    fn training_learns_to_tell_two_images_apart() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut network = DenseNetwork::new(&[64, 16, 10], &mut rng);
        let mut pixels = vec![0.0; 128];
        pixels[..32].fill(1.0);
        pixels[96..].fill(1.0);
        let samples = Samples { pixels, labels: vec![3, 7] };
        let mut losses = Vec::new();
        network.train(&samples, 200, 2, &mut rng, |loss| losses.push(loss));
        assert_eq!(losses.len(), 200);
        assert!(losses[0] > 1.0 && losses[199] < 0.1, "{} to {}", losses[0], losses[199]);
    }
}
