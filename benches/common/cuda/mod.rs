//! How the systems run on a GPU, and how they are timed there.

pub mod blas;
pub mod criterion;
pub mod device;
pub mod kernels;
pub mod layer;
pub mod merge;
pub mod overhead;
pub mod sweep;
pub mod timer;
