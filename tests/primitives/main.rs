//! One tiny kernel for each wrapper of `kernels/arch`, run by the emulator and by a GPU, against the same recording.
//!
//! The inputs are chosen so that every output is exact: there is one right bit pattern. `recorded.txt` holds it, as the
//! emulator computed it; that no GPU disagrees is what [`gpu`] is for.
//! After changing a kernel or an input, record again and look at what `git diff` shows:
//!
//! ```text
//! LORA_RECORD=1 cargo test --test primitives emulated
//! ```
//!
//! On a machine without the sources, `LORA_KERNELS_SOURCE_ROOT` names a folder that has `kernels/` and
//! `tests/primitives/kernels/` in it. The GPU's kernels are taken from `tests/primitives/images/ARCHITECTURE/` there, or
//! compiled when the test runs, by the compiler that `NVCC` names or the first `nvcc` on the path.

#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only a GPU asks what it can run"))]
mod cases;
mod emulated;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(feature = "cuda")]
mod images;
mod recording;
mod sources;
