//! New adapters: from nothing, from the difference of two checkpoints, from other adapters.

mod combine;
mod extract;
mod init;
mod linalg;
mod random;

pub use combine::Combination;
pub(crate) use combine::combine;
pub use extract::{ExtractOptions, Extracted, ExtractedModule, extract};
pub(crate) use init::{cut_off, fresh};
