//! Elementwise passes of the unfused baseline: what cuBLAS lacks, each one launch, as PyTorch makes them.

use super::device::Scalar;
use anyhow::{Context, Result, ensure};
use lora_kernels::DType;
use lora_kernels::cuda::cudarc::driver::{
    CudaContext, CudaFunction, CudaStream, DeviceRepr, LaunchConfig, PushKernelArg,
};
use lora_kernels::cuda::cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::sync::Arc;

/// Compiled by the driver when it is loaded. Made by scripts/baseline-ptx.
const PTX: &str = include_str!("../../kernels/elementwise.ptx");
const THREADS: usize = 256;
/// Elements of a thread.
const RUN: usize = 8;

/// The kernels' argument.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Arguments {
    to: u64,
    from: u64,
    mask: u64,
    count: u64,
    seed: u64,
    factor: f32,
    threshold: u32,
}

// SAFETY: plain numbers, as the kernels have them; their lengths are compared when the PTX is made.
unsafe impl DeviceRepr for Arguments {}
const _: () = assert!(size_of::<Arguments>() == 48);

/// The passes, for every element type.
#[derive(Debug)]
pub struct Elementwise {
    stream: Arc<CudaStream>,
    /// By name of the pass and element type.
    functions: HashMap<(&'static str, DType), CudaFunction>,
}

const NAMES: [&str; 3] = ["scaled", "dropped", "masked"];
const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

/// Elements in device memory, where they come from and go to. They must be live and of the type that is named.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Of what is written.
    pub to: u64,
    /// Of what is read; may be the same.
    pub from: u64,
    /// Elements, a multiple of 8.
    pub count: usize,
}

/// Dropout of a probability, with a stored mask of one byte an element.
#[derive(Clone, Copy, Debug)]
pub struct Masked {
    /// Of the mask's first byte.
    pub mask: u64,
    /// Of dropping.
    pub probability: f32,
}

impl Elementwise {
    /// On this stream.
    ///
    /// # Errors
    /// The driver cannot compile the kernels.
    pub fn new(context: &Arc<CudaContext>, stream: Arc<CudaStream>) -> Result<Self> {
        let module = context.load_module(Ptx::from_src(PTX)).context("loading the baseline's kernels")?;
        let mut functions = HashMap::new();
        for name in NAMES {
            for dtype in DTYPES {
                functions.insert((name, dtype), module.load_function(&symbol(name, dtype))?);
            }
        }
        Ok(Elementwise { stream, functions })
    }

    /// to = factor · from.
    ///
    /// # Errors
    /// The driver refused, or the count is no multiple of 8.
    pub fn scaled<T: Scalar>(&self, pass: Pass, factor: f32) -> Result<()> {
        self.launch::<T>("scaled", pass, Arguments { factor, ..Arguments::default() })
    }

    /// to = from · mask / (1 − p), with a mask that is drawn and kept.
    ///
    /// # Errors
    /// The driver refused, or the count is no multiple of 8.
    pub fn dropped<T: Scalar>(&self, pass: Pass, masked: Masked, seed: u64) -> Result<()> {
        self.launch::<T>("dropped", pass, Arguments { seed, ..masked.arguments() })
    }

    /// to = from · mask / (1 − p), with the mask that was kept.
    ///
    /// # Errors
    /// The driver refused, or the count is no multiple of 8.
    pub fn masked<T: Scalar>(&self, pass: Pass, masked: Masked) -> Result<()> {
        self.launch::<T>("masked", pass, masked.arguments())
    }

    fn launch<T: Scalar>(&self, name: &'static str, pass: Pass, arguments: Arguments) -> Result<()> {
        let Pass { to, from, count } = pass;
        ensure!(
            count.is_multiple_of(RUN),
            "{count} elements, no multiple of {RUN}, for the baseline's kernels"
        );
        let arguments = Arguments { to, from, count: count as u64, ..arguments };
        let config = LaunchConfig {
            grid_dim: (u32::try_from(count.div_ceil(RUN * THREADS))?, 1, 1),
            block_dim: (THREADS as u32, 1, 1),
            shared_mem_bytes: 0,
        };
        let mut launch = self.stream.launch_builder(&self.functions[&(name, T::DTYPE)]);
        launch.arg(&arguments);
        // SAFETY: the kernel takes this struct; the caller's matrices are live and have `count` elements of T, and its mask as
        // many bytes.
        unsafe { launch.launch(config) }?;
        Ok(())
    }
}

impl Masked {
    fn arguments(self) -> Arguments {
        let factor = 1.0 / (1.0 - self.probability);
        let threshold = (self.probability * 65536.0) as u32;
        Arguments { mask: self.mask, factor, threshold, ..Arguments::default() }
    }
}

fn symbol(name: &str, dtype: DType) -> String {
    let dtype = match dtype {
        DType::F32 => "f32",
        DType::F16 => "f16",
        DType::Bf16 => "bf16",
    };
    format!("{name}_{dtype}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pass_is_in_the_ptx_for_every_type() {
        for name in NAMES {
            for dtype in DTYPES {
                let entry = format!(".entry {}(", symbol(name, dtype));
                assert!(PTX.contains(&entry), "{entry}");
            }
        }
        assert_eq!(PTX.matches(".param .align 8 .b8").count(), 9);
        assert_eq!(PTX.matches("_param_0[48]").count(), 9, "the argument has the size it has here");
    }
}
