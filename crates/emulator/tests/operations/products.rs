//! Forward and backward.

use super::Device;
use super::device::Emulated;
use lora_kernels::DType;
use lora_kernels::cuda::F32Math;
use lora_kernels::ops::WriteMode;
use lora_oracle::device::TestDevice;
use lora_oracle::expect::{self, assert_close, assert_exact};
use lora_oracle::matrix::Matrix;
use lora_oracle::problem::{Problem, Values};
use lora_oracle::run::{self, Gradient};
use lora_oracle::tolerance::Bounded;

/// A forward or a backward.
#[derive(Clone, Debug)]
pub struct Case {
    pub problem: Problem,
    pub math: F32Math,
    /// Of all gradients.
    pub mode: WriteMode,
}

impl Case {
    fn compare(&self, name: &str, found: &Matrix, expected: &Bounded) {
        let context = format!("{self:?}");
        match (self.problem.values, self.math) {
            (Values::SmallIntegers, _) => {
                let limit = if self.problem.dtype == DType::Bf16 { 256.0 } else { 2048.0 };
                assert!(expected.value.largest() <= limit, "{context}: `{name}` is too large to be exact");
                assert_exact(&context, name, found, expected);
            }
            // The other results are products of S or dS, which TF32 rounds as well; small integers test them.
            (Values::Random, F32Math::Tf32) if !["s", "db"].contains(&name) => {}
            (Values::Random, _) => assert_close(&context, name, found, expected),
        }
    }

    /// A matrix as it enters products.
    fn entering(&self, matrix: &Matrix) -> Matrix {
        let round = |value: f64| match self.math {
            F32Math::Exact => value,
            F32Math::Tf32 => tf32(value),
        };
        let Matrix { rows, cols, arrangement, .. } = *matrix;
        Matrix::from_fn(matrix.dtype(), rows, cols, arrangement, |i, j| round(matrix.get(i, j)))
    }

    pub fn forward(&self, device: &mut Device, verifies: bool) -> Vec<u8> {
        device.set_f32_math(self.math);
        let mut arguments = self.problem.forward();
        run::forward(device.tested(), &mut arguments).unwrap_or_else(|error| panic!("{self:?}: {error}"));
        if verifies {
            let mut entering = arguments.clone();
            entering.x = self.entering(&entering.x);
            for layer in &mut entering.projections {
                layer.adapter.a = self.entering(&layer.adapter.a);
            }
            let expected = expect::forward(&entering, Emulated::ROUNDINGS);
            for (layer, expected) in arguments.projections.iter().zip(expected) {
                if let Some(s) = &layer.s {
                    self.compare("s", s, &expected.s);
                }
                self.compare("y", &layer.y, &expected.y);
            }
        }
        let outputs = arguments.projections.iter().flat_map(|layer| [Some(&layer.y), layer.s.as_ref()]);
        bytes(outputs.flatten())
    }

    pub fn backward(&self, device: &mut Device, verifies: bool) -> Vec<u8> {
        device.set_f32_math(self.math);
        let mut arguments = self.problem.backward(self.mode);
        // What the outputs hold before counts where gradients are added to them.
        let expected = verifies.then(|| {
            let mut entering = arguments.clone();
            for layer in &mut entering.projections {
                layer.dy = self.entering(&layer.dy);
                layer.s = layer.s.as_ref().map(|s| self.entering(s));
            }
            expect::backward(&entering, Emulated::ROUNDINGS)
        });
        run::backward(device.tested(), &mut arguments).unwrap_or_else(|error| panic!("{self:?}: {error}"));
        fn matrix(gradient: &Option<Gradient>) -> Option<&Matrix> {
            gradient.as_ref().map(|gradient| &gradient.matrix)
        }
        if let Some(expected) = expected {
            let compare = |name: &str, found: Option<&Matrix>, expected: &Bounded| {
                if let Some(found) = found {
                    self.compare(name, found, expected);
                }
            };
            compare("dx", matrix(&arguments.dx), &expected.dx);
            for (layer, expected) in arguments.projections.iter().zip(&expected.layers) {
                compare("da", matrix(&layer.da), &expected.da);
                compare("db", matrix(&layer.db), &expected.db);
                compare("dbias", matrix(&layer.dbias), &expected.dbias);
            }
        }
        let layers = arguments.projections.iter();
        let outputs = layers.flat_map(|layer| [&layer.da, &layer.db, &layer.dbias]).chain([&arguments.dx]);
        bytes(outputs.filter_map(matrix))
    }
}

/// Rounded to 10 bits of mantissa, ties away from zero, as `cvt.rna.tf32.f32` does.
fn tf32(value: f64) -> f64 {
    const CUT_BITS: u32 = 13;
    let half = 1 << (CUT_BITS - 1);
    f32::from_bits(((value as f32).to_bits() + half) >> CUT_BITS << CUT_BITS).into()
}

fn bytes<'a>(matrices: impl Iterator<Item = &'a Matrix>) -> Vec<u8> {
    matrices.flat_map(|matrix| matrix.data.bytes()).copied().collect()
}
