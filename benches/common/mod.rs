//! What the benches share beyond `crates/measure`: the grid, Criterion's groups, and how systems are timed on a GPU.

pub mod budget;
#[cfg(feature = "cuda")]
pub mod clocks;
pub mod criterion_cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod grid;
#[cfg(feature = "cuda")]
pub mod matrices;
#[cfg(feature = "cuda")]
pub mod products;
pub mod report;
#[cfg(feature = "cuda")]
pub mod sweep;
