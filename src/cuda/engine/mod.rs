//! Operations on raw device memory, over any executor.

mod products;
mod weights;

use super::executor::Executor;
use super::step::F32Math;

/// Plans operations and runs them on an executor. The caller vouches for the addresses.
#[derive(Debug)]
pub struct Engine<E> {
    executor: E,
    f32_math: F32Math,
}

/// Where the codes of a restore record lie in device memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawCodes {
    /// First byte.
    pub address: u64,
    /// Number of bytes.
    pub bytes: u64,
}

impl<E: Executor> Engine<E> {
    /// An engine with true `f32` products.
    pub fn new(executor: E) -> Self {
        Engine { executor, f32_math: F32Math::Exact }
    }

    /// Chooses how `f32` matrices are multiplied.
    pub fn set_f32_math(&mut self, math: F32Math) {
        self.f32_math = math;
    }

    /// The executor.
    pub fn executor(&self) -> &E {
        &self.executor
    }

    /// The executor, for allocations and copies.
    pub fn executor_mut(&mut self) -> &mut E {
        &mut self.executor
    }
}
