//! From operations to steps: pure functions, one file an operation.

pub mod backward;
pub mod forward;
pub mod frozen;
#[cfg(test)]
mod product_tests;
mod products;
pub mod weights;
mod workspace;

pub use workspace::Plan;
