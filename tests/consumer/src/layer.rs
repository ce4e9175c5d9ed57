//! A layer with 3 inputs, 2 outputs and an adapter of rank 1, and what it computes. Written once for all backends.

use lora_kernels::memory::Memory;
use lora_kernels::ops::Output;
use lora_kernels::restore::RestoreRecord;
use lora_kernels::{Adapter, Backend, Backward, Forward, MatrixMut, MatrixRef, Result, WeightUpdate};

pub const X: [f32; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
pub const W: [f32; 6] = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0];
pub const A: [f32; 3] = [1.0, -1.0, 1.0];
pub const B: [f32; 2] = [2.0, 3.0];
pub const SCALE: f32 = 2.0;
pub const DY: [f32; 4] = [1.0, 2.0, 3.0, -1.0];

/// X·W = [4 5; 10 11], S = 2·X·A = [4; 10], S·B = [8 12; 20 30].
pub const Y: [f32; 4] = [12.0, 17.0, 30.0, 41.0];
pub const S: [f32; 2] = [4.0, 10.0];
/// dS = 2·dY·Bᵀ = [16; 6]; dX = dY·Wᵀ + dS·Aᵀ = [1 2 3; 3 -1 2] + [16 -16 16; 6 -6 6].
pub const DX: [f32; 6] = [17.0, -14.0, 19.0, 9.0, -7.0, 8.0];
/// Xᵀ·dS.
pub const DA: [f32; 3] = [40.0, 62.0, 84.0];
/// Sᵀ·dY.
pub const DB: [f32; 2] = [34.0, -2.0];
/// W + 2·A·B.
pub const MERGED: [f32; 6] = [5.0, 6.0, -4.0, -5.0, 5.0, 7.0];

/// The layer's matrices.
pub struct Layer<'a, D: Memory> {
    pub x: MatrixRef<'a, D>,
    pub w: MatrixRef<'a, D>,
    pub adapter: Adapter<'a, D>,
}

/// The layer's gradients.
pub struct Gradients<'a, D: Memory> {
    pub dx: MatrixMut<'a, D>,
    pub da: MatrixMut<'a, D>,
    pub db: MatrixMut<'a, D>,
}

pub fn forward<'a, K: Backend>(
    backend: &K,
    layer: Layer<'a, K::Memory>,
    y: MatrixMut<'a, K::Memory>,
    s: MatrixMut<'a, K::Memory>,
) -> Result<()> {
    let Layer { x, w, adapter } = layer;
    backend.forward(Forward { x, w, adapter, bias: None, dropout: None, y, s: Some(s) })
}

pub fn backward<'a, K: Backend>(
    backend: &K,
    layer: Layer<'a, K::Memory>,
    dy: MatrixRef<'a, K::Memory>,
    s: MatrixRef<'a, K::Memory>,
    gradients: Gradients<'a, K::Memory>,
) -> Result<()> {
    let Layer { x, w, adapter } = layer;
    backend.backward(Backward {
        x: Some(x),
        w,
        adapter,
        dropout: None,
        dy,
        s: Some(s),
        dx: Some(Output::overwrite(gradients.dx)),
        da: Some(Output::overwrite(gradients.da)),
        db: Some(Output::overwrite(gradients.db)),
        dbias: None,
    })
}

pub fn merge<'a, K: Backend>(
    backend: &K,
    w: MatrixMut<'a, K::Memory>,
    adapter: Adapter<'a, K::Memory>,
    record: &'a mut RestoreRecord<K::Codes>,
) -> Result<()> {
    backend.update_weights(WeightUpdate::merge(w, adapter).record(record)).map(drop)
}

pub fn unmerge<'a, K: Backend>(
    backend: &K,
    w: MatrixMut<'a, K::Memory>,
    adapter: Adapter<'a, K::Memory>,
    record: &'a mut RestoreRecord<K::Codes>,
) -> Result<()> {
    backend.update_weights(WeightUpdate::unmerge(w, adapter).record(record)).map(drop)
}
