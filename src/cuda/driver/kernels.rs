//! The compiled kernels: loaded into the device's context when they are first launched.

use super::failure;
use super::launch;
use super::workspace::refuse_while_capturing;
use crate::cuda::kernel::Kernel;
use crate::cuda::step::Launch;
use crate::cuda::target::Target;
use crate::{Error, Result};
use cudarc::driver::sys::{CUfunction_attribute, CUresult};
use cudarc::driver::{CudaFunction, CudaModule, CudaStream};
use cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

include!(concat!(env!("OUT_DIR"), "/kernel_images.rs"));

type Modules = HashMap<&'static str, Arc<CudaModule>>;

/// The functions that were launched so far, and the modules they come from.
#[derive(Debug)]
pub struct Kernels {
    modules: Modules,
    functions: HashMap<Kernel, Function>,
    target: Target,
    /// Arguments of the current launch, with tensor maps encoded.
    arguments: Vec<u8>,
}

#[derive(Debug)]
struct Function {
    handle: CudaFunction,
    /// Dynamic shared memory that was asked for so far. Without asking, a block may have 48 KB with its static memory.
    allowed_shared_bytes: u32,
}

impl Kernels {
    /// Nothing is loaded yet.
    pub fn new(target: Target) -> Self {
        Kernels { modules: HashMap::new(), functions: HashMap::new(), target, arguments: Vec::new() }
    }

    /// Launches on `stream`, in whose context all earlier launches were.
    pub fn launch(&mut self, stream: &Arc<CudaStream>, launch: &Launch) -> Result<()> {
        launch.check(self.target)?;
        let function = match self.functions.entry(launch.kernel) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(load(&mut self.modules, stream, launch.kernel)?),
        };
        function.allow_shared_bytes(launch.shared_bytes)?;
        launch::encode_arguments(launch, &mut self.arguments)?;
        launch::launch(&function.handle, stream, launch, &self.arguments)
    }
}

fn load(modules: &mut Modules, stream: &Arc<CudaStream>, kernel: Kernel) -> Result<Function> {
    refuse_while_capturing(stream, "a kernel")?;
    let (file, image) =
        IMAGES.iter().find(|(file, _)| *file == kernel.file()).ok_or_else(|| unknown(kernel))?;
    let module = match modules.entry(file) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => {
            let module = stream.context().load_module(Ptx::from_binary(image.to_vec()));
            entry.insert(module.map_err(failure::driver("cuModuleLoadData"))?)
        }
    };
    match module.load_function(kernel.symbol()) {
        Ok(handle) => Ok(Function { handle, allowed_shared_bytes: 0 }),
        Err(error) if error.0 == CUresult::CUDA_ERROR_NOT_FOUND => Err(unknown(kernel)),
        Err(error) => Err(failure::driver("cuModuleGetFunction")(error)),
    }
}

fn unknown(kernel: Kernel) -> Error {
    Error::CudaUnavailable(format!(
        "kernel {} of {} was not compiled into lora-kernels; build it again",
        kernel.symbol(),
        kernel.file()
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::kernel;

    #[test]
    fn every_kernel_has_an_image() {
        if IMAGES.is_empty() {
            eprintln!("SKIPPED every_kernel_has_an_image: {MISSING}");
            return;
        }
        for kernel in kernel::all() {
            let image = IMAGES.iter().find(|(file, _)| *file == kernel.file());
            assert!(image.is_some(), "{kernel:?}");
        }
    }

    #[test]
    fn a_kernel_that_is_missing_is_named_with_its_file() {
        let message = unknown(Kernel::new("folder/file.cu", "symbol", 32)).to_string();
        assert!(message.contains("symbol") && message.contains("folder/file.cu"), "{message}");
    }
}
