//! From operations to steps: pure functions, one file an operation.

pub mod backward;
pub mod forward;
pub mod weights;
