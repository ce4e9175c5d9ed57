//! Argument structs of the kernels, byte for byte as the `.cuh` files in `kernels/` declare them.

pub mod products;
pub mod weights;
