//! What the benches of `lora-kernels` and `lora bench` share: the layers that are timed, the systems that compute
//! them on a CPU or a GPU, and the records of the times. For these two only; there is no promise of stability.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod inputs;
pub mod origin;
pub mod problem;
pub mod record;

pub use problem::{Pass, Problem, System};
pub use record::{Case, Record};
