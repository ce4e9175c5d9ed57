//! GPTQ's and AWQ's integers of few bits, packed into words of 32: W = S·(Q − Z), a scale and a zero for each output and group
//! of inputs.

use super::part::{Part, fill_rows};
use crate::error::Result;
use crate::tensor::Tensor;

/// GPTQ (Frantar et al., arXiv 2210.17323): words run along the inputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Gptq {
    /// Bits of an element.
    pub bits: usize,
    /// Inputs of a group; of files with `g_idx`, that says the group of each input.
    pub group: usize,
    /// What the stored zeros lack: 1 in the format of version 1, 0 in version 2.
    pub zero_offset: f32,
}

/// AWQ (Lin et al., arXiv 2306.00978) as AutoAWQ's GEMM kernels have it: words of four bits run along the outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Awq {
    /// Inputs of a group.
    pub group: usize,
}

/// The element with this number of a row of packed words, of which `stride` lie apart.
fn element(words: &[u32], first: usize, stride: usize, index: usize, bits: usize) -> u32 {
    let position = index * bits;
    let (word, shift) = (position / 32, position % 32);
    let low = u64::from(words[first + word * stride]);
    let high = match shift + bits > 32 {
        true => u64::from(words[first + (word + 1) * stride]),
        false => 0,
    };
    ((high << 32 | low) >> shift) as u32 & ((1 << bits) - 1)
}

impl Gptq {
    pub fn fill(&self, tensor: &mut Tensor, parts: &[Part]) -> Result<()> {
        let (weights, zeros, scales) = (parts[0].words(), parts[1].words(), parts[2].floats()?);
        let (out, input) = (tensor.shape()[0], tensor.shape()[1]);
        let groups = scales.len() / out.max(1);
        let group_of: Vec<usize> = match parts.get(3) {
            Some(index) => index.words().into_iter().map(|group| group as usize).collect(),
            None => (0..input).map(|index| index / self.group).collect(),
        };
        if let Some(group) = group_of.iter().find(|group| **group >= groups) {
            let part = parts.get(3).unwrap_or(&parts[2]);
            return Err(part.error(format!("names group {group}, but there are scales for {groups}")));
        }
        let zero_words = out * self.bits / 32;
        let Gptq { bits, zero_offset, .. } = *self;
        fill_rows(tensor, |output, row| {
            for (index, new) in row.iter_mut().enumerate() {
                let group = group_of[index];
                let quantized = element(&weights, output, out, index, bits) as f32;
                let zero = element(&zeros, group * zero_words, 1, output, bits) as f32 + zero_offset;
                *new = scales[group * out + output] * (quantized - zero);
            }
        });
        Ok(())
    }
}

/// Which four bits of a word belong to each of eight outputs.
const AWQ_ORDER: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

impl Awq {
    pub fn fill(&self, tensor: &mut Tensor, parts: &[Part]) -> Result<()> {
        let (weights, zeros, scales) = (parts[0].words(), parts[1].words(), parts[2].floats()?);
        let out = tensor.shape()[0];
        let words = out / 8;
        let group_size = self.group;
        fill_rows(tensor, |output, row| {
            let (word, shift) = (output / 8, 4 * AWQ_ORDER[output % 8]);
            let part = |all: &[u32], first: usize| (all[first * words + word] >> shift & 15) as f32;
            for (index, new) in row.iter_mut().enumerate() {
                let group = index / group_size;
                *new = scales[group * out + output] * (part(&weights, index) - part(&zeros, group));
            }
        });
        Ok(())
    }
}
