//! What the benches share beyond `crates/measure`: the grid, Criterion's groups, and how the systems run on a GPU.

pub mod criterion_cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod grid;
#[cfg(feature = "cuda")]
pub mod rotation;
#[cfg(feature = "cuda")]
pub mod traffic;
