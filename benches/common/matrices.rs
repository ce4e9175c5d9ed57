//! The matrices of one layer as bare addresses, and the operations on them.

use lora_kernels::cuda::engine::RawCodes;
use lora_kernels::memory::{Raw, RawBuffer};
use lora_kernels::ops::{Backward, Output};
use lora_kernels::{Adapter, DType, Dropout, Forward, Layout, MatrixMut, MatrixRef, WeightUpdate};
use lora_measure::Problem;
use lora_measure::inputs::{MERGE_SCALE, SCALE};

/// In PyTorch's layouts: W [n, k], A [r, k], B [n, r].
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub problem: Problem,
    pub x: RawBuffer,
    pub w: RawBuffer,
    pub a: RawBuffer,
    pub b: RawBuffer,
    pub dy: RawBuffer,
    pub y: RawBuffer,
    pub s: RawBuffer,
    pub dx: RawBuffer,
    pub da: RawBuffer,
    pub db: RawBuffer,
}

impl Addresses {
    /// Where `place` puts matrices of so many elements.
    pub fn allocate<E>(
        problem: Problem,
        dtype: DType,
        mut place: impl FnMut(usize) -> Result<u64, E>,
    ) -> Result<Self, E> {
        let Problem { m, k, n, r } = problem;
        let mut buffer = |len: usize| place(len).map(|address| RawBuffer { address, len, dtype });
        Ok(Addresses {
            problem,
            x: buffer(m * k)?,
            w: buffer(n * k)?,
            a: buffer(r * k)?,
            b: buffer(n * r)?,
            dy: buffer(m * n)?,
            y: buffer(m * n)?,
            s: buffer(m * r)?,
            dx: buffer(m * k)?,
            da: buffer(r * k)?,
            db: buffer(n * r)?,
        })
    }

    /// The matrices that operations read, S among them.
    pub fn inputs(&self) -> [RawBuffer; 6] {
        [self.x, self.w, self.a, self.b, self.dy, self.s]
    }

    fn adapter(&self, scale: f32) -> Adapter<'static, Raw> {
        let Problem { k, n, r, .. } = self.problem;
        Adapter { a: read(self.a, r, k).t(), b: read(self.b, n, r).t(), scale }
    }

    pub fn forward(&self, dropout: Option<Dropout>) -> Forward<'static, Raw> {
        let Problem { m, k, n, r } = self.problem;
        Forward {
            x: read(self.x, m, k),
            w: read(self.w, n, k).t(),
            adapter: self.adapter(SCALE),
            bias: None,
            dropout,
            y: write(self.y, m, n),
            s: Some(write(self.s, m, r)),
        }
    }

    pub fn backward(&self, dropout: Option<Dropout>) -> Backward<'static, Raw> {
        let Problem { m, k, n, r } = self.problem;
        Backward {
            x: Some(read(self.x, m, k)),
            w: read(self.w, n, k).t(),
            adapter: self.adapter(SCALE),
            dropout,
            dy: read(self.dy, m, n),
            s: Some(read(self.s, m, r)),
            dx: Some(Output::overwrite(write(self.dx, m, k))),
            da: Some(Output::overwrite(write(self.da, r, k).t())),
            db: Some(Output::overwrite(write(self.db, n, r).t())),
            dbias: None,
        }
    }

    pub fn merge(&self) -> WeightUpdate<'static, Raw, RawCodes> {
        let Problem { k, n, .. } = self.problem;
        WeightUpdate::merge(write(self.w, n, k).t(), self.adapter(MERGE_SCALE))
    }
}

fn read(buffer: RawBuffer, rows: usize, cols: usize) -> MatrixRef<'static, Raw> {
    MatrixRef::from_buffer(buffer, Layout::packed(rows, cols).expect("small"))
        .expect("the buffer fits the problem")
}

fn write(buffer: RawBuffer, rows: usize, cols: usize) -> MatrixMut<'static, Raw> {
    MatrixMut::from_buffer(buffer, Layout::packed(rows, cols).expect("small"))
        .expect("the buffer fits the problem")
}
