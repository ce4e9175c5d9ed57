//! The compiled kernels: loaded into the device's context when they are first launched.

use super::failure;
use super::workspace::refuse_while_capturing;
use crate::cuda::step::Launch;
use crate::{Error, Result};
use cudarc::driver::sys::{CUfunction_attribute, CUresult};
use cudarc::driver::{CudaFunction, CudaModule, CudaStream, result};
use cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_void;
use std::sync::Arc;

include!(concat!(env!("OUT_DIR"), "/kernel_images.rs"));

type Modules = HashMap<&'static str, Arc<CudaModule>>;

/// The functions that were launched so far, and the modules they come from.
#[derive(Debug, Default)]
pub struct Kernels {
    modules: Modules,
    functions: HashMap<String, Function>,
}

#[derive(Debug)]
struct Function {
    handle: CudaFunction,
    /// Dynamic shared memory that was asked for so far. Without asking, a block may have 48 KB with its static memory.
    allowed_shared_bytes: u32,
}

impl Kernels {
    /// Launches on `stream`, in whose context all earlier launches were.
    pub fn launch(&mut self, stream: &Arc<CudaStream>, launch: &Launch) -> Result<()> {
        let function = match self.functions.get_mut(&launch.kernel) {
            Some(function) => function,
            None => {
                let function = load(&mut self.modules, stream, &launch.kernel)?;
                self.functions.entry(launch.kernel.clone()).or_insert(function)
            }
        };
        function.allow_shared_bytes(launch.shared_bytes)?;
        function.launch(stream, launch)
    }
}

fn load(modules: &mut Modules, stream: &Arc<CudaStream>, kernel: &str) -> Result<Function> {
    refuse_while_capturing(stream, "a kernel")?;
    for (name, image) in images_for(kernel) {
        let module = match modules.entry(name) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let module = stream.context().load_module(Ptx::from_binary(image.to_vec()));
                entry.insert(module.map_err(failure::driver("cuModuleLoadData"))?)
            }
        };
        match module.load_function(kernel) {
            Ok(handle) => return Ok(Function { handle, allowed_shared_bytes: 0 }),
            Err(error) if error.0 == CUresult::CUDA_ERROR_NOT_FOUND => {}
            Err(error) => return Err(failure::driver("cuModuleGetFunction")(error)),
        }
    }
    Err(unknown(kernel))
}

/// All images, the likeliest to hold the kernel first: kernels are named after their files.
fn images_for(kernel: &str) -> Vec<(&'static str, &'static [u8])> {
    let common = |name: &str| name.bytes().zip(kernel.bytes()).take_while(|(a, b)| a == b).count();
    let mut images = IMAGES.to_vec();
    images.sort_by_key(|(name, _)| std::cmp::Reverse(common(name)));
    images
}

fn unknown(kernel: &str) -> Error {
    let names: Vec<_> = IMAGES.iter().map(|(name, _)| *name).collect();
    Error::CudaUnavailable(format!(
        "kernel {kernel} is in none of the compiled files {names:?}; build lora-kernels again"
    ))
}

impl Function {
    fn allow_shared_bytes(&mut self, bytes: u32) -> Result<()> {
        if bytes <= self.allowed_shared_bytes {
            return Ok(());
        }
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        self.handle
            .set_attribute(attribute, bytes as i32)
            .map_err(failure::driver("cuFuncSetAttribute for dynamic shared memory"))?;
        self.allowed_shared_bytes = bytes;
        Ok(())
    }

    fn launch(&self, stream: &CudaStream, launch: &Launch) -> Result<()> {
        let [grid, block] = [launch.grid, launch.block].map(|[x, y, z]| (x, y, z));
        let mut arguments = [launch.arguments.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the function's module is kept alive by `handle`. Its only parameter is the struct whose bytes the
        // planner wrote into `arguments`; the driver copies them before the call returns. That the addresses in them
        // are live is what the callers of the engine vouch for.
        unsafe {
            result::launch_kernel(
                self.handle.cu_function(),
                grid,
                block,
                launch.shared_bytes,
                stream.cu_stream(),
                &mut arguments,
            )
        }
        .map_err(failure::driver("cuLaunchKernel"))
    }
}
