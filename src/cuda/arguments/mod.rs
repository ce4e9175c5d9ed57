//! Argument structs of the kernels, byte for byte as the `.cuh` files in `kernels/` declare them.

pub mod products;
pub mod weights;

/// A kernel's argument struct.
pub trait Arguments: bytemuck::NoUninit {
    /// Where the `u64`s are that differ between calls of one shape: addresses (0 for what is not there), and keys of random numbers.
    const INPUTS: &'static [usize];
}
