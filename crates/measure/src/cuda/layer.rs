//! A layer in a GPU's memory.

use super::blas::Operand;
use super::device::{Device, Pool, Scalar};
use super::elementwise::{self, Masked};
use super::rotation;
use crate::inputs::{MERGE_SCALE, SCALE};
use crate::{Pass, Problem, System};
use anyhow::Result;
use lora_kernels::cuda::DeviceMemory;
use lora_kernels::cuda::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use lora_kernels::ops::Output;
use lora_kernels::{
    Adapter, Backend, Backward, Dropout, Forward, Frozen, FrozenBackward, MatrixMut, MatrixRef, WeightUpdate,
};

/// The matrices of one layer in PyTorch's layouts.
#[derive(Debug)]
pub struct Matrices<T> {
    /// X \[m, k\].
    pub x: CudaSlice<T>,
    /// W \[n, k\].
    pub w: CudaSlice<T>,
    /// A \[r, k\].
    pub a: CudaSlice<T>,
    /// B \[n, r\].
    pub b: CudaSlice<T>,
    /// dY \[m, n\].
    pub dy: CudaSlice<T>,
    /// Y \[m, n\].
    pub y: CudaSlice<T>,
    /// S = drop(X)·A \[m, r\].
    pub s: CudaSlice<T>,
    /// dX \[m, k\].
    pub dx: CudaSlice<T>,
    /// dA \[r, k\].
    pub da: CudaSlice<T>,
    /// dB \[n, r\].
    pub db: CudaSlice<T>,
}

impl<T: Scalar> Matrices<T> {
    fn new(device: &Device, pool: &Pool<T>, problem: Problem, number: usize) -> Result<Self> {
        let Problem { m, k, n, r } = problem;
        let random = |matrix: usize, len| device.random(pool, 8 * number + matrix, len);
        Ok(Matrices {
            x: random(0, m * k)?,
            w: random(1, n * k)?,
            a: random(2, r * k)?,
            b: random(3, n * r)?,
            dy: random(4, m * n)?,
            y: device.zeros(m * n)?,
            s: device.zeros(m * r)?,
            dx: device.zeros(m * k)?,
            da: device.zeros(r * k)?,
            db: device.zeros(n * r)?,
        })
    }

    /// As many as it takes for none to be found in the cache when its turn comes again.
    ///
    /// # Errors
    /// There is no memory, or a copy failed.
    pub fn sets(device: &Device, problem: Problem) -> Result<Vec<Self>> {
        let Problem { m, k, n, r } = problem;
        let inputs = size_of::<T>() * (m * (k + n) + k * n + r * (k + n));
        let pool = Pool::new();
        (0..rotation::sets(inputs, device.cache_bytes))
            .map(|number| Matrices::new(device, &pool, problem, number))
            .collect()
    }
}

/// One layer with everything that any system needs. Each run takes the next set of matrices.
#[derive(Debug)]
pub struct Layer<T> {
    problem: Problem,
    sets: Vec<Matrices<T>>,
    /// Whether the adapter is merged into each set's W.
    merged: Vec<bool>,
    next: usize,
    /// Intermediates of the baselines: \[m, n\], \[m, r\], \[m, k\] twice, \[n, k\], and the mask. All sets share them.
    wide: CudaSlice<T>,
    narrow: CudaSlice<T>,
    tall: CudaSlice<T>,
    dropped: CudaSlice<T>,
    delta: CudaSlice<T>,
    mask: CudaSlice<u8>,
}

impl<T: Scalar> Layer<T> {
    /// With random matrices, on the device that it is to run on.
    ///
    /// # Errors
    /// There is no memory, or a copy failed.
    pub fn new(device: &Device, problem: Problem) -> Result<Self> {
        let Problem { m, k, n, r } = problem;
        let sets = Matrices::sets(device, problem)?;
        Ok(Layer {
            problem,
            merged: vec![false; sets.len()],
            sets,
            next: 0,
            wide: device.zeros(m * n)?,
            narrow: device.zeros(m * r)?,
            tall: device.zeros(m * k)?,
            dropped: device.zeros(m * k)?,
            delta: device.zeros(n * k)?,
            mask: device.stream.alloc_zeros((m * k).max(1))?,
        })
    }

