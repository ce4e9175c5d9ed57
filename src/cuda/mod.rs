//! The CUDA backend.
//!
//! [`plan`] turns a checked operation into [`step`]s: kernel launches, library products, fills. It is pure: no driver,
//! no GPU. An [`executor::Executor`] runs steps; the [`engine::Engine`] puts both together and is what a GPU and an
//! emulator share. The driver's executor and the safe handle are in `driver`.

pub mod arguments;
pub mod engine;
pub mod executor;
pub mod plan;
pub mod step;
