//! From operations to steps: pure functions, one file an operation.

pub mod backward;
pub mod forward;
mod products;
pub mod weights;
mod workspace;

pub use workspace::Plan;