    /// The sets of matrices.
    pub fn sets(&self) -> &[Matrices<T>] {
        &self.sets
    }

    /// The sets of matrices, for what no system does.
    pub fn sets_mut(&mut self) -> &mut [Matrices<T>] {
        &mut self.sets
    }

    /// Whether this system exists with this probability.
    pub fn has(system: System, probability: f32) -> bool {
        // Unsloth's way has no dropout.
        matches!(system, System::Unfused | System::Fused) || probability == 0.0
    }

    /// Enqueues one system on every set once.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn round(&mut self, device: &mut Device, system: System, pass: Pass, probability: f32) -> Result<()> {
        (0..self.sets.len()).try_for_each(|_| self.run(device, system, pass, probability))
    }

    /// Enqueues one system on the next set. The backward reads the S that an earlier forward left. Systems without adapter
    /// merge nothing.
    ///
    /// # Errors
    /// As the operations of [`Backend`] and of cuBLAS.
    pub fn run(&mut self, device: &mut Device, system: System, pass: Pass, probability: f32) -> Result<()> {
        match pass {
            Pass::Forward => self.forward(device, system, probability)?,
            Pass::Backward => self.backward(device, system, probability)?,
            Pass::Step => {
                self.forward(device, system, probability)?;
                self.backward(device, system, probability)?;
            }
            Pass::Merge => self.merge(device, system)?,
        }
        self.next = (self.next + 1) % self.sets.len();
        Ok(())
    }

    fn forward(&mut self, device: &mut Device, system: System, probability: f32) -> Result<()> {
        match system {
            System::Library => self.library_forward(device),
            System::Frozen => self.frozen_forward(device),
            System::Unfused => self.unfused_forward(device, probability),
            System::Accumulated => self.accumulated_forward(device),
            System::Fused => self.fused_forward(device, probability),
        }
    }

    fn backward(&mut self, device: &mut Device, system: System, probability: f32) -> Result<()> {
        match system {
            System::Library => self.library_backward(device),
            System::Frozen => self.frozen_backward(device),
            System::Unfused => self.unfused_backward(device, probability),
            System::Accumulated => self.accumulated_backward(device),
            System::Fused => self.fused_backward(device, probability),
        }
    }

    fn merge(&mut self, device: &mut Device, system: System) -> Result<()> {
        let scale = if self.merged[self.next] { -MERGE_SCALE } else { MERGE_SCALE };
        let Operands { w, a, b, delta, .. } = self.operands(device);
        match system {
            System::Library | System::Frozen => return Ok(()),
            System::Unfused => {
                product::<T>(device, delta, false, 1.0, b, a)?;
                scaled::<T>(device, delta, delta, scale)?;
                add::<T>(device, w, delta)?;
            }
            System::Accumulated => product::<T>(device, w, true, scale, b, a)?,
            System::Fused => {
                let Problem { k, n, r, .. } = self.problem;
                let Matrices { w, a, b, .. } = &mut self.sets[self.next];
                let adapter = Adapter { a: view(a, r, k)?.t(), b: view(b, n, r)?.t(), scale };
                device.cuda.update_weights(WeightUpdate::merge(view_mut(w, n, k)?.t(), adapter))?;
            }
        }
        self.merged[self.next] ^= true;
        Ok(())
    }

    fn frozen_forward(&mut self, device: &mut Device) -> Result<()> {
        let Problem { m, k, n, .. } = self.problem;
        let Matrices { x, w, y, .. } = &mut self.sets[self.next];
        let (x, w) = (view(x, m, k)?, view(w, n, k)?.t());
        let y = Output::overwrite(view_mut(y, m, n)?);
        Ok(device.cuda.frozen(Frozen { x, w, bias: None, y })?)
    }

    fn frozen_backward(&mut self, device: &mut Device) -> Result<()> {
        let Problem { m, k, n, .. } = self.problem;
        let Matrices { dy, w, dx, .. } = &mut self.sets[self.next];
        let (dy, w) = (view(dy, m, n)?, view(w, n, k)?.t());
        let dx = Output::overwrite(view_mut(dx, m, k)?);
        Ok(device.cuda.frozen_backward(FrozenBackward { dy, w, dx })?)
    }

    fn fused_forward(&mut self, device: &mut Device, probability: f32) -> Result<()> {
        let Problem { m, k, n, r } = self.problem;
        let Matrices { x, w, a, b, y, s, .. } = &mut self.sets[self.next];
        let op = Forward {
            x: view(x, m, k)?,
            w: view(w, n, k)?.t(),
            adapter: Adapter { a: view(a, r, k)?.t(), b: view(b, n, r)?.t(), scale: SCALE },
            bias: None,
            dropout: dropout(probability)?,
            y: view_mut(y, m, n)?,
            s: Some(view_mut(s, m, r)?),
        };
        Ok(device.cuda.forward(op)?)
    }

    fn fused_backward(&mut self, device: &mut Device, probability: f32) -> Result<()> {
        let Problem { m, k, n, r } = self.problem;
        let Matrices { x, w, a, b, dy, s, dx, da, db, .. } = &mut self.sets[self.next];
        let op = Backward {
            x: Some(view(x, m, k)?),
            w: view(w, n, k)?.t(),
            adapter: Adapter { a: view(a, r, k)?.t(), b: view(b, n, r)?.t(), scale: SCALE },
            dropout: dropout(probability)?,
            dy: view(dy, m, n)?,
            s: Some(view(s, m, r)?),
            dx: Some(Output::overwrite(view_mut(dx, m, k)?)),
            da: Some(Output::overwrite(view_mut(da, r, k)?.t())),
            db: Some(Output::overwrite(view_mut(db, n, r)?.t())),
            dbias: None,
        };
        Ok(device.cuda.backward(op)?)
    }

    fn library_forward(&mut self, device: &mut Device) -> Result<()> {
        let Operands { x, w, y, .. } = self.operands(device);
        product::<T>(device, y, false, 1.0, x, w.t())
    }

    fn library_backward(&mut self, device: &mut Device) -> Result<()> {
        let Operands { dy, w, dx, .. } = self.operands(device);
        product::<T>(device, dx, false, 1.0, dy, w)
    }

    fn unfused_forward(&mut self, device: &mut Device, probability: f32) -> Result<()> {
        self.library_forward(device)?;
        let Operands { mut x, a, b, y, s, wide, dropped, .. } = self.operands(device);
        if probability > 0.0 {
            let masked = self.masked(device, probability);
            device.elementwise.dropped::<T>(pass(dropped, x), masked, self.next as u64)?;
            x = dropped;
        }
        product::<T>(device, s, false, 1.0, x, a.t())?;
        product::<T>(device, wide, false, 1.0, s, b.t())?;
        scaled::<T>(device, wide, wide, SCALE)?;
        add::<T>(device, y, wide)
    }

    fn unfused_backward(&mut self, device: &mut Device, probability: f32) -> Result<()> {
        self.library_backward(device)?;
        let Operands { mut x, a, b, dy, s, dx, da, db, wide, narrow, tall, dropped, .. } =
            self.operands(device);
        if probability > 0.0 {
            x = dropped;
        }
        scaled::<T>(device, wide, dy, SCALE)?;
        product::<T>(device, db, false, 1.0, wide.t(), s)?;
        product::<T>(device, narrow, false, 1.0, wide, b)?;
        product::<T>(device, da, false, 1.0, narrow.t(), x)?;
        product::<T>(device, tall, false, 1.0, narrow, a)?;
        if probability > 0.0 {
            device.elementwise.masked::<T>(pass(tall, tall), self.masked(device, probability))?;
        }
        add::<T>(device, dx, tall)
    }

    fn accumulated_forward(&mut self, device: &mut Device) -> Result<()> {
        self.library_forward(device)?;
        let Operands { x, a, b, y, s, .. } = self.operands(device);
        product::<T>(device, s, false, 1.0, x, a.t())?;
        product::<T>(device, y, true, SCALE, s, b.t())
    }

    /// Unsloth's autograd function saves X only: it recomputes X·A, and computes dY·Bᵀ twice.
    fn accumulated_backward(&mut self, device: &mut Device) -> Result<()> {
        self.library_backward(device)?;
        let Operands { x, a, b, dy, dx, da, db, narrow, .. } = self.operands(device);
        product::<T>(device, narrow, false, 1.0, dy, b)?;
        product::<T>(device, da, false, SCALE, narrow.t(), x)?;
        product::<T>(device, narrow, false, 1.0, x, a.t())?;
        product::<T>(device, db, false, SCALE, dy.t(), narrow)?;
        product::<T>(device, narrow, false, 1.0, dy, b)?;
        product::<T>(device, dx, true, SCALE, narrow, a)
    }

    fn masked(&self, device: &Device, probability: f32) -> Masked {
        Masked { mask: self.mask.device_ptr(&device.stream).0, probability }
    }

    /// All matrices of the next set as cuBLAS takes them.
    fn operands(&self, device: &Device) -> Operands {
        let Problem { m, k, n, r } = self.problem;
        let set = &self.sets[self.next];
        let operand = |slice, rows, cols| operand(&device.stream, slice, rows, cols);
        Operands {
            x: operand(&set.x, m, k),
            w: operand(&set.w, n, k),
            a: operand(&set.a, r, k),
            b: operand(&set.b, n, r),
            dy: operand(&set.dy, m, n),
            y: operand(&set.y, m, n),
            s: operand(&set.s, m, r),
            dx: operand(&set.dx, m, k),
            da: operand(&set.da, r, k),
            db: operand(&set.db, n, r),
            wide: operand(&self.wide, m, n),
            narrow: operand(&self.narrow, m, r),
            tall: operand(&self.tall, m, k),
            dropped: operand(&self.dropped, m, k),
            delta: operand(&self.delta, n, k),
        }
    }
}

