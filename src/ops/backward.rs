//! Gradients of the adapted layer.

use super::Adapter;
use super::check::{combined_ranks, fits_dropout_counter, named};
use crate::memory::{Host, Memory};
use crate::{DType, Dropout, Error, MatrixMut, MatrixRef, Result, Shape};

/// Whether a gradient replaces what its matrix holds or is added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// Previous contents are ignored, whatever they are.
    Overwrite,
    /// The gradient is added: gradient accumulation.
    Accumulate,
}

/// A matrix that receives a gradient.
#[derive(Debug)]
pub struct Output<'a, D: Memory = Host> {
    /// Where the gradient goes.
    pub matrix: MatrixMut<'a, D>,
    /// Replace or add.
    pub mode: WriteMode,
}

impl<'a, D: Memory> Output<'a, D> {
    /// Replaces the contents of `matrix`.
    pub fn overwrite(matrix: MatrixMut<'a, D>) -> Self {
        Output { matrix, mode: WriteMode::Overwrite }
    }

    /// Adds to the contents of `matrix`.
    pub fn accumulate(matrix: MatrixMut<'a, D>) -> Self {
        Output { matrix, mode: WriteMode::Accumulate }
    }
}

/// Gradients of one adapted layer, given dY. With the mask of the forward and dS = s·dY·Bᵀ:
///
/// dX = dY·Wᵀ + drop(dS·Aᵀ), dA = drop(X)ᵀ·dS, dB = Sᵀ·dY, dbias = column sums of dY.
///
/// X, W, dY, dX and S have one element type; dA and dB have the adapter's, or `f32`. Each gradient is optional.
/// With M = 0 overwritten dA, dB and dbias become zero.
///
/// On a GPU without dropout, W, A and B of a [`PaddedWeight`](crate::padded::PaddedWeight) make dX one product, which is rounded once; dY
/// is copied to scratch memory while it is read, where that moves fewer bytes.
#[derive(Debug)]
pub struct Backward<'a, D: Memory = Host> {
    /// X \[M, in\] of the forward. Needed for dA, and for dB where S is not given.
    pub x: Option<MatrixRef<'a, D>>,
    /// The frozen W \[in, out\].
    pub w: MatrixRef<'a, D>,
    /// A, B and s.
    pub adapter: Adapter<'a, D>,
    /// The dropout of the forward, with the same seed and offset.
    pub dropout: Option<Dropout>,
    /// dY \[M, out\].
    pub dy: MatrixRef<'a, D>,
    /// S = s·drop(X)·A \[M, r\] from the forward; recomputed from X where it is not given.
    pub s: Option<MatrixRef<'a, D>>,
    /// dX \[M, in\]; the first layer needs none.
    pub dx: Option<Output<'a, D>>,
    /// dA \[in, r\].
    pub da: Option<Output<'a, D>>,
    /// dB \[r, out\].
    pub db: Option<Output<'a, D>>,
    /// dbias \[1, out\]; X's element type or `f32`.
    pub dbias: Option<Output<'a, D>>,
}

/// Gradients of layers that read the same X: X is read once for all their dA, and their dX are summed.
#[derive(Debug)]
pub struct BackwardSiblings<'a, D: Memory = Host> {
    /// X \[M, in\] of the forward. Needed for any dA, and for any dB where S is not given.
    pub x: Option<MatrixRef<'a, D>>,
    /// The dropout of the forward, with the same seed and offset.
    pub dropout: Option<Dropout>,
    /// dX \[M, in\]: the sum over the layers.
    pub dx: Option<Output<'a, D>>,
    /// The layers, in the order of the forward.
    pub projections: Vec<BackwardProjection<'a, D>>,
}

/// One layer of [`BackwardSiblings`]; the fields mean what they mean in [`Backward`].
#[derive(Debug)]
pub struct BackwardProjection<'a, D: Memory = Host> {
    /// The frozen W \[in, out\].
    pub w: MatrixRef<'a, D>,
    /// A, B and s.
    pub adapter: Adapter<'a, D>,
    /// dY \[M, out\].
    pub dy: MatrixRef<'a, D>,
    /// S \[M, r\] from the forward.
    pub s: Option<MatrixRef<'a, D>>,
    /// dA \[in, r\].
    pub da: Option<Output<'a, D>>,
    /// dB \[r, out\].
    pub db: Option<Output<'a, D>>,
    /// dbias \[1, out\].
    pub dbias: Option<Output<'a, D>>,
}

