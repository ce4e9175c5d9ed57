//! LoRA as a set of fused operations for NVIDIA GPUs, with a CPU backend behind the same API.
//!
//! For a frozen weight W \[in, out\], an adapter A \[in, r\], B \[r, out\] and a scale s:
//!
//! ```text
//! Y = X·W + s·drop(X)·A·B (+ bias)
//! ```
//!
//! An operation is a struct with named fields ([`Forward`], [`Backward`], [`WeightUpdate`], [`Delta`]; several layers that
//! share X: [`ops`]) whose fields are views ([`MatrixRef`], [`MatrixMut`]). A [`Backend`] carries it out: [`cpu::Cpu`] on
//! slices, [`cuda::Cuda`] on device memory and the caller's stream.
//!
//! ```
//! use lora_kernels::{Adapter, Backend, Forward, MatrixMut, MatrixRef, cpu::Cpu};
//!
//! // X [1, 2], W [2, 2], A [2, 1], B [1, 2]
//! let (x, w, a, b) = ([1.0f32, 2.0], [1.0f32, 0.0, 0.0, 1.0], [1.0f32, 1.0], [10.0f32, 20.0]);
//! let mut y = [0.0f32; 2];
//! Cpu::new().forward(Forward {
//!     x: MatrixRef::new(&x, 1, 2)?,
//!     w: MatrixRef::new(&w, 2, 2)?,
//!     adapter: Adapter { a: MatrixRef::new(&a, 2, 1)?, b: MatrixRef::new(&b, 1, 2)?, scale: 0.5 },
//!     bias: None,
//!     dropout: None,
//!     y: MatrixMut::new(&mut y, 1, 2)?,
//!     s: None,
//! })?;
//! assert_eq!(y, [16.0, 32.0]);
//! # Ok::<(), lora_kernels::Error>(())
//! ```
//!
//! # Where to look
//!
//! | for | see |
//! |---|---|
//! | what an operation means and takes | [`ops`]; the common ones are here as well |
//! | how a matrix lies in memory | [`Layout`], [`MatrixRef`], [`MatrixMut`] |
//! | who computes | [`Backend`], carried out by [`cpu::Cpu`] and [`cuda::Cuda`] |
//! | who owns memory, where no framework does | [`Device`] |
//! | weights with an adapter's A and B in their padding | [`padded`] |
//! | kinds of memory | [`memory`] |
//! | element types | [`DType`], [`Element`], [`half`] |
//! | exact unmerging | [`restore`], [`fingerprint`] |
//! | reproducible dropout | [`dropout`] |
//! | what can go wrong | [`Error`] |

mod backend;
#[doc(hidden)]
pub mod constants;
pub mod cpu;
pub mod cuda;
mod device;
pub mod dropout;
mod element;
mod error;
pub mod fingerprint;
mod layout;
mod matrix;
pub mod memory;
pub mod ops;
pub mod padded;
pub mod restore;
mod shape;

pub use backend::Backend;
pub use device::Device;
pub use dropout::Dropout;
pub use element::{DType, Element};
pub use error::{Error, Result};
/// The crate that has the 16-bit element types [`f16`](half::f16) and [`bf16`](half::bf16).
pub use half;
pub use layout::Layout;
pub use matrix::{MatrixMut, MatrixRef};
pub use ops::{
    Adapter, Backward, Conversion, Delta, Forward, Frozen, FrozenBackward, MergeReport, Rounding,
    WeightUpdate,
};
pub use shape::Shape;
