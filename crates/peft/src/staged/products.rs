//! Forward and backward by way of the device.

use super::{Copied, CopiedAdapter, Staged};
use lora_kernels::ops::{
    BackwardProjection, BackwardSiblings, ForwardSiblings, Output, Projection, WriteMode,
};
use lora_kernels::{Device, Frozen, MatrixRef, Result};

/// One projection's operands on the device.
struct Forwarded<D: Device> {
    w: Copied<D>,
    adapter: CopiedAdapter<D>,
    bias: Option<Copied<D>>,
    y: Copied<D>,
    s: Option<Copied<D>>,
}

/// One projection's operands of the backward on the device.
struct Backwarded<D: Device> {
    w: Copied<D>,
    adapter: CopiedAdapter<D>,
    dy: Copied<D>,
    s: Option<Copied<D>>,
    da: Option<Gradient<D>>,
    db: Option<Gradient<D>>,
    dbias: Option<Gradient<D>>,
}

struct Gradient<D: Device> {
    matrix: Copied<D>,
    mode: WriteMode,
}

impl<D: Device> Gradient<D> {
    fn output(&mut self) -> Result<Output<'_, D::Memory>> {
        Ok(Output { matrix: self.matrix.view_mut()?, mode: self.mode })
    }
}

impl<D: Device> Staged<D> {
    fn upload_optional(&self, matrix: Option<MatrixRef<'_>>) -> Result<Option<Copied<D>>> {
        matrix.map(|matrix| self.upload(matrix)).transpose()
    }

    fn upload_gradient(&self, output: Option<&Output<'_>>) -> Result<Option<Gradient<D>>> {
        let upload = |output: &Output<'_>| {
            Ok(Gradient { matrix: self.upload(output.matrix.as_ref())?, mode: output.mode })
        };
        output.map(upload).transpose()
    }

    fn download_gradient(&self, gradient: &Option<Gradient<D>>, to: Option<Output<'_>>) -> Result<()> {
        match (gradient, to) {
            (Some(gradient), Some(output)) => self.download(&gradient.matrix, output.matrix),
            _ => Ok(()),
        }
    }

    pub(super) fn forward_on_device(&self, op: ForwardSiblings<'_>) -> Result<()> {
        let x = self.upload(op.x)?;
        let mut copied = Vec::with_capacity(op.projections.len());
        for projection in &op.projections {
            copied.push(Forwarded {
                w: self.upload(projection.w)?,
                adapter: self.upload_adapter(projection.adapter)?,
                bias: self.upload_optional(projection.bias)?,
                y: self.upload(projection.y.as_ref())?,
                s: self.upload_optional(projection.s.as_ref().map(|s| s.as_ref()))?,
            });
        }
        let views = copied.iter_mut().map(|Forwarded { w, adapter, bias, y, s }| {
            Ok(Projection {
                w: w.view()?,
                adapter: adapter.view()?,
                bias: bias.as_ref().map(Copied::view).transpose()?,
                y: y.view_mut()?,
                s: s.as_mut().map(Copied::view_mut).transpose()?,
            })
        });
        let projections = views.collect::<Result<_>>()?;
        self.device.forward_siblings(ForwardSiblings { x: x.view()?, dropout: op.dropout, projections })?;
        for (projection, copied) in op.projections.into_iter().zip(&copied) {
            self.download(&copied.y, projection.y)?;
            if let (Some(copied), Some(s)) = (&copied.s, projection.s) {
                self.download(copied, s)?;
            }
        }
        Ok(())
    }

    pub(super) fn frozen_on_device(&self, op: Frozen<'_>) -> Result<()> {
        let (x, w, bias) = (self.upload(op.x)?, self.upload(op.w)?, self.upload_optional(op.bias)?);
        let mut y = Gradient { matrix: self.upload(op.y.matrix.as_ref())?, mode: op.y.mode };
        self.device.frozen(Frozen {
            x: x.view()?,
            w: w.view()?,
            bias: bias.as_ref().map(Copied::view).transpose()?,
            y: y.output()?,
        })?;
        self.download(&y.matrix, op.y.matrix)
    }

    pub(super) fn backward_on_device(&self, op: BackwardSiblings<'_>) -> Result<()> {
        let x = self.upload_optional(op.x)?;
        let mut dx = self.upload_gradient(op.dx.as_ref())?;
        let mut copied = Vec::with_capacity(op.projections.len());
        for projection in &op.projections {
            copied.push(Backwarded {
                w: self.upload(projection.w)?,
                adapter: self.upload_adapter(projection.adapter)?,
                dy: self.upload(projection.dy)?,
                s: self.upload_optional(projection.s)?,
                da: self.upload_gradient(projection.da.as_ref())?,
                db: self.upload_gradient(projection.db.as_ref())?,
                dbias: self.upload_gradient(projection.dbias.as_ref())?,
            });
        }
        let views = copied.iter_mut().map(|Backwarded { w, adapter, dy, s, da, db, dbias }| {
            Ok(BackwardProjection {
                w: w.view()?,
                adapter: adapter.view()?,
                dy: dy.view()?,
                s: s.as_ref().map(Copied::view).transpose()?,
                da: da.as_mut().map(Gradient::output).transpose()?,
                db: db.as_mut().map(Gradient::output).transpose()?,
                dbias: dbias.as_mut().map(Gradient::output).transpose()?,
            })
        });
        let projections = views.collect::<Result<_>>()?;
        self.device.backward_siblings(BackwardSiblings {
            x: x.as_ref().map(Copied::view).transpose()?,
            dropout: op.dropout,
            dx: dx.as_mut().map(Gradient::output).transpose()?,
            projections,
        })?;
        self.download_gradient(&dx, op.dx)?;
        for (projection, copied) in op.projections.into_iter().zip(&copied) {
            self.download_gradient(&copied.da, projection.da)?;
            self.download_gradient(&copied.db, projection.db)?;
            self.download_gradient(&copied.dbias, projection.dbias)?;
        }
        Ok(())
    }
}
