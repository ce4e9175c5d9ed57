//! Numbers that tell a damaged tensor or record from a sound one (XXH3, 64 bits). No protection against forgery.

use crate::tensor::{Dtype, Tensor, file_type};
use std::hash::Hasher;
use twox_hash::XxHash3_64;

/// A checksum in the making.
pub(crate) struct Checksum(XxHash3_64);

impl Checksum {
    /// Of bytes that need no description.
    pub fn new() -> Self {
        Checksum(XxHash3_64::new())
    }

    /// Of a tensor's bytes, together with its type and shape.
    pub fn of_tensor(dtype: Dtype, shape: &[usize]) -> Self {
        let mut checksum = Self::new();
        checksum.add(format!("{dtype}{shape:?}").as_bytes());
        checksum
    }

    pub fn add(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    pub fn finish(&self) -> u64 {
        self.0.finish()
    }
}

/// The checksum of a tensor, with its type and shape.
pub(crate) fn of(tensor: &Tensor) -> u64 {
    let mut checksum = Checksum::of_tensor(file_type(tensor.dtype()), tensor.shape());
    checksum.add(tensor.bytes());
    checksum.finish()
}

/// As text: JSON has no 64-bit numbers that every reader keeps.
pub(crate) fn hex(value: u64) -> String {
    format!("{value:016x}")
}

pub(crate) fn unhex(text: &str) -> Option<u64> {
    if text.len() == 16 { u64::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_types_and_shapes_count() {
        let tensor = Tensor::of(&[2, 2], vec![1.0f32, -0.0, 2.0, f32::NAN]);
        let mut flipped = tensor.clone();
        flipped.bytes_mut()[7] ^= 0x80;
        let others = [flipped, tensor.clone().reshape(&[4]).unwrap(), Tensor::zeros(tensor.dtype(), &[2, 2])];
        assert!(others.iter().all(|other| of(other) != of(&tensor)));
        let mut in_pieces = Checksum::of_tensor(Dtype::F32, &[2, 2]);
        tensor.bytes().chunks(3).for_each(|piece| in_pieces.add(piece));
        assert_eq!(in_pieces.finish(), of(&tensor));
    }
}
