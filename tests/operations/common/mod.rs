//! What all tests share: matrices, problems, devices, the oracle and its tolerances.

pub mod dense;
pub mod device;
pub mod emulated;
pub mod expect;
#[cfg(feature = "cuda")]
pub mod gpu;
pub mod matrix;
pub mod oracle;
pub mod ordered_sums;
pub mod problem;
pub mod random;
pub mod rounded_once;
pub mod run;
pub mod shapes;
pub mod tolerance;
