//! LoRA adapters of PEFT on whole models, without Python: load, save, match, merge, unmerge, switch, extract, combine.
//!
//! Files go through [`Edit`] (merge, unmerge, switch from a [`Checkpoint`] to a new one), models in memory through
//! [`LoraModel`]. Either takes an [`Adapter`] in PEFT's files and a backend of `lora_kernels` on host memory.
//!
//! ```no_run
//! use lora_kernels::cpu::Cpu;
//! use lora_peft::{Adapter, Checkpoint, Edit, EditOptions, Progress, Weighted};
//!
//! let base = Checkpoint::open("base".as_ref())?;
//! let adapter = Adapter::load("adapter".as_ref())?;
//! let adapters = [Weighted { name: "adapter".into(), adapter: &adapter, weight: 1.0 }];
//! let merge = Edit::merge(&base, &adapters, EditOptions::default())?;
//! merge.write(&mut Cpu::new(), "merged".as_ref(), &Progress::new())?;
//! # Ok::<(), lora_peft::Error>(())
//! ```
//!
//! Nothing is skipped silently: what cannot be honoured is an error that names it. `README.md` beside this crate lists what
//! there is, and where it differs from PEFT.

pub mod adapter;
pub mod binding;
pub mod checkpoint;
mod error;
mod families;
pub mod files;
pub mod formats;
pub mod making;
pub mod merge;
pub mod model;
mod note;
pub mod printable;
mod progress;
pub mod staged;
pub mod tensor;
mod update;

pub use adapter::{Adapter, AdapterConfig, AdapterLayer, Weighted};
pub use checkpoint::{Checkpoint, LayerKind};
pub use error::{Error, Result};
pub use merge::{Edit, EditOptions};
pub use model::LoraModel;
pub use note::Note;
pub use progress::Progress;
pub use tensor::Tensor;
pub use update::HostBackend;
