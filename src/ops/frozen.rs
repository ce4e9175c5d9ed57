//! A layer without adapter, and its gradient.

use super::Output;
use super::check::named;
use crate::memory::{Host, Memory};
use crate::{DType, MatrixRef, Result, Shape};

const NO_FEATURES: &str = "a layer needs at least one input and one output feature";

/// Y = X·W (+ bias), or Y += X·W (+ bias): a layer without adapter, and what LoRA's overhead is measured against.
///
/// X, W and Y have one element type. Sums are `f32`; the result is rounded once on the CPU. On a GPU Y is rounded once
/// without bias; with one, bias, or Y + bias, is rounded to Y's type before the product is added.
#[derive(Debug)]
pub struct Frozen<'a, D: Memory = Host> {
    /// X \[M, in\].
    pub x: MatrixRef<'a, D>,
    /// W \[in, out\].
    pub w: MatrixRef<'a, D>,
    /// bias \[1, out\]; X's element type or `f32`.
    pub bias: Option<MatrixRef<'a, D>>,
    /// Y \[M, out\].
    pub y: Output<'a, D>,
}

/// The gradient of [`Frozen`]: dX = dY·Wᵀ, or dX += dY·Wᵀ.
///
/// dY, W and dX have one element type. Sums are `f32` and are rounded once.
#[derive(Debug)]
pub struct FrozenBackward<'a, D: Memory = Host> {
    /// dY \[M, out\].
    pub dy: MatrixRef<'a, D>,
    /// W \[in, out\] of the forward.
    pub w: MatrixRef<'a, D>,
    /// dX \[M, in\].
    pub dx: Output<'a, D>,
}

impl<D: Memory> Frozen<'_, D> {
    /// Checks every argument; backends call it before they write anything.
    ///
    /// # Errors
    /// Which argument does not fit, and why.
    pub fn check(&self) -> Result<()> {
        let (x, w, y) = (named("x", self.x), named("w", self.w), named("y", self.y.matrix.as_ref()));
        let dtype = self.x.dtype();
        w.has_shape(Shape::new(self.x.cols(), self.w.cols()), &x)?;
        w.no_zero_dimension(NO_FEATURES)?;
        w.has_dtype(&[dtype], "x")?;
        y.has_shape(Shape::new(self.x.rows(), y.matrix.cols()), &x)?;
        y.has_shape(Shape::new(self.x.rows(), self.w.cols()), &w)?;
        y.has_dtype(&[dtype], "x")?;
        if let Some(bias) = self.bias {
            let bias = named("bias", bias);
            bias.has_shape(Shape::new(1, self.w.cols()), &w)?;
            bias.has_dtype(&[dtype, DType::F32], "x")?;
        }
        Ok(())
    }
}

impl<D: Memory> FrozenBackward<'_, D> {
    /// Checks every argument; backends call it before they write anything.
    ///
    /// # Errors
    /// Which argument does not fit, and why.
    pub fn check(&self) -> Result<()> {
        let (dy, w, dx) = (named("dy", self.dy), named("w", self.w), named("dx", self.dx.matrix.as_ref()));
        let dtype = self.dy.dtype();
        w.has_shape(Shape::new(self.w.rows(), self.dy.cols()), &dy)?;
        w.no_zero_dimension(NO_FEATURES)?;
        w.has_dtype(&[dtype], "dy")?;
        dx.has_shape(Shape::new(self.dy.rows(), dx.matrix.cols()), &dy)?;
        dx.has_shape(Shape::new(self.dy.rows(), self.w.rows()), &w)?;
        dx.has_dtype(&[dtype], "dy")
    }
}

/// The same product as a layer of its own: dY through Wᵀ.
impl<'a, D: Memory> From<FrozenBackward<'a, D>> for Frozen<'a, D> {
    fn from(op: FrozenBackward<'a, D>) -> Self {
        Frozen { x: op.dy, w: op.w.t(), bias: None, y: op.dx }
    }
}
