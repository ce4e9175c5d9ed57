//! A LoRA adapter of the whole network, stored as PEFT stores it.

use crate::dense::uniform;
use crate::matrix::Matrix;
use anyhow::Result;
use lora_kernels::{Adapter, Backend, DType, Device};
use rand::rngs::StdRng;

/// The element type of adapters: PEFT keeps them in `f32` for half-precision models too.
pub const ADAPTER_DTYPE: DType = DType::F32;

/// The numerator of s = α/r. Being the same for all ranks, it lets the same learning rate serve them.
const ALPHA: f32 = 16.0;

/// A pair of matrices for each layer.
pub struct LoraAdapter<D: Device> {
    /// From the first layer to the last.
    pub layers: Vec<LoraLayer<D>>,
    /// The factor s.
    pub scale: f32,
}

/// A and B of one layer.
pub struct LoraLayer<D: Device> {
    /// lora_A \[r, in\].
    pub a: Matrix<D>,
    /// lora_B \[out, r\].
    pub b: Matrix<D>,
}

impl<D: Device> LoraLayer<D> {
    /// The rank r.
    pub fn rank(&self) -> usize {
        self.a.rows()
    }
}

impl<D: Device> LoraAdapter<D> {
    /// A new adapter for layers of these widths: A uniform in ±1/√in (Kaiming with a = √5, PEFT's default), B zero, so
    /// that it changes nothing yet.
    pub fn new(device: &D, widths: &[usize], rank: usize, rng: &mut StdRng) -> Result<Self> {
        let layer = |pair: &[usize]| {
            let (inputs, outputs) = (pair[0], pair[1]);
            let a = uniform(rank * inputs, (inputs as f32).sqrt().recip(), rng);
            Ok(LoraLayer {
                a: Matrix::from_values(device, rank, inputs, ADAPTER_DTYPE, &a)?,
                b: Matrix::zeros(device, outputs, rank, ADAPTER_DTYPE)?,
            })
        };
        Ok(LoraAdapter { layers: widths.windows(2).map(layer).collect::<Result<_>>()?, scale: scale(rank) })
    }

    /// The adapter that is switched off: for running the network as it is.
    pub fn off(device: &D, widths: &[usize]) -> Result<Self> {
        let layer = |pair: &[usize]| {
            Ok(LoraLayer {
                a: Matrix::zeros(device, 1, pair[0], ADAPTER_DTYPE)?,
                b: Matrix::zeros(device, pair[1], 1, ADAPTER_DTYPE)?,
            })
        };
        Ok(LoraAdapter { layers: widths.windows(2).map(layer).collect::<Result<_>>()?, scale: 0.0 })
    }

    /// One layer's matrices as the operations take them: transposed views, nothing is copied.
    pub fn layer(&self, index: usize) -> Result<Adapter<'_, <D as Backend>::Memory>> {
        let LoraLayer { a, b } = &self.layers[index];
        Ok(Adapter { a: a.view()?.t(), b: b.view()?.t(), scale: self.scale })
    }
}

/// s = α/r.
pub fn scale(rank: usize) -> f32 {
    ALPHA / rank as f32
}

/// Trained numbers: A and B of every layer.
pub fn parameters(widths: &[usize], rank: usize) -> usize {
    widths.windows(2).map(|pair| rank * (pair[0] + pair[1])).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lora_kernels::cpu::Cpu;
    use rand::SeedableRng;

    #[test]
    fn parameters_are_the_elements_of_the_matrices() {
        let device = Cpu::new();
        let widths = [64, 32, 10];
        let adapter = LoraAdapter::new(&device, &widths, 3, &mut StdRng::seed_from_u64(1)).unwrap();
        let mut elements = 0;
        for layer in &adapter.layers {
            elements += layer.a.read(&device).unwrap().len() + layer.b.read(&device).unwrap().len();
        }
        assert_eq!(elements, 3 * (64 + 32) + 3 * (32 + 10));
        assert_eq!(elements, parameters(&widths, 3));
    }

    #[test]
    fn a_new_adapter_has_random_a_and_zero_b() {
        let device = Cpu::new();
        let adapter = LoraAdapter::new(&device, &[64, 10], 4, &mut StdRng::seed_from_u64(1)).unwrap();
        let a = adapter.layers[0].a.read(&device).unwrap();
        // Of 256 uniform draws in ±1/8 the largest is all but surely above 0.9/8.
        let largest = a.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(largest <= 0.125 && largest > 0.9 * 0.125, "{largest}");
        assert_eq!(adapter.layers[0].b.read(&device).unwrap(), [0.0; 40]);
    }
}
