//! The trained matrices of one layer.

use super::check::{Named, finite_scale, named};
use crate::memory::{Host, Memory};
use crate::{DType, MatrixRef, Result, Shape};

/// A low-rank adapter of one layer: Δ = s·A·B.
///
/// Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685; s = α/r there, α/√r in rsLoRA.
/// A and B have the element type of the layer, or are both `f32`.
#[derive(Debug)]
pub struct Adapter<'a, D: Memory = Host> {
    /// A \[in, r\]; PEFT's `lora_A.weight`, transposed.
    pub a: MatrixRef<'a, D>,
    /// B \[r, out\]; PEFT's `lora_B.weight`, transposed.
    pub b: MatrixRef<'a, D>,
    /// The factor s. Finite; 0 switches the adapter off.
    pub scale: f32,
}

impl<D: Memory> Clone for Adapter<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Memory> Copy for Adapter<'_, D> {}

impl<D: Memory> Adapter<'_, D> {
    /// The rank r.
    pub fn rank(&self) -> usize {
        self.a.cols()
    }

    /// Input features.
    pub fn in_features(&self) -> usize {
        self.a.rows()
    }

    /// Output features.
    pub fn out_features(&self) -> usize {
        self.b.cols()
    }

    /// The element type of A and B.
    pub fn dtype(&self) -> DType {
        self.a.dtype()
    }

    /// A and B fit each other, and are not empty.
    pub(crate) fn check(&self) -> Result<()> {
        finite_scale(self.scale)?;
        let (a, b) = (named("a", self.a), named("b", self.b));
        a.no_zero_dimension("an adapter needs rank 1 or more and at least one input feature")?;
        b.has_shape(Shape::new(self.rank(), self.b.cols()), &a)?;
        b.no_zero_dimension("an adapter needs rank 1 or more and at least one output feature")?;
        b.has_dtype(&[self.a.dtype()], "a")
    }

    /// A and B also fit the layer's frozen weight.
    pub(crate) fn check_against(&self, w: &Named<'_, D>) -> Result<()> {
        let (a, b) = (named("a", self.a), named("b", self.b));
        a.has_shape(Shape::new(w.matrix.rows(), self.rank()), w)?;
        b.has_shape(Shape::new(self.b.rows(), w.matrix.cols()), w)?;
        self.check()?;
        a.has_dtype(&[w.matrix.dtype(), DType::F32], w.name)
    }
}
