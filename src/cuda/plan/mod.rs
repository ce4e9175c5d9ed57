//! From operations to steps: pure functions, one file an operation.

pub mod backward;
pub mod convert;
pub mod forward;
pub mod frozen;
mod joined;
pub mod model;
#[cfg(test)]
mod product_tests;
mod products;
pub mod reuse;
#[cfg(test)]
mod reuse_tests;
mod route;
pub mod weights;
mod workspace;

pub use products::{MOST_COLUMN_GROUPS, MOST_SLABS};
pub use workspace::Plan;

use super::step::F32Math;
use super::target::Target;

/// What a plan depends on beside the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The kind of device.
    pub target: Target,
    /// How `f32` matrices are multiplied.
    pub f32_math: F32Math,
}
