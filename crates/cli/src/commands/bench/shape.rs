//! The shapes of the layers that are timed.

use lora_measure::Problem;
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

    pub fn problem(self, r: usize) -> Problem {
        Problem { m: self.tokens, k: self.inputs, n: self.outputs, r }
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
