//! Y = X·W + s·drop(X)·A·B + bias.

use super::Adapter;
use super::check::{combined_ranks, fits_dropout_counter, named};
use crate::memory::{Host, Memory};
use crate::{DType, Dropout, MatrixMut, MatrixRef, Result, Shape};

/// One adapted layer: Y = X·W + s·drop(X)·A·B (+ bias).
///
/// X, W, Y and S have one element type. Products accumulate in `f32`; S is rounded once to its element type before it
/// meets B. M = 0 is a no-op.
///
/// On a GPU without bias, W, A and B of a [`PaddedWeight`](crate::padded::PaddedWeight), or matrices that lie so, make Y one product, which is
/// rounded once. It takes fewest passes where `s` lies beside X: [`InputWithRoom`](crate::padded::InputWithRoom). Otherwise X is copied
/// to scratch memory while it is read, where that moves fewer bytes.
#[derive(Debug)]
pub struct Forward<'a, D: Memory = Host> {
    /// X \[M, in\].
    pub x: MatrixRef<'a, D>,
    /// The frozen W \[in, out\].
    pub w: MatrixRef<'a, D>,
    /// A, B and s.
    pub adapter: Adapter<'a, D>,
    /// A row \[1, out\] added to every row of Y; X's element type or `f32`.
    pub bias: Option<MatrixRef<'a, D>>,
    /// Dropout on the adapter's input only.
    pub dropout: Option<Dropout>,
    /// Y \[M, out\], overwritten.
    pub y: MatrixMut<'a, D>,
    /// Receives S = s·drop(X)·A \[M, r\] for the backward; `None` for inference. It may lie beside X in one buffer.
    pub s: Option<MatrixMut<'a, D>>,
}

/// Layers that read the same X, such as the query, key and value projections: X is read once for all their S.
///
/// They share one dropout mask, and, where W, A and B of each are parts of a padded weight, the copy of X or the room beside it: there the
/// largest S is given, and the others pass through.
#[derive(Debug)]
pub struct ForwardSiblings<'a, D: Memory = Host> {
    /// X \[M, in\].
    pub x: MatrixRef<'a, D>,
    /// Dropout on the adapters' input only.
    pub dropout: Option<Dropout>,
    /// The layers; ranks and widths may differ.
    pub projections: Vec<Projection<'a, D>>,
}

/// One layer of [`ForwardSiblings`]; the fields mean what they mean in [`Forward`].
#[derive(Debug)]
pub struct Projection<'a, D: Memory = Host> {
    /// The frozen W \[in, out\].
    pub w: MatrixRef<'a, D>,
    /// A, B and s.
    pub adapter: Adapter<'a, D>,
    /// A row \[1, out\] added to every row of Y.
    pub bias: Option<MatrixRef<'a, D>>,
    /// Y \[M, out\], overwritten.
    pub y: MatrixMut<'a, D>,
    /// Receives S \[M, r\].
    pub s: Option<MatrixMut<'a, D>>,
}

impl<'a, D: Memory> From<Forward<'a, D>> for ForwardSiblings<'a, D> {
    fn from(op: Forward<'a, D>) -> Self {
        let Forward { x, w, adapter, bias, dropout, y, s } = op;
        ForwardSiblings { x, dropout, projections: vec![Projection { w, adapter, bias, y, s }] }
    }
}

impl<D: Memory> ForwardSiblings<'_, D> {
    /// Checks every argument; backends call it before they write anything.
    ///
    /// # Errors
    /// Which argument does not fit, and why.
    pub fn check(&self) -> Result<()> {
        let x = named("x", self.x);
        if self.dropout.is_some() {
            fits_dropout_counter("x", self.x.shape())?;
        }
        let dtype = self.x.dtype();
        let widest = self.projections.iter().map(|projection| projection.w.cols()).max().unwrap_or(0);
        let ranks = self.projections.iter().map(|projection| projection.adapter.rank());
        combined_ranks(self.x.rows(), [self.x.cols(), widest], ranks)?;
        for projection in &self.projections {
            let w = named("w", projection.w);
            w.has_shape(Shape::new(self.x.cols(), projection.w.cols()), &x)?;
            w.no_zero_dimension("a layer needs at least one input and one output feature")?;
            w.has_dtype(&[dtype], "x")?;
            projection.adapter.check_against(&w)?;
            let y = named("y", projection.y.as_ref());
            y.has_shape(Shape::new(self.x.rows(), y.matrix.cols()), &x)?;
            y.has_shape(Shape::new(self.x.rows(), projection.w.cols()), &w)?;
            y.has_dtype(&[dtype], "x")?;
            if let Some(bias) = projection.bias {
                let bias = named("bias", bias);
                bias.has_shape(Shape::new(1, projection.w.cols()), &w)?;
                bias.has_dtype(&[dtype, DType::F32], "x")?;
            }
            if let Some(s) = &projection.s {
                let s = named("s", s.as_ref());
                s.has_shape(Shape::new(self.x.rows(), s.matrix.cols()), &x)?;
                let a = named("a", projection.adapter.a);
                s.has_shape(Shape::new(self.x.rows(), projection.adapter.rank()), &a)?;
                s.has_dtype(&[dtype], "x")?;
            }
        }
        Ok(())
    }
}
