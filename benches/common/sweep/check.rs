//! Whether a variant computes what the planner's kernel computes.
//!
//! Inputs are small whole numbers, whose sums are exact in any order: right results are equal bit for bit.

use super::super::matrices::Addresses;
use super::launch::{Candidate, Output};
use half::bf16;
use lora_kernels::Result;
use lora_kernels::cuda::executor::Executor;
use lora_kernels::cuda::step::Step;

/// What a launch left: sums of slabs, which are exact, and the elements of matrices.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome(Vec<f32>);

/// Writes whole numbers from −2 to 2 to everything that operations read.
///
/// # Errors
/// The executor's.
pub fn fill_with_whole_numbers(executor: &mut impl Executor, layer: &Addresses) -> Result<()> {
    for (number, buffer) in layer.inputs().into_iter().enumerate() {
        executor.write(buffer.address, bytemuck::cast_slice(&whole_numbers(buffer.len, number)))?;
    }
    Ok(())
}

/// Numbers that look random and do not repeat with any power of two.
fn whole_numbers(len: usize, start: usize) -> Vec<bf16> {
    let mut state = 0x9E37_79B9 ^ (start as u32 + 1).wrapping_mul(0x85EB_CA6B);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        bf16::from_f32((state % 5) as f32 - 2.0)
    };
    (0..len).map(|_| next()).collect()
}

/// Runs a candidate on memory where its outputs are NaN, and reads them.
///
/// # Errors
/// The launch failed.
pub fn outcome(executor: &mut impl Executor, candidate: &Candidate) -> Result<Outcome> {
    for output in &candidate.outputs {
        match *output {
            Output::Slabs { address, count, len } => executor.write(address, &vec![0xFF; 4 * count * len])?,
            Output::Matrix { address, bytes } => executor.write(address, &vec![0xFF; bytes])?,
            Output::Updated { address, bytes } => {
                executor.write(address, bytemuck::cast_slice(&whole_numbers(bytes / 2, 100)))?;
            }
        }
    }
    executor.run(&Step::Launch(candidate.launch.clone()))?;
    let mut values = Vec::new();
    for output in &candidate.outputs {
        match *output {
            Output::Slabs { address, count, len } => {
                let mut slabs = vec![0f32; count * len];
                executor.read(address, bytemuck::cast_slice_mut(&mut slabs))?;
                let first = values.len();
                values.resize(first + len, 0.0);
                for slab in slabs.chunks(len) {
                    for (sum, value) in values[first..].iter_mut().zip(slab) {
                        *sum += value;
                    }
                }
            }
            Output::Matrix { address, bytes } | Output::Updated { address, bytes } => {
                let mut elements = vec![bf16::ZERO; bytes / 2];
                executor.read(address, bytemuck::cast_slice_mut(&mut elements))?;
                values.extend(elements.into_iter().map(f32::from));
            }
        }
    }
    Ok(Outcome(values))
}

impl Outcome {
    /// In what this differs from what is right; `None` if in nothing. What was not written is NaN, and differs.
    pub fn difference(&self, right: &Outcome) -> Option<String> {
        if self.0.len() != right.0.len() {
            return Some(format!("{} values where there should be {}", self.0.len(), right.0.len()));
        }
        let differs = |(value, right): (&f32, &f32)| value != right;
        let count = self.0.iter().zip(&right.0).filter(|&pair| differs(pair)).count();
        let first = self.0.iter().zip(&right.0).position(differs)?;
        let (found, wanted) = (self.0[first], right.0[first]);
        Some(format!("{count} of {} values differ, first {first}: {found} instead of {wanted}", self.0.len()))
    }

    /// Whether there is anything to compare: a sweep over zeros would find every variant right.
    pub fn says_something(&self) -> bool {
        self.0.iter().any(|&value| value != 0.0) && self.0.iter().all(|value| value.is_finite())
    }
}
