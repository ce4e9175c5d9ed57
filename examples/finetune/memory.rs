//! What training keeps in memory, for full fine-tuning and for LoRA.

use crate::adapter::ADAPTER_DTYPE;
use crate::optimizer::Adam;
use lora_kernels::DType;

/// Bytes that one way of training needs, without activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Weights, biases and adapters that the network computes with.
    pub weights: usize,
    /// One gradient for each trained number.
    pub gradients: usize,
    /// Adam's moments, and an `f32` copy of trained 16-bit weights.
    pub optimizer: usize,
}

impl Memory {
    /// Training every parameter. In 16 bits as usual: gradients in 16 bits, and an `f32` master copy of the weights in
    /// the optimizer (Micikevicius et al., "Mixed Precision Training", arXiv 1710.03740).
    pub fn full(parameters: usize, dtype: DType) -> Self {
        let master_copy = if dtype == DType::F32 { 0 } else { DType::F32.size() };
        Memory {
            weights: parameters * dtype.size(),
            gradients: parameters * dtype.size(),
            optimizer: parameters * (Adam::BYTES + master_copy),
        }
    }

    /// Training adapters beside frozen parameters.
    pub fn lora(frozen: usize, dtype: DType, trained: usize) -> Self {
        Memory {
            weights: frozen * dtype.size() + trained * ADAPTER_DTYPE.size(),
            gradients: trained * ADAPTER_DTYPE.size(),
            optimizer: trained * Adam::BYTES,
        }
    }

    /// All of it.
    pub fn total(&self) -> usize {
        self.weights + self.gradients + self.optimizer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_fine_tuning_takes_16_bytes_a_parameter() {
        assert_eq!(Memory::full(10, DType::F32), Memory { weights: 40, gradients: 40, optimizer: 80 });
        assert_eq!(Memory::full(10, DType::Bf16), Memory { weights: 20, gradients: 20, optimizer: 120 });
        assert_eq!(Memory::full(10, DType::F32).total(), Memory::full(10, DType::F16).total());
    }

    #[test]
    fn lora_pays_for_gradients_and_moments_of_the_adapters_only() {
        let expected = Memory { weights: 1000 * 2 + 10 * 4, gradients: 40, optimizer: 80 };
        assert_eq!(Memory::lora(1000, DType::F16, 10), expected);
        assert_eq!(expected.total(), 2160);
    }
}
