//! How the systems of `crates/measure` are timed on a GPU.

pub mod criterion;
pub mod kernels;
pub mod merge;
pub mod overhead;
pub mod sweep;
pub mod timer;

pub use lora_measure::cuda::{device, layer};
