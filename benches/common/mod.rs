//! What the benches share: the grid, the systems they compare, how each runs on the CPU and on a GPU, and the JSON
//! records.

pub mod baseline;
pub mod cpu;
pub mod criterion_cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod grid;
pub mod host;
pub mod origin;
pub mod record;
#[cfg(feature = "cuda")]
pub mod rotation;
#[cfg(feature = "cuda")]
pub mod traffic;
