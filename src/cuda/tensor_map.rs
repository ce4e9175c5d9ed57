//! Tensor maps: what the tensor memory accelerator (TMA) of compute capability 9.0 and later knows of a matrix or tensor.

use crate::{DType, Error, Result};

/// Dimensions that a tensor map can have.
pub const MOST_DIMENSIONS: usize = 5;

/// How 16-byte pieces of a box's rows are permuted in shared memory, against bank conflicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Swizzle {
    /// Not at all.
    #[default]
    None,
    /// Within 32 bytes.
    Bytes32,
    /// Within 64 bytes.
    Bytes64,
    /// Within 128 bytes.
    Bytes128,
}

impl Swizzle {
    /// Bytes that a box's row may have at most; `None` if any number.
    pub const fn row_bytes(self) -> Option<u32> {
        match self {
            Swizzle::None => None,
            Swizzle::Bytes32 => Some(32),
            Swizzle::Bytes64 => Some(64),
            Swizzle::Bytes128 => Some(128),
        }
    }
}

/// What a box holds where it lies outside the tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fill {
    /// Zeros.
    #[default]
    Zeros,
    /// NaNs.
    Nans,
}

/// A tensor in device memory, cut into boxes. The innermost dimension comes first, and its elements are contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Element type.
    pub dtype: DType,
    /// Address of the first element: a multiple of 16.
    pub address: u64,
    /// How many of the dimensions below count: 1 to [`MOST_DIMENSIONS`].
    pub dimensions: usize,
    /// Elements along each dimension, up to 2³².
    pub extents: [u64; MOST_DIMENSIONS],
    /// Bytes from one element to the next, for each dimension but the first: multiples of 16 below 2⁴⁰.
    pub strides: [u64; MOST_DIMENSIONS - 1],
    /// Elements of a box along each dimension, up to 256.
    pub box_extents: [u32; MOST_DIMENSIONS],
    /// Layout of a box in shared memory.
    pub swizzle: Swizzle,
    /// What lies outside.
    pub fill: Fill,
}

impl TensorMap {
    /// Bytes of the encoded map, `CUtensorMap`, in an argument struct.
    pub const BYTES: usize = 128;
    /// What its place in an argument struct is a multiple of.
    pub const ALIGNMENT: usize = 64;

    /// A matrix \[rows, columns\] whose rows are `row_bytes` apart, cut into boxes \[box rows, box columns\]. No swizzle, zeros
    /// outside.
    pub const fn matrix(
        dtype: DType,
        address: u64,
        [rows, columns]: [u64; 2],
        row_bytes: u64,
        [box_rows, box_columns]: [u32; 2],
    ) -> Self {
        TensorMap {
            dtype,
            address,
            dimensions: 2,
            extents: [columns, rows, 1, 1, 1],
            strides: [row_bytes, 0, 0, 0],
            box_extents: [box_columns, box_rows, 1, 1, 1],
            swizzle: Swizzle::None,
            fill: Fill::Zeros,
        }
    }

    /// Whether the hardware takes it.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] with the rule that it breaks.
    pub fn check(&self) -> Result<()> {
        let refuse = |expected| {
            Err(Error::InvalidValue { argument: "a tensor map", value: format!("{self:?}"), expected })
        };
        if !(1..=MOST_DIMENSIONS).contains(&self.dimensions) {
            return refuse("1 to 5 dimensions");
        }
        let (extents, boxes) = (&self.extents[..self.dimensions], &self.box_extents[..self.dimensions]);
        let strides = &self.strides[..self.dimensions - 1];
        let size = self.dtype.size() as u64;
        if !self.address.is_multiple_of(16) {
            return refuse("an address that is a multiple of 16");
        }
        if !extents.iter().all(|extent| (1..=1 << 32).contains(extent)) {
            return refuse("1 to 2^32 elements along each dimension");
        }
        if !strides.iter().all(|stride| stride.is_multiple_of(16) && *stride < 1 << 40) {
            return refuse("strides that are multiples of 16 bytes, below 2^40");
        }
        let mut step = size;
        for (extent, stride) in extents.iter().zip(strides) {
            if extent.checked_mul(step).is_none_or(|bytes| bytes > *stride) {
                return refuse("strides at which elements do not overlap");
            }
            step = *stride;
        }
        if !boxes.iter().all(|extent| (1..=256).contains(extent)) {
            return refuse("boxes of 1 to 256 elements along each dimension");
        }
        let row = boxes[0] * size as u32;
        if !row.is_multiple_of(16) {
            return refuse("boxes whose rows are multiples of 16 bytes");
        }
        if self.swizzle.row_bytes().is_some_and(|most| row > most) {
            return refuse("boxes whose rows are no longer than what the swizzle permutes");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: TensorMap = TensorMap::matrix(DType::Bf16, 0x1000, [100, 72], 144, [8, 64]);

    #[test]
    fn maps_that_the_hardware_takes_pass() {
        let swizzled = TensorMap { swizzle: Swizzle::Bytes128, fill: Fill::Nans, ..MAP };
        let line = TensorMap { dimensions: 1, strides: [3; 4], ..MAP };
        let stack = TensorMap {
            dimensions: 5,
            extents: [72, 100, 2, 3, 1 << 32],
            strides: [144, 14400, 28800, 86400],
            box_extents: [8, 1, 1, 1, 256],
            ..MAP
        };
        for map in [MAP, swizzled, line, stack] {
            map.check().unwrap();
        }
    }

    #[test]
    fn each_rule_is_checked() {
        for (map, rule) in [
            (TensorMap { dimensions: 0, ..MAP }, "1 to 5 dimensions"),
            (TensorMap { dimensions: 6, ..MAP }, "1 to 5 dimensions"),
            (TensorMap { address: 0x1008, ..MAP }, "address"),
            (TensorMap { extents: [0, 100, 1, 1, 1], ..MAP }, "1 to 2^32"),
            (TensorMap { extents: [72, (1 << 32) + 1, 1, 1, 1], ..MAP }, "1 to 2^32"),
            (TensorMap { strides: [150, 0, 0, 0], ..MAP }, "multiples of 16 bytes"),
            (TensorMap { strides: [1 << 40, 0, 0, 0], ..MAP }, "below 2^40"),
            (TensorMap { strides: [128, 0, 0, 0], ..MAP }, "overlap"),
            (TensorMap { box_extents: [64, 0, 1, 1, 1], ..MAP }, "1 to 256"),
            (TensorMap { box_extents: [64, 257, 1, 1, 1], ..MAP }, "1 to 256"),
            (TensorMap { box_extents: [12, 8, 1, 1, 1], ..MAP }, "rows are multiples of 16"),
            (TensorMap { swizzle: Swizzle::Bytes64, ..MAP }, "no longer than"),
        ] {
            let error = map.check().unwrap_err().to_string();
            assert!(error.contains(rule), "{error}");
        }
    }
}