impl<'a, D: Memory> From<Backward<'a, D>> for BackwardSiblings<'a, D> {
    fn from(op: Backward<'a, D>) -> Self {
        let Backward { x, w, adapter, dropout, dy, s, dx, da, db, dbias } = op;
        BackwardSiblings {
            x,
            dropout,
            dx,
            projections: vec![BackwardProjection { w, adapter, dy, s, da, db, dbias }],
        }
    }
}

impl<D: Memory> BackwardSiblings<'_, D> {
    /// Checks every argument; backends call it before they write anything.
    ///
    /// # Errors
    /// Which argument does not fit or is missing, and why.
    pub fn check(&self) -> Result<()> {
        let Some(first) = self.projections.first() else {
            return Ok(());
        };
        let (first_dy, first_w) = (named("dy", first.dy), named("w", first.w));
        let (rows, dtype) = (first.dy.rows(), first.dy.dtype());
        let features = first.w.rows();
        let x_shape = Shape::new(rows, features);
        let widest = self.projections.iter().map(|projection| projection.w.cols()).max().unwrap_or(0);
        let ranks = self.projections.iter().map(|projection| projection.adapter.rank());
        combined_ranks(rows, [features, widest], ranks)?;
        if let Some(x) = self.x {
            let x = named("x", x);
            x.has_shape(Shape::new(rows, x.matrix.cols()), &first_dy)?;
            x.has_shape(x_shape, &first_w)?;
            x.has_dtype(&[dtype], "dy")?;
        }
        if let Some(dx) = &self.dx {
            let dx = named("dx", dx.matrix.as_ref());
            dx.has_shape(Shape::new(rows, dx.matrix.cols()), &first_dy)?;
            dx.has_shape(x_shape, &first_w)?;
            dx.has_dtype(&[dtype], "dy")?;
        }
        if self.dropout.is_some() {
            fits_dropout_counter("x", x_shape)?;
        }
        for projection in &self.projections {
            let dy = named("dy", projection.dy);
            dy.has_dtype(&[dtype], "dy of the first projection")?;
            dy.has_shape(Shape::new(rows, projection.w.cols()), &named("w", projection.w))?;
            projection.check(&dy, features, self.x.is_some())?;
        }
        Ok(())
    }
}

impl<D: Memory> BackwardProjection<'_, D> {
    fn check(&self, dy: &super::check::Named<'_, D>, features: usize, has_x: bool) -> Result<()> {
        let w = named("w", self.w);
        let (rows, dtype) = (self.dy.rows(), self.dy.dtype());
        w.has_shape(Shape::new(features, self.dy.cols()), dy)?;
        w.no_zero_dimension("a layer needs at least one input and one output feature")?;
        w.has_dtype(&[dtype], "dy")?;
        self.adapter.check_against(&w)?;
        let rank = self.adapter.rank();
        if let Some(s) = self.s {
            let s = named("s", s);
            s.has_shape(Shape::new(rows, s.matrix.cols()), dy)?;
            s.has_shape(Shape::new(rows, rank), &named("a", self.adapter.a))?;
            s.has_dtype(&[dtype], "dy")?;
        }
        if let Some(da) = &self.da {
            if !has_x {
                return Err(Error::MissingArgument { argument: "x", reason: "dA is computed from it" });
            }
            let da = named("da", da.matrix.as_ref());
            da.has_shape(self.adapter.a.shape(), &named("a", self.adapter.a))?;
            da.has_dtype(&[self.adapter.dtype(), DType::F32], "a")?;
        }
        if let Some(db) = &self.db {
            if self.s.is_none() && !has_x {
                return Err(Error::MissingArgument {
                    argument: "s",
                    reason: "dB needs S, or X to recompute it from",
                });
            }
            let db = named("db", db.matrix.as_ref());
            db.has_shape(self.adapter.b.shape(), &named("b", self.adapter.b))?;
            db.has_dtype(&[self.adapter.dtype(), DType::F32], "b")?;
        }
        if let Some(dbias) = &self.dbias {
            let dbias = named("dbias", dbias.matrix.as_ref());
            dbias.has_shape(Shape::new(1, self.dy.cols()), dy)?;
            dbias.has_dtype(&[dtype, DType::F32], "dy")?;
        }
        Ok(())
    }
}
