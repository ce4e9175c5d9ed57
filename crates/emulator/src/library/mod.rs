//! Kernels compiled by a C++ compiler: how they are built and loaded, what they call, and their lines.

mod ffi;
pub(crate) mod kernel_library;
pub(crate) mod source;
mod toolchain;
