//! Checks that several operations share.

use crate::memory::Memory;
use crate::{DType, Error, Layout, MatrixRef, Result, Shape};

/// A matrix and the name the caller knows it by.
pub(crate) struct Named<'a, D: Memory> {
    pub name: &'static str,
    pub matrix: MatrixRef<'a, D>,
}

pub(crate) fn named<'a, D: Memory>(name: &'static str, matrix: MatrixRef<'a, D>) -> Named<'a, D> {
    Named { name, matrix }
}

/// S \[M, R\], A \[in, R\] and B \[R, out\] of all layers together must be matrices that memory can hold, though no
/// argument need be so large.
pub(crate) fn combined_ranks(
    rows: usize,
    features: [usize; 2],
    ranks: impl Iterator<Item = usize>,
) -> Result<()> {
    let total = ranks.fold(0, usize::saturating_add);
    for other in [rows, features[0], features[1]] {
        // Sums are kept in f32, in rows that are padded.
        let padded = total.checked_next_multiple_of(64).and_then(|total| total.checked_mul(2));
        padded.and_then(|cols| Layout::packed(other, cols).ok()).ok_or_else(|| {
            Error::Unsupported(format!(
                "adapters of rank {total} in all over {rows} rows and {features:?} features: their products would be \
                 larger than memory"
            ))
        })?;
    }
    Ok(())
}

impl<D: Memory> Named<'_, D> {
    /// The shape must be `expected`, because `reference` has the shape it has.
    pub fn has_shape(&self, expected: Shape, reference: &Named<'_, D>) -> Result<()> {
        if self.matrix.shape() == expected {
            return Ok(());
        }
        Err(Error::ShapeMismatch {
            argument: self.name,
            found: self.matrix.shape(),
            expected,
            reference: reference.name,
            reference_shape: reference.matrix.shape(),
        })
    }

    pub fn has_dtype(&self, accepted: &[DType], reference: &'static str) -> Result<()> {
        if accepted.contains(&self.matrix.dtype()) {
            return Ok(());
        }
        let mut names: Vec<String> = accepted.iter().map(DType::to_string).collect();
        names.dedup();
        Err(Error::DTypeMismatch {
            argument: self.name,
            found: self.matrix.dtype(),
            expected: format!("{} (as `{reference}` has it)", names.join(" or ")),
        })
    }

    pub fn no_zero_dimension(&self, reason: &'static str) -> Result<()> {
        let found = self.matrix.shape();
        if found.rows == 0 || found.cols == 0 {
            return Err(Error::EmptyDimension { argument: self.name, found, reason });
        }
        Ok(())
    }
}

/// Dropout counts rows and column blocks in 32 bits.
pub(crate) fn fits_dropout_counter(argument: &'static str, shape: Shape) -> Result<()> {
    if u32::try_from(shape.rows.max(shape.cols)).is_err() {
        return Err(Error::Unsupported(format!(
            "dropout on `{argument}` of shape {shape}: more than 2^32 rows or columns"
        )));
    }
    Ok(())
}

pub(crate) fn finite_scale(scale: f32) -> Result<()> {
    if scale.is_finite() {
        return Ok(());
    }
    Err(Error::InvalidValue { argument: "scale", value: scale.to_string(), expected: "a finite number" })
}
