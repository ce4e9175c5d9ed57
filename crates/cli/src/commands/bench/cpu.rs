//! The systems on the CPU.

use super::Layer;
use super::problem::{Inputs, Pass, Problem, SCALE, System};
use crate::failure::Result;
use lora_kernels::cpu::Cpu;
use lora_kernels::ops::Output;
use lora_kernels::{Adapter, Backend, Backward, Element, Forward, MatrixMut, MatrixRef, WeightUpdate};
use rayon::prelude::*;

/// A layer with what any system needs.
#[derive(Debug)]
pub struct CpuLayer<T> {
    problem: Problem,
    cpu: Cpu,
    inputs: Inputs<T>,
    merged: bool,
    y: Vec<T>,
    s: Vec<T>,
    dx: Vec<T>,
    da: Vec<T>,
    db: Vec<T>,
    /// Intermediates of separate passes: \[m, n\], \[m, r\], \[m, k\] and \[k, n\].
    wide: Vec<T>,
    narrow: Vec<T>,
    tall: Vec<T>,
    delta: Vec<T>,
}

impl<T: Element> CpuLayer<T> {
    pub fn new(problem: Problem) -> Self {
        let Problem { m, k, n, r } = problem;
        let zeros = |len| vec![T::from_f32(0.0); len];
        CpuLayer {
            problem,
            cpu: Cpu::new(),
            inputs: Inputs::new(problem),
            merged: false,
            y: zeros(m * n),
            s: zeros(m * r),
            dx: zeros(m * k),
            da: zeros(k * r),
            db: zeros(r * n),
            wide: zeros(m * n),
            narrow: zeros(m * r),
            tall: zeros(m * k),
            delta: zeros(k * n),
        }
    }

    fn forward(&mut self, system: System) -> lora_kernels::Result<()> {
        let Problem { m, k, n, r } = self.problem;
        let Inputs { x, w, a, b, .. } = &self.inputs;
        let (x, w) = (view(x, m, k)?, view(w, k, n)?);
        let (a, b) = (view(a, k, r)?, view(b, r, n)?);
        if system == System::Fused {
            return self.cpu.forward(Forward {
                x,
                w,
                adapter: Adapter { a, b, scale: SCALE },
                bias: None,
                dropout: None,
                y: MatrixMut::new(&mut self.y, m, n)?,
                s: Some(MatrixMut::new(&mut self.s, m, r)?),
            });
        }
        self.cpu.frozen(x, w, MatrixMut::new(&mut self.y, m, n)?)?;
        if system == System::Unfused {
            self.cpu.frozen(x, a, MatrixMut::new(&mut self.s, m, r)?)?;
            self.cpu.frozen(view(&self.s, m, r)?, b, MatrixMut::new(&mut self.wide, m, n)?)?;
            scale(&mut self.wide, SCALE);
            add(&mut self.y, &self.wide);
        }
        Ok(())
    }

    fn backward(&mut self, system: System) -> lora_kernels::Result<()> {
        let Problem { m, k, n, r } = self.problem;
        let Inputs { x, w, a, b, dy } = &self.inputs;
        let (x, w, dy_view) = (view(x, m, k)?, view(w, k, n)?, view(dy, m, n)?);
        let (a, b) = (view(a, k, r)?, view(b, r, n)?);
        if system == System::Fused {
            return self.cpu.backward(Backward {
                x: Some(x),
                w,
                adapter: Adapter { a, b, scale: SCALE },
                dropout: None,
                dy: dy_view,
                s: Some(view(&self.s, m, r)?),
                dx: Some(Output::overwrite(MatrixMut::new(&mut self.dx, m, k)?)),
                da: Some(Output::overwrite(MatrixMut::new(&mut self.da, k, r)?)),
                db: Some(Output::overwrite(MatrixMut::new(&mut self.db, r, n)?)),
                dbias: None,
            });
        }
        self.cpu.frozen(dy_view, w.t(), MatrixMut::new(&mut self.dx, m, k)?)?;
        if system == System::Unfused {
            self.wide.copy_from_slice(dy);
            scale(&mut self.wide, SCALE);
            let dz = view(&self.wide, m, n)?;
            self.cpu.frozen(view(&self.s, m, r)?.t(), dz, MatrixMut::new(&mut self.db, r, n)?)?;
            self.cpu.frozen(dz, b.t(), MatrixMut::new(&mut self.narrow, m, r)?)?;
            let ds = view(&self.narrow, m, r)?;
            self.cpu.frozen(x.t(), ds, MatrixMut::new(&mut self.da, k, r)?)?;
            self.cpu.frozen(ds, a.t(), MatrixMut::new(&mut self.tall, m, k)?)?;
            add(&mut self.dx, &self.tall);
        }
        Ok(())
    }