struct Operands {
    x: Operand,
    w: Operand,
    a: Operand,
    b: Operand,
    dy: Operand,
    y: Operand,
    s: Operand,
    dx: Operand,
    da: Operand,
    db: Operand,
    wide: Operand,
    narrow: Operand,
    tall: Operand,
    dropped: Operand,
    delta: Operand,
}

fn product<T: Scalar>(
    device: &Device,
    to: Operand,
    keep: bool,
    factor: f32,
    left: Operand,
    right: Operand,
) -> Result<()> {
    device.blas.product(T::DTYPE, to.address, keep, factor, left, right)
}

fn scaled<T: Scalar>(device: &Device, to: Operand, from: Operand, factor: f32) -> Result<()> {
    device.elementwise.scaled::<T>(pass(to, from), factor)
}

fn pass(to: Operand, from: Operand) -> elementwise::Pass {
    elementwise::Pass { to: to.address, from: from.address, count: from.rows * from.cols }
}

fn add<T: Scalar>(device: &Device, to: Operand, from: Operand) -> Result<()> {
    device.blas.add(T::DTYPE, to.address, from.address, to.rows * to.cols)
}

/// A slice as cuBLAS takes it.
fn operand<T: Scalar>(stream: &CudaStream, slice: &CudaSlice<T>, rows: usize, cols: usize) -> Operand {
    assert!(slice.len() >= rows * cols);
    Operand { address: slice.device_ptr(stream).0, rows, cols, transposed: false }
}

fn dropout(probability: f32) -> lora_kernels::Result<Option<Dropout>> {
    (probability > 0.0).then(|| Dropout::new(probability, 7, 0)).transpose()
}

/// A slice as lora-kernels takes it.
///
/// # Errors
/// It has fewer elements.
pub fn view<T: Scalar>(
    slice: &CudaSlice<T>,
    rows: usize,
    cols: usize,
) -> lora_kernels::Result<MatrixRef<'_, DeviceMemory>> {
    MatrixRef::from_cuda(slice, rows, cols)
}

/// [`view`], changeable.
///
/// # Errors
/// It has fewer elements.
pub fn view_mut<T: Scalar>(
    slice: &mut CudaSlice<T>,
    rows: usize,
    cols: usize,
) -> lora_kernels::Result<MatrixMut<'_, DeviceMemory>> {
    MatrixMut::from_cuda(slice, rows, cols)
}
