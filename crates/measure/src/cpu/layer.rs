//! A layer in host memory.

use super::baseline::{Operand, add, apply_mask, draw_mask, gemm, product, scale, scaled};
use crate::inputs::{Inputs, MERGE_SCALE, SCALE};
use crate::{Pass, Problem, System};
use lora_kernels::cpu::Cpu;
use lora_kernels::ops::Output;
use lora_kernels::{
    Adapter, Backend, Backward, DType, Dropout, Element, Forward, Frozen, FrozenBackward, MatrixMut,
    MatrixRef, Result, WeightUpdate,
};

/// One layer with everything that any system needs, ready to run any number of times.
#[derive(Debug)]
pub struct Layer<T> {
    problem: Problem,
    cpu: Cpu,
    inputs: Inputs<T>,
    y: Vec<T>,
    s: Vec<T>,
    dx: Vec<T>,
    da: Vec<T>,
    db: Vec<T>,
    /// Intermediates of the baselines: \[m, n\], \[m, r\], \[m, k\] twice, \[k, n\], and the mask.
    wide: Vec<T>,
    narrow: Vec<T>,
    dropped: Vec<T>,
    tall: Vec<T>,
    delta: Vec<T>,
    mask: Vec<u8>,
    step: u64,
    merged: bool,
}

impl<T: Element> Layer<T> {
    /// With random matrices.
    pub fn new(problem: Problem) -> Self {
        let Problem { m, k, n, r } = problem;
        let zeros = |len| vec![T::from_f32(0.0); len];
        Layer {
            problem,
            cpu: Cpu::new(),
            inputs: Inputs::new(problem),
            y: zeros(m * n),
            s: zeros(m * r),
            dx: zeros(m * k),
            da: zeros(k * r),
            db: zeros(r * n),
            wide: zeros(m * n),
            narrow: zeros(m * r),
            dropped: zeros(m * k),
            tall: zeros(m * k),
            delta: zeros(k * n),
            mask: vec![0; m * k],
            step: 0,
            merged: false,
        }
    }

    /// Whether this system exists for this element type and probability.
    pub fn has(system: System, probability: f32) -> bool {
        match system {
            System::Library => T::DTYPE == DType::F32 && probability == 0.0,
            // Unsloth's way has no dropout; the GEMM crate accumulates in f32 only.
            System::Accumulated => T::DTYPE == DType::F32 && probability == 0.0,
            System::Frozen => probability == 0.0,
            System::Unfused | System::Fused => true,
        }
    }

    /// Runs one system once. Systems without adapter merge nothing.
    ///
    /// # Errors
    /// As the operations of [`Backend`].
    pub fn run(&mut self, system: System, pass: Pass, probability: f32) -> Result<()> {
        self.step += 1;
        match pass {
            Pass::Forward => self.forward(system, probability),
            Pass::Backward => self.backward(system, probability),
            Pass::Step => {
                self.forward(system, probability)?;
                self.backward(system, probability)
            }
            Pass::Merge => self.merge(system),
        }
    }

    fn forward(&mut self, system: System, probability: f32) -> Result<()> {
        match system {
            System::Library => self.library_forward(),
            System::Frozen => return self.frozen_forward(),
            System::Unfused => return self.unfused_forward(probability),
            System::Accumulated => self.accumulated_forward(),
            System::Fused => return self.fused_forward(probability),
        }
        Ok(())
    }

    fn backward(&mut self, system: System, probability: f32) -> Result<()> {
        match system {
            System::Library => self.library_backward(),
            System::Frozen => return self.frozen_backward(),
            System::Unfused => return self.unfused_backward(probability),
            System::Accumulated => self.accumulated_backward(),
            System::Fused => return self.fused_backward(probability),
        }
        Ok(())
    }

    fn merge(&mut self, system: System) -> Result<()> {
        let Problem { k, n, r, .. } = self.problem;
        let Inputs { w, a, b, .. } = &mut self.inputs;
        let scale_now = if self.merged { -MERGE_SCALE } else { MERGE_SCALE };
        match system {
            System::Library | System::Frozen => return Ok(()),
            System::Unfused => {
                product(&self.cpu, &mut self.delta, Operand::new(a, k, r), Operand::new(b, r, n))?;
                scale(&mut self.delta, scale_now);
                add(w, &self.delta);
            }
            System::Accumulated => {
                let (a, b) = (Operand::new(cast(a), k, r), Operand::new(cast(b), r, n));
                gemm(cast_mut(w), true, scale_now, a, b);
            }
            System::Fused => {
                let adapter = Adapter { a: view(a, k, r)?, b: view(b, r, n)?, scale: scale_now };
                self.cpu.update_weights(WeightUpdate::merge(view_mut(w, k, n)?, adapter))?;
            }
        }
        self.merged = !self.merged;
        Ok(())
    }

