//! Operations on raw device memory, over any executor.

mod products;
mod weights;

use super::executor::Executor;
use super::plan::Settings;
use super::plan::reuse::Plans;
pub use super::plan::weights::RawCodes;
use super::step::F32Math;
use products::Spares;

/// Plans operations and runs them on an executor. The caller vouches for the addresses.
#[derive(Debug)]
pub struct Engine<E> {
    executor: E,
    f32_math: F32Math,
    /// Of operations on products, for calls of the same shape.
    plans: Plans,
    spares: Spares,
}

impl<E: Executor> Engine<E> {
    /// An engine with true `f32` products.
    pub fn new(executor: E) -> Self {
        Engine { executor, f32_math: F32Math::Exact, plans: Plans::default(), spares: Spares::default() }
    }

    /// Chooses how `f32` matrices are multiplied.
    pub fn set_f32_math(&mut self, math: F32Math) {
        self.f32_math = math;
    }

    /// The executor.
    pub fn executor(&self) -> &E {
        &self.executor
    }

    /// What plans depend on beside the operation.
    pub fn settings(&self) -> Settings {
        Settings { target: self.executor.target(), f32_math: self.f32_math }
    }

    /// The executor, for allocations and copies.
    pub fn executor_mut(&mut self) -> &mut E {
        &mut self.executor
    }
}
