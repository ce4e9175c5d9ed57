//! What a launch asks for.

use crate::mechanisms::tensor_map::TensorMap;
use lora_kernels::cuda::step;
use std::borrow::Cow;

/// Blocks of a cluster that every device with clusters takes.
const PORTABLE_CLUSTER: u32 = 8;

/// A kernel launch with the attributes of compute capability 9.0.
#[derive(Clone, Debug)]
pub struct LaunchRequest<'a> {
    /// The kernel's name.
    pub kernel: &'a str,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
    /// The bytes of the kernel's argument struct. Those of the tensor maps may hold anything.
    pub arguments: &'a [u8],
    /// Tensor maps, with the byte of the arguments where each starts: a multiple of 64.
    pub tensor_maps: &'a [(usize, TensorMap)],
    /// Blocks of a cluster in x, y, z, of which only x may be more than 1; all 1 leaves it to the kernel's own declaration.
    pub cluster: [u32; 3],
    /// Whether the kernel may start before those before it have ended: `cudaLaunchAttributeProgrammaticStreamSerialization`.
    pub programmatic: bool,
}

impl<'a> LaunchRequest<'a> {
    /// A step of a plan, with its tensor maps as the emulator has them.
    pub(crate) fn new(launch: &'a step::Launch, tensor_maps: &'a [(usize, TensorMap)]) -> Self {
        LaunchRequest {
            kernel: launch.kernel.symbol(),
            grid: launch.grid,
            block: [launch.kernel.threads(), 1, 1],
            shared_bytes: launch.shared_bytes,
            arguments: &launch.arguments,
            tensor_maps,
            cluster: launch.cluster,
            programmatic: launch.programmatic,
        }
    }

    /// Blocks of the grid.
    pub(crate) fn blocks(&self) -> u64 {
        self.grid.iter().map(|&extent| u64::from(extent)).product()
    }

    /// Blocks of a cluster, where the kernel declares so many.
    pub(crate) fn cluster(&self, declared: u32) -> Result<u32, String> {
        let declared = declared.max(1);
        let asked = match self.cluster {
            [x, 1, 1] if x > 0 => x,
            other => return Err(format!("clusters of {other:?} blocks: here they lie along x")),
        };
        if declared > 1 && asked > 1 && declared != asked {
            return Err(format!("clusters of {asked} blocks, where the kernel declares {declared}"));
        }
        let blocks = declared.max(asked);
        if blocks > PORTABLE_CLUSTER {
            return Err(format!(
                "clusters of {blocks} blocks, where devices need not take more than {PORTABLE_CLUSTER}"
            ));
        }
        Ok(blocks)
    }

    /// The arguments with the tensor maps in them.
    pub(crate) fn filled_arguments(&self) -> Result<Cow<'a, [u8]>, String> {
        let mut bytes = Cow::Borrowed(self.arguments);
        for (offset, map) in self.tensor_maps {
            let encoded = map.encode()?;
            let place = bytes
                .to_mut()
                .get_mut(*offset..offset.saturating_add(encoded.len()))
                .filter(|_| offset.is_multiple_of(64))
                .ok_or_else(|| {
                    format!("a tensor map at byte {offset} of {} of arguments", self.arguments.len())
                })?;
            place.copy_from_slice(&encoded);
        }
        Ok(bytes)
    }
}