    fn library_forward(&mut self) {
        let Problem { m, k, n, .. } = self.problem;
        let (x, w) = (cast(&self.inputs.x), cast(&self.inputs.w));
        gemm(cast_mut(&mut self.y), false, 1.0, Operand::new(x, m, k), Operand::new(w, k, n));
    }

    fn library_backward(&mut self) {
        let Problem { m, k, n, .. } = self.problem;
        let (dy, w) = (cast(&self.inputs.dy), cast(&self.inputs.w));
        gemm(cast_mut(&mut self.dx), false, 1.0, Operand::new(dy, m, n), Operand::new(w, k, n).t());
    }

    fn frozen_forward(&mut self) -> Result<()> {
        let Problem { m, k, n, .. } = self.problem;
        let Inputs { x, w, .. } = &self.inputs;
        let y = Output::overwrite(view_mut(&mut self.y, m, n)?);
        self.cpu.frozen(Frozen { x: view(x, m, k)?, w: view(w, k, n)?, bias: None, y })
    }

    fn frozen_backward(&mut self) -> Result<()> {
        let Problem { m, k, n, .. } = self.problem;
        let Inputs { dy, w, .. } = &self.inputs;
        let dx = Output::overwrite(view_mut(&mut self.dx, m, k)?);
        self.cpu.frozen_backward(FrozenBackward { dy: view(dy, m, n)?, w: view(w, k, n)?, dx })
    }

    fn fused_forward(&mut self, probability: f32) -> Result<()> {
        let Problem { m, k, n, r } = self.problem;
        let Inputs { x, w, a, b, .. } = &self.inputs;
        let op = Forward {
            x: view(x, m, k)?,
            w: view(w, k, n)?,
            adapter: Adapter { a: view(a, k, r)?, b: view(b, r, n)?, scale: SCALE },
            bias: None,
            dropout: dropout(probability)?,
            y: view_mut(&mut self.y, m, n)?,
            s: Some(view_mut(&mut self.s, m, r)?),
        };
        self.cpu.forward(op)
    }

    fn fused_backward(&mut self, probability: f32) -> Result<()> {
        let Problem { m, k, n, r } = self.problem;
        let Inputs { x, w, a, b, dy } = &self.inputs;
        let op = Backward {
            x: Some(view(x, m, k)?),
            w: view(w, k, n)?,
            adapter: Adapter { a: view(a, k, r)?, b: view(b, r, n)?, scale: SCALE },
            dropout: dropout(probability)?,
            dy: view(dy, m, n)?,
            s: Some(view(&self.s, m, r)?),
            dx: Some(Output::overwrite(view_mut(&mut self.dx, m, k)?)),
            da: Some(Output::overwrite(view_mut(&mut self.da, k, r)?)),
            db: Some(Output::overwrite(view_mut(&mut self.db, r, n)?)),
            dbias: None,
        };
        self.cpu.backward(op)
    }

    fn unfused_forward(&mut self, probability: f32) -> Result<()> {
        let Problem { m, k, n, r } = self.problem;
        let Inputs { x, w, a, b, .. } = &self.inputs;
        product(&self.cpu, &mut self.y, Operand::new(x, m, k), Operand::new(w, k, n))?;
        let x = if probability > 0.0 {
            draw_mask(&mut self.mask, probability, self.step);
            self.dropped.copy_from_slice(x);
            apply_mask(&mut self.dropped, &self.mask, probability);
            &self.dropped
        } else {
            x
        };
        product(&self.cpu, &mut self.s, Operand::new(x, m, k), Operand::new(a, k, r))?;
        product(&self.cpu, &mut self.wide, Operand::new(&self.s, m, r), Operand::new(b, r, n))?;
        scale(&mut self.wide, SCALE);
        add(&mut self.y, &self.wide);
        Ok(())
    }

