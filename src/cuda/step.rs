//! What an executor is asked to do.

use super::kernel::Kernel;
use super::target::Target;
use super::tensor_map::TensorMap;
use crate::{DType, Error, Result};

/// One thing to do on the device, in stream order.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Launch one of this crate's kernels.
    Launch(Launch),
    /// A matrix product for cuBLASLt.
    Product(Product),
    /// Fill bytes with zero.
    Zero(Zero),
}

/// A kernel launch. Every kernel takes one struct by value.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// What is launched.
    pub kernel: Kernel,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Blocks of a cluster in x, y, z; all 1 without clusters.
    pub cluster: [u32; 3],
    /// Whether the kernel may start while the step before it still runs: it waits by itself before it touches what that step writes.
    pub programmatic: bool,
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
    /// The bytes of the kernel's argument struct. Where tensor maps go, they are overwritten.
    pub arguments: Vec<u8>,
    /// Where in the arguments the `u64`s are that differ between calls of one shape: addresses, and keys of random numbers.
    pub inputs: &'static [usize],
    /// Tensor maps, each with its place in the arguments. The executor encodes them for its device.
    pub tensor_maps: Vec<(usize, TensorMap)>,
}

/// Blocks of a cluster that every device with clusters can run.
const MOST_CLUSTER_BLOCKS: u32 = 8;

impl Launch {
    /// A launch in the clusters that the kernel declares, after all earlier steps, without tensor maps.
    pub fn new(kernel: Kernel, grid: [u32; 3], shared_bytes: u32, arguments: Vec<u8>) -> Self {
        Launch {
            kernel,
            grid,
            cluster: kernel.cluster(),
            programmatic: false,
            shared_bytes,
            arguments,
            inputs: &[],
            tensor_maps: Vec::new(),
        }
    }

    /// Blocks of a cluster.
    pub fn cluster_blocks(&self) -> u32 {
        self.cluster.iter().fold(1, |blocks, &extent| blocks.saturating_mul(extent))
    }

    /// Whether a device of this kind can be asked to run it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the device has too little shared memory or no clusters; [`Error::InvalidValue`] if clusters do
    /// not divide the grid or are not those that the kernel declares, or a tensor map is invalid or misplaced.
    pub fn check(&self, target: Target) -> Result<()> {
        let symbol = self.kernel.symbol();
        let refuse =
            |argument, value: String, expected| Err(Error::InvalidValue { argument, value, expected });
        if self.shared_bytes > target.shared_bytes_per_block {
            return Err(Error::Unsupported(format!(
                "{symbol} with {} bytes of shared memory: the device has {} for a block",
                self.shared_bytes, target.shared_bytes_per_block
            )));
        }
        let needs_hopper = self.cluster_blocks() > 1 || self.programmatic || !self.tensor_maps.is_empty();
        if needs_hopper && target.compute_capability < (9, 0) {
            return Err(Error::Unsupported(format!(
                "{symbol} in clusters, with a programmatic launch or with tensor maps: the device has compute capability {:?}",
                target.compute_capability
            )));
        }
        if !(1..=MOST_CLUSTER_BLOCKS).contains(&self.cluster_blocks()) {
            return refuse("a cluster", format!("{:?}", self.cluster), "1 to 8 blocks");
        }
        if self.kernel.cluster() != [1, 1, 1] && self.kernel.cluster() != self.cluster {
            return refuse("a cluster", format!("{:?}", self.cluster), "that of the kernel's declaration");
        }
        if !self
            .grid
            .iter()
            .zip(self.cluster)
            .all(|(&blocks, cluster)| blocks > 0 && blocks.is_multiple_of(cluster))
        {
            let value = format!("{:?} in clusters of {:?}", self.grid, self.cluster);
            return refuse("a grid", value, "blocks along each dimension, in whole clusters");
        }
        for (place, map) in &self.tensor_maps {
            let end = place.checked_add(TensorMap::BYTES);
            let fits = end.is_some_and(|end| end <= self.arguments.len());
            if !fits || !place.is_multiple_of(TensorMap::ALIGNMENT) {
                return refuse(
                    "a tensor map's place",
                    place.to_string(),
                    "a multiple of 64 with 128 bytes of arguments",
                );
            }
            map.check()?;
        }
        Ok(())
    }
}