    /// Merging and taking out take turns, so that the weights stay where they are.
    fn merge(&mut self, system: System) -> lora_kernels::Result<()> {
        let Problem { k, n, r, .. } = self.problem;
        let Inputs { w, a, b, .. } = &mut self.inputs;
        let sign = if self.merged { -1.0 } else { 1.0 };
        self.merged = !self.merged;
        let (a, b) = (view(a, k, r)?, view(b, r, n)?);
        if system == System::Fused {
            let adapter = Adapter { a, b, scale: sign * SCALE };
            self.cpu.update_weights(WeightUpdate::merge(MatrixMut::new(w, k, n)?, adapter))?;
            return Ok(());
        }
        self.cpu.frozen(a, b, MatrixMut::new(&mut self.delta, k, n)?)?;
        scale(&mut self.delta, sign * SCALE);
        add(w, &self.delta);
        Ok(())
    }
}

impl<T: Element> Layer for CpuLayer<T> {
    fn systems(&self, pass: Pass) -> &'static [System] {
        match pass {
            Pass::Forward | Pass::Backward => &[System::Frozen, System::Unfused, System::Fused],
            Pass::Merge => &[System::Unfused, System::Fused],
        }
    }

    fn run(&mut self, pass: Pass, system: System) -> Result<()> {
        match pass {
            Pass::Forward => self.forward(system)?,
            Pass::Backward => self.backward(system)?,
            Pass::Merge => self.merge(system)?,
        }
        Ok(())
    }
}

fn view<T: Element>(data: &[T], rows: usize, cols: usize) -> lora_kernels::Result<MatrixRef<'_>> {
    MatrixRef::new(data, rows, cols)
}

const CHUNK: usize = 1 << 14;

fn scale<T: Element>(values: &mut [T], factor: f32) {
    values.par_chunks_mut(CHUNK).for_each(|chunk| {
        for value in chunk {
            *value = T::from_f32(value.to_f32() * factor);
        }
    });
}

fn add<T: Element>(to: &mut [T], from: &[T]) {
    to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| {
        for (to, from) in to.iter_mut().zip(from) {
            *to = T::from_f32(to.to_f32() + from.to_f32());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Separate passes and fused ones must give the same numbers, or their times could not be compared.
    #[test]
    fn the_systems_compute_the_same() {
        let problem = Problem { m: 5, k: 24, n: 16, r: 3 };
        let mut layer = CpuLayer::<f32>::new(problem);
        let mut results = Vec::new();
        for system in [System::Unfused, System::Fused] {
            layer.forward(system).unwrap();
            layer.backward(system).unwrap();
            layer.merge(system).unwrap();
            let Inputs { w, .. } = &layer.inputs;
            results.push([&layer.y, &layer.dx, &layer.da, &layer.db, w].map(Vec::clone));
            layer.merge(system).unwrap();
        }
        for (one, two) in results[0].iter().zip(&results[1]) {
            // Sums of at most 24 products below 6 in f32.
            let difference = one.iter().zip(two).map(|(one, two)| (one - two).abs()).fold(0.0, f32::max);
            assert!(difference < 24.0 * 24.0 * 6.0 * f32::EPSILON, "{difference}");
        }
    }
}
