//! The kernels: where each is declared, and what it is launched with.

use super::step::F32Math;
use crate::DType;
use crate::constants::{product, weight};

/// A kernel that can be launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    file: &'static str,
    symbol: &'static str,
    threads: u32,
    cluster: [u32; 3],
}

impl Kernel {
    /// A kernel of `threads` threads a block, declared in `file` as `symbol`. Files are named relative to `kernels/`.
    pub const fn new(file: &'static str, symbol: &'static str, threads: u32) -> Self {
        Kernel { file, symbol, threads, cluster: [1, 1, 1] }
    }

    /// The kernel, whose declaration says that its blocks run in clusters of this many in x, y, z.
    #[must_use]
    pub const fn in_clusters(self, cluster: [u32; 3]) -> Self {
        Kernel { cluster, ..self }
    }

    /// The file that it is compiled from, for example `skinny/shrink.cu`.
    pub const fn file(self) -> &'static str {
        self.file
    }

    /// What it computes: the file's name without folder and extension.
    pub fn operation(self) -> &'static str {
        let name = self.file.rsplit_once('/').map_or(self.file, |(_, name)| name);
        name.strip_suffix(".cu").unwrap_or(name)
    }

    /// Its `extern "C"` name.
    pub const fn symbol(self) -> &'static str {
        self.symbol
    }

    /// Threads of a block, all of them in x.
    pub const fn threads(self) -> u32 {
        self.threads
    }

    /// Blocks of a cluster in x, y, z; all 1 where the declaration leaves that to the launch.
    pub const fn cluster(self) -> [u32; 3] {
        self.cluster
    }
}

/// Ranks of one pass of the skinny products.
pub const RANKS: [usize; 3] = [16, 32, 64];

/// The kernels of a skinny product: `LORA_PRODUCT_KERNELS` of `kernels/skinny/product_kernels.cuh`.
#[derive(Clone, Copy, Debug)]
pub struct ProductKernels([[Kernel; RANKS.len()]; 4]);

macro_rules! product_kernels {
    ($operation:literal) => {
        ProductKernels([
            product_kernels!($operation "f16"),
            product_kernels!($operation "bf16"),
            product_kernels!($operation "f32"),
            product_kernels!($operation "tf32"),
        ])
    };
    ($operation:literal $arithmetic:literal) => {
        [
            product_kernels!($operation $arithmetic "16"),
            product_kernels!($operation $arithmetic "32"),
            product_kernels!($operation $arithmetic "64"),
        ]
    };
    ($operation:literal $arithmetic:literal $rank:literal) => {
        Kernel::new(
            concat!("skinny/", $operation, ".cu"),
            concat!($operation, "_", $arithmetic, "_rank", $rank),
            product::THREADS as u32,
        )
    };
}

impl ProductKernels {
    /// The one for matrices of `dtype` with passes of `rank` ranks, the next of [`RANKS`].
    pub fn of(&self, dtype: DType, f32_math: F32Math, rank: usize) -> Kernel {
        let arithmetic = match (dtype, f32_math) {
            (DType::F16, _) => 0,
            (DType::Bf16, _) => 1,
            (DType::F32, F32Math::Exact) => 2,
            (DType::F32, F32Math::Tf32) => 3,
        };
        let largest = RANKS.len() - 1;
        self.0[arithmetic][RANKS.iter().position(|&each| rank <= each).unwrap_or(largest)]
    }
}

/// Partial sums of drop(X)·A.
pub const SHRINK: ProductKernels = product_kernels!("shrink");
/// Partial sums of dS, dB and dbias.
pub const BACKWARD_DY: ProductKernels = product_kernels!("backward_dy");
/// Partial sums of drop(X)ᵀ·dS.
pub const BACKWARD_A: ProductKernels = product_kernels!("backward_a");
/// The rank-r part of Y and dX.
pub const EXPAND: ProductKernels = product_kernels!("expand");
/// Adds partial sums.
pub const FINALIZE: Kernel = Kernel::new("skinny/finalize.cu", "finalize", product::FINALIZE_THREADS as u32);
/// Brings adapters together.
pub const PACK: Kernel = Kernel::new("skinny/pack.cu", "pack", product::PACK_THREADS as u32);