    fn unfused_backward(&mut self, probability: f32) -> Result<()> {
        let Problem { m, k, n, r } = self.problem;
        let Inputs { x, w, a, b, dy } = &self.inputs;
        let x = if probability > 0.0 { &self.dropped } else { x };
        product(&self.cpu, &mut self.dx, Operand::new(dy, m, n), Operand::new(w, k, n).t())?;
        scaled(&mut self.wide, dy, SCALE);
        let dz = Operand::new(&self.wide, m, n);
        product(&self.cpu, &mut self.db, Operand::new(&self.s, m, r).t(), dz)?;
        product(&self.cpu, &mut self.narrow, dz, Operand::new(b, r, n).t())?;
        let ds = Operand::new(&self.narrow, m, r);
        product(&self.cpu, &mut self.da, Operand::new(x, m, k).t(), ds)?;
        product(&self.cpu, &mut self.tall, ds, Operand::new(a, k, r).t())?;
        if probability > 0.0 {
            apply_mask(&mut self.tall, &self.mask, probability);
        }
        add(&mut self.dx, &self.tall);
        Ok(())
    }

    fn accumulated_forward(&mut self) {
        self.library_forward();
        let Problem { m, k, n, r } = self.problem;
        let Inputs { x, a, b, .. } = &self.inputs;
        gemm(cast_mut(&mut self.s), false, 1.0, Operand::new(cast(x), m, k), Operand::new(cast(a), k, r));
        let (s, b) = (Operand::new(cast(&self.s), m, r), Operand::new(cast(b), r, n));
        gemm(cast_mut(&mut self.y), true, SCALE, s, b);
    }

    /// Unsloth's autograd function saves X only: it recomputes X·A, and computes dY·Bᵀ twice.
    fn accumulated_backward(&mut self) {
        self.library_backward();
        let Problem { m, k, n, r } = self.problem;
        let Inputs { x, a, b, dy, .. } = &self.inputs;
        let (x, dy) = (Operand::new(cast(x), m, k), Operand::new(cast(dy), m, n));
        let (a, b) = (Operand::new(cast(a), k, r), Operand::new(cast(b), r, n));
        let narrow: &mut [f32] = cast_mut(&mut self.narrow);
        gemm(narrow, false, 1.0, dy, b.t());
        gemm(cast_mut(&mut self.da), false, SCALE, x.t(), Operand::new(narrow, m, r));
        gemm(narrow, false, 1.0, x, a);
        gemm(cast_mut(&mut self.db), false, SCALE, Operand::new(narrow, m, r).t(), dy);
        gemm(narrow, false, 1.0, dy, b.t());
        gemm(cast_mut(&mut self.dx), true, SCALE, Operand::new(narrow, m, r), a.t());
    }
}

fn dropout(probability: f32) -> Result<Option<Dropout>> {
    (probability > 0.0).then(|| Dropout::new(probability, 7, 0)).transpose()
}

fn view<T: Element>(data: &[T], rows: usize, cols: usize) -> Result<MatrixRef<'_>> {
    MatrixRef::new(data, rows, cols)
}

fn view_mut<T: Element>(data: &mut [T], rows: usize, cols: usize) -> Result<MatrixMut<'_>> {
    MatrixMut::new(data, rows, cols)
}

fn cast<T: Element>(data: &[T]) -> &[f32] {
    bytemuck::cast_slice(data)
}

fn cast_mut<T: Element>(data: &mut [T]) -> &mut [f32] {
    bytemuck::cast_slice_mut(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The systems must give the same numbers, or their times could not be compared.
    #[test]
    fn the_systems_compute_the_same() {
        let problem = Problem { m: 5, k: 24, n: 16, r: 3 };
        let mut layer = Layer::<f32>::new(problem);
        let mut results = Vec::new();
        for system in [System::Fused, System::Unfused, System::Accumulated] {
            layer.run(system, Pass::Step, 0.0).unwrap();
            layer.run(system, Pass::Merge, 0.0).unwrap();
            let Inputs { w, .. } = &layer.inputs;
            results.push([&layer.y, &layer.dx, &layer.da, &layer.db, w].map(Vec::clone));
            layer.run(system, Pass::Merge, 0.0).unwrap();
        }
        for other in &results[1..] {
            for (one, two) in results[0].iter().zip(other) {
                // Sums of at most 24 products below 6 in f32.
                let difference = one.iter().zip(two).map(|(one, two)| (one - two).abs()).fold(0.0, f32::max);
                assert!(difference < 24.0 * 24.0 * 6.0 * f32::EPSILON, "{difference}");
            }
        }
    }
}
