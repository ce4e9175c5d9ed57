//! The systems on a GPU. Feature `cuda`.

pub mod blas;
pub mod device;
mod drivers;
pub mod elementwise;
pub mod layer;
mod rotation;

pub use device::{Device, Pool, Scalar};
pub use layer::{Layer, Matrices};
