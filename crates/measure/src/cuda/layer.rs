//! The systems on a GPU.

use super::blas::Operand;
use super::device::{Device, Pool, Scalar};
use crate::common::rotation;
use anyhow::Result;
use lora_kernels::cuda::DeviceMemory;
use lora_kernels::cuda::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use lora_kernels::ops::Output;
use lora_kernels::{Adapter, Backend, Backward, Dropout, Forward, MatrixMut, MatrixRef};
use lora_measure::inputs::SCALE;
use lora_measure::{Pass, Problem, System};
use std::sync::Arc;

/// The matrices of one layer in PyTorch's layouts: W [n, k], A [r, k], B [n, r].
pub struct Matrices<T> {
    pub x: CudaSlice<T>,
    pub w: CudaSlice<T>,
    pub a: CudaSlice<T>,
    pub b: CudaSlice<T>,
    pub dy: CudaSlice<T>,
    pub y: CudaSlice<T>,
    pub s: CudaSlice<T>,
    pub dx: CudaSlice<T>,
    pub da: CudaSlice<T>,
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
pub struct Layer<'a, T> {
    problem: Problem,
    device: &'a mut Device,
    sets: Vec<Matrices<T>>,
    next: usize,
    /// Intermediates of the baselines: [m, n], [m, r] and [m, k].
    wide: CudaSlice<T>,
    narrow: CudaSlice<T>,
    tall: CudaSlice<T>,
}

impl<'a, T: Scalar> Layer<'a, T> {
    pub fn new(device: &'a mut Device, problem: Problem) -> Result<Self> {
        let Problem { m, k, n, r } = problem;
        Ok(Layer {
            problem,
            sets: Matrices::sets(device, problem)?,
            next: 0,
            wide: device.zeros(m * n)?,
            narrow: device.zeros(m * r)?,
            tall: device.zeros(m * k)?,
            device,
        })
    }

    pub fn device(&self) -> &Device {
        self.device
    }

    pub fn stream(&self) -> Arc<CudaStream> {
        self.device.stream.clone()
    }

    /// The number of sets of matrices.
    pub fn sets(&self) -> usize {
        self.sets.len()
    }

    /// Whether this system exists with this probability. cuBLAS has no dropout: PEFT itself is timed by
    /// `benches/peers`.
    pub fn has(system: System, probability: f32) -> bool {
        system == System::Fused || probability == 0.0
    }

    /// Enqueues one system on every set once.
    pub fn round(&mut self, system: System, pass: Pass, probability: f32) {
        for _ in 0..self.sets.len() {
            self.run(system, pass, probability);
        }
    }

    /// Enqueues one system on the next set. The backward reads the S that an earlier forward left.
    pub fn run(&mut self, system: System, pass: Pass, probability: f32) {
        assert_ne!(pass, Pass::Merge, "merging has its own bench");
        if pass != Pass::Backward {
            match system {
                System::Library => self.library_forward(),
                System::Frozen => self.frozen_forward(),
                System::Unfused => self.unfused_forward(),
                System::Accumulated => self.accumulated_forward(),
                System::Fused => self.fused_forward(probability),
            }
        }
        if pass != Pass::Forward {
            match system {
                System::Library => self.library_backward(),
                System::Frozen => self.frozen_backward(),
                System::Unfused => self.unfused_backward(),
                System::Accumulated => self.accumulated_backward(),
                System::Fused => self.fused_backward(probability),
            }
        }
        self.next = (self.next + 1) % self.sets.len();
    }

    fn frozen_forward(&mut self) {
        let Problem { m, k, n, .. } = self.problem;
        let Matrices { x, w, y, .. } = &mut self.sets[self.next];
        let (x, w) = (view(x, m, k), view(w, n, k).t());
        self.device.cuda.frozen(x, w, view_mut(y, m, n)).expect("the frozen layer");
    }

    fn frozen_backward(&mut self) {
        let Problem { m, k, n, .. } = self.problem;
        let Matrices { dy, w, dx, .. } = &mut self.sets[self.next];
        let (dy, w) = (view(dy, m, n), view(w, n, k));
        self.device.cuda.frozen(dy, w, view_mut(dx, m, k)).expect("the frozen layer");
    }

    fn fused_forward(&mut self, probability: f32) {
        let Problem { m, k, n, r } = self.problem;
        let Matrices { x, w, a, b, y, s, .. } = &mut self.sets[self.next];
        let op = Forward {
            x: view(x, m, k),
            w: view(w, n, k).t(),
            adapter: Adapter { a: view(a, r, k).t(), b: view(b, n, r).t(), scale: SCALE },
            bias: None,
            dropout: dropout(probability),
            y: view_mut(y, m, n),
            s: Some(view_mut(s, m, r)),
        };
        self.device.cuda.forward(op).expect("the forward");
    }

