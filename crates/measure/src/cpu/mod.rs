//! The systems on the CPU.

pub mod baseline;
mod layer;

pub use layer::Layer;
