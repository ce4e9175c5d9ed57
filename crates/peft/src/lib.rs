#![doc = include_str!("../README.md")]

pub mod adapter;
pub mod binding;
pub mod checkpoint;
pub mod combine;
pub mod config;
mod error;
pub mod extract;
mod init;
mod linalg;
pub mod matching;
pub mod merge;
pub mod model;
pub mod module;
pub mod naming;
mod parameters;
pub mod progress;
mod quantized;
mod random;
pub mod record;
mod rewrite;
pub mod separate_experts;
mod side_files;
pub mod staged;
pub mod targets;
pub mod tensor;
pub mod update;
pub mod writer;

pub use adapter::{Adapter, AdapterLayer};
pub use checkpoint::Checkpoint;
pub use config::AdapterConfig;
pub use error::{Error, Result};
pub use merge::{Edit, EditOptions, Weighted};
pub use model::LoraModel;
pub use module::LayerKind;
pub use progress::Progress;
pub use tensor::Tensor;