/// How `f32` matrices are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum F32Math {
    /// True `f32` products.
    #[default]
    Exact,
    /// Tensor cores with inputs cut to 10 bits of mantissa.
    Tf32,
}

/// C \[m, n\] ← A \[m, k\]·B \[k, n\] + β·C, accumulated in `f32`.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    /// Left operand \[m, k\].
    pub a: Operand,
    /// Right operand \[k, n\].
    pub b: Operand,
    /// Result \[m, n\].
    pub c: Operand,
    /// Element type of all three.
    pub dtype: DType,
    /// Whether C is added to (β = 1) or overwritten (β = 0).
    pub accumulate: bool,
    /// For `f32` operands.
    pub f32_math: F32Math,
}

/// A matrix in device memory. `rows` and `cols` are as the product sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Address of element (0, 0).
    pub address: u64,
    /// Rows.
    pub rows: u64,
    /// Columns.
    pub cols: u64,
    /// Elements between stored rows (or stored columns where `transposed`).
    pub stride: u64,
    /// Whether columns, not rows, are contiguous.
    pub transposed: bool,
}

/// A fill with zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zero {
    /// First byte.
    pub address: u64,
    /// Number of bytes.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: Kernel = Kernel::new("folder/file.cu", "kernel", 128);
    const PAIRS: Kernel = KERNEL.in_clusters([2, 1, 1]);
    const HOPPER: Target = Target { compute_capability: (9, 0), shared_bytes_per_block: 1000 };
    const AMPERE: Target = Target { compute_capability: (8, 0), shared_bytes_per_block: 1000 };
    const MAP: TensorMap = TensorMap::matrix(DType::Bf16, 0x1000, [8, 8], 16, [8, 8]);

    fn launch(kernel: Kernel) -> Launch {
        Launch::new(kernel, [6, 2, 1], 1000, vec![0; 256])
    }

    #[test]
    fn launches_that_a_device_can_run_pass() {
        launch(KERNEL).check(AMPERE).unwrap();
        launch(PAIRS).check(HOPPER).unwrap();
        let maps = vec![(0, MAP), (128, MAP)];
        let all = Launch { cluster: [3, 2, 1], programmatic: true, tensor_maps: maps, ..launch(KERNEL) };
        all.check(HOPPER).unwrap();
    }

    #[test]
    fn what_a_device_cannot_run_is_refused() {
        let with_maps = |maps| Launch { tensor_maps: maps, ..launch(KERNEL) };
        for (launch, target, reason) in [
            (Launch { shared_bytes: 1001, ..launch(KERNEL) }, HOPPER, "1001 bytes of shared memory"),
            (launch(PAIRS), AMPERE, "compute capability (8, 0)"),
            (Launch { programmatic: true, ..launch(KERNEL) }, AMPERE, "compute capability (8, 0)"),
            (with_maps(vec![(0, MAP)]), AMPERE, "compute capability (8, 0)"),
            (Launch { cluster: [9, 1, 1], grid: [9, 1, 1], ..launch(KERNEL) }, HOPPER, "1 to 8 blocks"),
            (Launch { cluster: [0, 1, 1], ..launch(KERNEL) }, HOPPER, "1 to 8 blocks"),
            (Launch { cluster: [1, 1, 1], ..launch(PAIRS) }, HOPPER, "kernel's declaration"),
            (Launch { cluster: [4, 1, 1], ..launch(KERNEL) }, HOPPER, "whole clusters"),
            (Launch { grid: [0, 1, 1], ..launch(KERNEL) }, HOPPER, "whole clusters"),
            (with_maps(vec![(32, MAP)]), HOPPER, "a multiple of 64"),
            (with_maps(vec![(192, MAP)]), HOPPER, "128 bytes of arguments"),
            (with_maps(vec![(usize::MAX - 63, MAP)]), HOPPER, "128 bytes of arguments"),
            (with_maps(vec![(0, TensorMap { address: 8, ..MAP })]), HOPPER, "a multiple of 16"),
        ] {
            let error = launch.check(target).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
