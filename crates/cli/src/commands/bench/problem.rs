//! The layers that are timed and the systems that are compared.

use lora_kernels::{Element, philox4x32_10};
use std::str::FromStr;

/// Tokens, inputs and outputs of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerShape {
    pub tokens: usize,
    pub inputs: usize,
    pub outputs: usize,
}

impl LayerShape {
    /// Layers of a 7B model, for training and for serving one sequence.
    pub fn standard() -> Vec<Self> {
        [(512, 4096, 4096), (512, 4096, 1024), (1, 4096, 4096)]
            .map(|(tokens, inputs, outputs)| LayerShape { tokens, inputs, outputs })
            .to_vec()
    }
}

impl FromStr for LayerShape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sizes: Vec<usize> = text.split('x').filter_map(|size| size.parse().ok()).collect();
        match (sizes.as_slice(), text.split('x').count()) {
            (&[tokens, inputs, outputs], 3) if tokens * inputs * outputs > 0 => {
                Ok(LayerShape { tokens, inputs, outputs })
            }
            _ => Err("expected three positive numbers: tokens x inputs x outputs, for example 512x4096x4096"
                .into()),
        }
    }
}

/// X \[m, k\] · W \[k, n\] with an adapter of rank r.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    pub m: usize,
    pub k: usize,
    pub n: usize,
    pub r: usize,
}

impl Problem {
    pub fn new(shape: LayerShape, r: usize) -> Self {
        Problem { m: shape.tokens, k: shape.inputs, n: shape.outputs, r }
    }
}

/// Ways to compute the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// The frozen layer alone, without adapter.
    Frozen,
    /// PEFT's sequence: products, scaling and adding as separate passes.
    Unfused,
    /// The products of rank r accumulated onto the frozen ones by the library.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only cuBLAS accumulates"))]
    Accumulated,
    /// This program's kernels.
    Fused,
}

impl System {
    pub fn name(self) -> &'static str {
        match self {
            System::Frozen => "frozen",
            System::Unfused => "unfused",
            System::Accumulated => "accumulated",
            System::Fused => "fused",
        }
    }
}

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Y, with S = X·A kept for the backward.
    Forward,
    /// dX, dA and dB; without adapter dX only.
    Backward,
    /// W + s·A·B in place.
    Merge,
}

impl Pass {
    pub const ALL: [Pass; 3] = [Pass::Forward, Pass::Backward, Pass::Merge];

    pub fn name(self) -> &'static str {
        match self {
            Pass::Forward => "forward",
            Pass::Backward => "backward",
            Pass::Merge => "merge",
        }
    }
}

/// The adapter's factor.
pub const SCALE: f32 = 2.0;

/// The matrices of a layer, row by row: W is \[k, n\], A \[k, r\], B \[r, n\].
#[derive(Debug)]
pub struct Inputs<T> {
    pub x: Vec<T>,
    pub w: Vec<T>,
    pub a: Vec<T>,
    pub b: Vec<T>,
    pub dy: Vec<T>,
}

impl<T: Element> Inputs<T> {
    pub fn new(problem: Problem) -> Self {
        let Problem { m, k, n, r } = problem;
        Inputs {
            x: uniform(m * k, 1),
            w: uniform(k * n, 2),
            a: uniform(k * r, 3),
            b: uniform(r * n, 4),
            dy: uniform(m * n, 5),
        }
    }
}

/// Uniform in (-1, 1).
fn uniform<T: Element>(len: usize, seed: u32) -> Vec<T> {
    let words = (0..len.div_ceil(4))
        .flat_map(|block| philox4x32_10([block as u32, (block >> 32) as u32, 0, 0], [seed, 0]));
    words.take(len).map(|word| T::from_f32((word >> 8) as f32 / (1 << 23) as f32 - 1.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_three_positive_numbers() {
        assert_eq!("2x3x4".parse(), Ok(LayerShape { tokens: 2, inputs: 3, outputs: 4 }));
        for wrong in ["2x3", "2x3x4x5", "2xx4", "0x3x4", "2x-3x4", "ax3x4x5"] {
            assert!(wrong.parse::<LayerShape>().is_err(), "{wrong}");
        }
    }
}
