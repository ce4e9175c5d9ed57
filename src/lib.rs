#![doc = include_str!("../README.md")]

mod backend;
pub mod cpu;
pub mod cuda;
mod dropout;
mod element;
mod error;
pub mod fingerprint;
mod matrix;
pub mod memory;
pub mod ops;
pub mod restore;

pub use backend::Backend;
pub use dropout::{Dropout, philox4x32_10};
pub use element::{DType, Element};
pub use error::{Error, Result, Shape};
pub use matrix::{Layout, MatrixMut, MatrixRef};
pub use ops::{Adapter, Backward, Delta, Forward, MergeReport, Rounding, WeightUpdate};
