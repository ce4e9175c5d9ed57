//! What the benches of `lora-kernels` and `lora bench` share: the layers that are timed, the baselines on the
//! CPU, and the records of the times. For these two only; there is no promise of stability.

pub mod cpu;
pub mod inputs;
pub mod origin;
pub mod problem;
pub mod record;

pub use problem::{Pass, Problem, System};
pub use record::{Case, Record};