/// Kernels of a weight's element type.
#[derive(Clone, Copy, Debug)]
pub struct WeightKernels([Kernel; 3]);

macro_rules! weight_kernels {
    ($operation:literal $variant:literal) => {
        WeightKernels([
            weight_kernels!($operation $variant "f32"),
            weight_kernels!($operation $variant "f16"),
            weight_kernels!($operation $variant "bf16"),
        ])
    };
    ($operation:literal $variant:literal $dtype:literal) => {
        Kernel::new(
            concat!("weights/", $operation, ".cu"),
            concat!($operation, $variant, "_", $dtype),
            weight::WEIGHT_THREADS as u32,
        )
    };
}

impl WeightKernels {
    /// The one for weights of `dtype`.
    pub const fn of(&self, dtype: DType) -> Kernel {
        match dtype {
            DType::F32 => self.0[0],
            DType::F16 => self.0[1],
            DType::Bf16 => self.0[2],
        }
    }
}

/// Updates weights.
pub const WEIGHT_UPDATE: WeightKernels = weight_kernels!("weight_update" "");
/// Updates weights with a record.
pub const WEIGHT_UPDATE_RECORDED: WeightKernels = weight_kernels!("weight_update" "_recorded");
/// Updates weights and measures what rounding did, with or without a record.
pub const WEIGHT_UPDATE_MEASURED: WeightKernels = weight_kernels!("weight_update" "_measured");
/// Writes Δ.
pub const DELTA: WeightKernels = weight_kernels!("delta" "");
/// The sum that identifies a matrix.
pub const FINGERPRINT: Kernel =
    Kernel::new("weights/fingerprint.cu", "fingerprint", weight::FINGERPRINT_THREADS as u32);
/// The sums over a record's codes.
pub const FINGERPRINT_CODES: Kernel =
    Kernel::new("weights/fingerprint.cu", "fingerprint_codes", weight::FINGERPRINT_THREADS as u32);

/// All of the crate's.
pub fn all() -> impl Iterator<Item = Kernel> {
    let products =
        [SHRINK, BACKWARD_DY, BACKWARD_A, EXPAND].into_iter().flat_map(|of| of.0.into_iter().flatten());
    let weights = [WEIGHT_UPDATE, WEIGHT_UPDATE_RECORDED, WEIGHT_UPDATE_MEASURED, DELTA];
    let weights = weights.into_iter().flat_map(|of| of.0);
    products.chain(weights).chain([FINALIZE, PACK, FINGERPRINT, FINGERPRINT_CODES])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_kernel_is_declared_in_its_file() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        for kernel in all() {
            let text = std::fs::read_to_string(folder.join(kernel.file())).unwrap();
            let (operation, symbol) = (kernel.operation(), kernel.symbol());
            let declarations =
                [format!("\nLORA_KERNEL({symbol}, "), format!("\nLORA_PRODUCT_KERNELS({operation}, ")];
            assert!(declarations.iter().any(|line| text.contains(line)), "{kernel:?}");
        }
    }

    #[test]
    fn kernels_are_chosen_by_type_and_rank() {
        let symbol = |dtype, math, rank| SHRINK.of(dtype, math, rank).symbol();
        assert_eq!(symbol(DType::F16, F32Math::Tf32, 1), "shrink_f16_rank16");
        assert_eq!(symbol(DType::Bf16, F32Math::Exact, 17), "shrink_bf16_rank32");
        assert_eq!(symbol(DType::F32, F32Math::Exact, 64), "shrink_f32_rank64");
        assert_eq!(symbol(DType::F32, F32Math::Tf32, 1000), "shrink_tf32_rank64");
        let update = WEIGHT_UPDATE_RECORDED.of(DType::F16);
        assert_eq!((update.symbol(), update.operation()), ("weight_update_recorded_f16", "weight_update"));
    }
}