    fn fused_backward(&mut self, probability: f32) {
        let Problem { m, k, n, r } = self.problem;
        let Matrices { x, w, a, b, dy, s, dx, da, db, .. } = &mut self.sets[self.next];
        let op = Backward {
            x: Some(view(x, m, k)),
            w: view(w, n, k).t(),
            adapter: Adapter { a: view(a, r, k).t(), b: view(b, n, r).t(), scale: SCALE },
            dropout: dropout(probability),
            dy: view(dy, m, n),
            s: Some(view(s, m, r)),
            dx: Some(Output::overwrite(view_mut(dx, m, k))),
            da: Some(Output::overwrite(view_mut(da, r, k).t())),
            db: Some(Output::overwrite(view_mut(db, n, r).t())),
            dbias: None,
        };
        self.device.cuda.backward(op).expect("the backward");
    }

    fn library_forward(&mut self) {
        let Operands { x, w, y, .. } = self.operands();
        self.product(y, false, 1.0, x, w.t());
    }

    fn library_backward(&mut self) {
        let Operands { dy, w, dx, .. } = self.operands();
        self.product(dx, false, 1.0, dy, w);
    }

    fn unfused_forward(&mut self) {
        self.library_forward();
        let Operands { x, a, b, y, s, wide, .. } = self.operands();
        self.product(s, false, 1.0, x, a.t());
        self.product(wide, false, 1.0, s, b.t());
        self.scale(wide, SCALE);
        self.add(y, wide);
    }

    fn unfused_backward(&mut self) {
        self.library_backward();
        let Operands { x, a, b, dy, s, dx, da, db, narrow, tall, .. } = self.operands();
        // PyTorch writes s·dY to a new tensor. In place moves as many bytes, and −1 keeps dY's size from run to run.
        self.scale(dy, -1.0);
        self.product(db, false, 1.0, dy.t(), s);
        self.product(narrow, false, 1.0, dy, b);
        self.product(da, false, 1.0, narrow.t(), x);
        self.product(tall, false, 1.0, narrow, a);
        self.add(dx, tall);
    }

    fn accumulated_forward(&mut self) {
        self.library_forward();
        let Operands { x, a, b, y, s, .. } = self.operands();
        self.product(s, false, 1.0, x, a.t());
        self.product(y, true, SCALE, s, b.t());
    }

    /// Unsloth's autograd function saves X only: it recomputes X·A, and computes dY·Bᵀ twice.
    fn accumulated_backward(&mut self) {
        self.library_backward();
        let Operands { x, a, b, dy, dx, da, db, narrow, .. } = self.operands();
        self.product(narrow, false, 1.0, dy, b);
        self.product(da, false, SCALE, narrow.t(), x);
        self.product(narrow, false, 1.0, x, a.t());
        self.product(db, false, SCALE, dy.t(), narrow);
        self.product(narrow, false, 1.0, dy, b);
        self.product(dx, true, SCALE, narrow, a);
    }

    fn product(&self, to: Operand, keep: bool, factor: f32, left: Operand, right: Operand) {
        self.device.blas.product(T::DTYPE, to.address, keep, factor, left, right);
    }

    fn scale(&self, values: Operand, factor: f32) {
        self.device.blas.scale(T::DTYPE, values.address, values.rows * values.cols, factor);
    }

    fn add(&self, to: Operand, from: Operand) {
        self.device.blas.add(T::DTYPE, to.address, from.address, to.rows * to.cols);
    }

    /// All matrices of the next set as cuBLAS takes them.
    fn operands(&self) -> Operands {
        let Problem { m, k, n, r } = self.problem;
        let set = &self.sets[self.next];
        let operand = |slice, rows, cols| operand(&self.device.stream, slice, rows, cols);
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
}

/// A slice as cuBLAS takes it.
pub fn operand<T: Scalar>(stream: &CudaStream, slice: &CudaSlice<T>, rows: usize, cols: usize) -> Operand {
    assert!(slice.len() >= rows * cols);
    Operand { address: slice.device_ptr(stream).0, rows, cols, transposed: false }
}

fn dropout(probability: f32) -> Option<Dropout> {
    (probability > 0.0).then(|| Dropout::new(probability, 7, 0).expect("a probability below 1"))
}

pub fn view<T: Scalar>(slice: &CudaSlice<T>, rows: usize, cols: usize) -> MatrixRef<'_, DeviceMemory> {
    MatrixRef::from_cuda(slice, rows, cols).expect("the slice fits the problem")
}

pub fn view_mut<T: Scalar>(
    slice: &mut CudaSlice<T>,
    rows: usize,
    cols: usize,
) -> MatrixMut<'_, DeviceMemory> {
    MatrixMut::from_cuda(slice, rows, cols).expect("the slice fits the problem")
}
