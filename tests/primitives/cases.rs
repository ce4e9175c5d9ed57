//! The primitive kernels: what they are launched with, and where they run.

use half::{bf16, f16};
use lora_emulator::{Swizzle, TensorMap};

/// A file of tests/primitives/kernels, named after the first architecture that has its instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum File {
    Sm80,
    Sm90,
    Sm90a,
}

impl File {
    pub const ALL: [File; 3] = [File::Sm80, File::Sm90, File::Sm90a];

    pub fn name(self) -> &'static str {
        match self {
            File::Sm80 => "sm_80.cu",
            File::Sm90 => "sm_90.cu",
            File::Sm90a => "sm_90a.cu",
        }
    }

    /// Whether a device of this compute capability has the instructions.
    pub fn runs_on(self, capability: (u32, u32)) -> bool {
        match self {
            File::Sm80 => capability >= (8, 0),
            File::Sm90 => capability >= (9, 0),
            File::Sm90a => capability == (9, 0),
        }
    }
}

/// What the input's words hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// 16-bit halves, counted from 0.
    Numbers,
    /// Integers from -4 to 4 in bf16.
    Bf16,
    /// The same in f16.
    F16,
    /// The same in f32.
    F32,
    /// f32 values of both signs around the steps of TF32: below, at and above ties, and rounding up to a power of two.
    BetweenTf32,
}

pub const INPUT_WORDS: usize = 4096;

fn small_integer(i: u32) -> f32 {
    ((i + 1_000_003).wrapping_mul(2_654_435_761) >> 20) as f32 % 9.0 - 4.0
}

impl Input {
    pub fn words(self) -> Vec<u32> {
        let halves =
            |half: &dyn Fn(u32) -> u16, i: u32| u32::from(half(2 * i)) | u32::from(half(2 * i + 1)) << 16;
        let word = |i: u32| match self {
            Input::Numbers => halves(&|i| i as u16, i),
            Input::Bf16 => halves(&|i| bf16::from_f32(small_integer(i)).to_bits(), i),
            Input::F16 => halves(&|i| f16::from_f32(small_integer(i)).to_bits(), i),
            Input::F32 => small_integer(i).to_bits(),
            Input::BetweenTf32 => {
                let start = if i % 32 < 16 { 0x3f80_0000 } else { 0x3fff_e000 };
                (start + i % 16 * 0x800) | (i / 4 % 2) << 31
            }
        };
        (0..INPUT_WORDS as u32).map(word).collect()
    }
}

/// One launch of one kernel.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub kernel: &'static str,
    pub file: File,
    pub blocks: u32,
    pub threads: u32,
    pub shared_bytes: u32,
    pub input: Input,
    pub output_words: usize,
    /// For kernels with tensor maps.
    pub boxes: Option<Boxes>,
}

/// How a matrix of 6 × 72 16-bit elements at the input's start is cut, and where boxes go in the output.
#[derive(Clone, Copy, Debug)]
pub struct Boxes {
    swizzle: Swizzle,
    /// 16-bit elements in a box's row. A box has 8 rows.
    columns: u32,
    /// Rows of a box, all of which are in the image.
    rows: u32,
}

const MATRIX_ROWS: usize = 6;
const MATRIX_COLUMNS: usize = 72;

impl Boxes {
    const fn image_words(self) -> usize {
        (self.rows * self.columns / 2) as usize
    }

    /// The matrix that is read and the one that is written, behind the image in the output.
    fn maps(self, input: u64, output: u64) -> [TensorMap; 2] {
        [input, output + 4 * self.image_words() as u64].map(|address| TensorMap {
            address,
            element_bytes: 2,
            columns: MATRIX_COLUMNS as u64,
            rows: MATRIX_ROWS as u64,
            row_bytes: 2 * MATRIX_COLUMNS as u64,
            box_columns: self.columns,
            box_rows: self.rows,
            swizzle: self.swizzle,
        })
    }
}

impl Case {
    /// The bytes of the kernel's argument struct: `Vectors` or `Boxes` in the kernels' files.
    pub fn arguments(
        &self,
        input: u64,
        output: u64,
        encode: impl Fn(&TensorMap) -> Result<[u8; 128], String>,
    ) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        for map in self.boxes.iter().flat_map(|boxes| boxes.maps(input, output)) {
            bytes.extend(encode(&map)?);
        }
        bytes.extend([input, output].into_iter().flat_map(u64::to_le_bytes));
        if self.boxes.is_some() {
            bytes.resize(384, 0);
        }
        Ok(bytes)
    }
}

const fn warp(kernel: &'static str, file: File, input: Input, output_words: usize) -> Case {
    Case { kernel, file, blocks: 1, threads: 32, shared_bytes: 0, input, output_words, boxes: None }
}

const fn boxed(kernel: &'static str, swizzle: Swizzle, columns: u32) -> Case {
    let boxes = Boxes { swizzle, columns, rows: 8 };
    Case {
        threads: 64,
        shared_bytes: 16 * columns,
        boxes: Some(boxes),
        ..warp(kernel, File::Sm90, Input::Numbers, boxes.image_words() + MATRIX_ROWS * MATRIX_COLUMNS / 2)
    }
}

const fn product(kernel: &'static str, input: Input, output_words: usize) -> Case {
    Case { threads: 128, shared_bytes: 16384, ..warp(kernel, File::Sm90a, input, output_words) }
}

use File::{Sm80, Sm90, Sm90a};
use Input::{Bf16, F16, Numbers};

pub const CASES: &[Case] = &[
    warp("cp_async_whole", Sm80, Numbers, 256),
    warp("cp_async_partial", Sm80, Numbers, 128),
    warp("global_stores", Sm80, Numbers, 192),
    warp("ldmatrix_of_four", Sm80, Numbers, 128),
    warp("ldmatrix_of_four_transposed", Sm80, Numbers, 128),
    warp("ldmatrix_of_two", Sm80, Numbers, 64),
    warp("ldmatrix_of_two_transposed", Sm80, Numbers, 64),
    warp("mma_bf16", Sm80, Bf16, 128),
    warp("mma_f16", Sm80, F16, 128),
    warp("mma_tf32", Sm80, Input::F32, 128),
    warp("rounding_to_tf32", Sm80, Input::BetweenTf32, 32),
    Case { threads: 128, ..warp("named_barrier", Sm80, Numbers, 96) },
    warp("stmatrix_of_four", Sm90, Numbers, 128),
    warp("stmatrix_of_four_transposed", Sm90, Numbers, 128),
    warp("stmatrix_of_two", Sm90, Numbers, 64),
    warp("stmatrix_of_two_transposed", Sm90, Numbers, 64),
    Case { threads: 64, ..warp("mbarrier_phases", Sm90, Numbers, 128) },
    boxed("tma_box", Swizzle::None, 16),
    boxed("tma_box_swizzled_32", Swizzle::Bytes32, 16),
    boxed("tma_box_swizzled_64", Swizzle::Bytes64, 32),
    boxed("tma_box_swizzled_128", Swizzle::Bytes128, 64),
    // The written matrix is not used, but its map must be one.
    Case {
        blocks: 2,
        threads: 32,
        shared_bytes: 272,
        output_words: 280,
        ..boxed("tma_multicast", Swizzle::None, 16)
    },
    Case { blocks: 4, shared_bytes: 128, ..warp("cluster_neighbours", Sm90, Numbers, 256) },
    warp("grid_dependency", Sm90, Numbers, 32),
    product("wgmma_8_f16", F16, 512),
    product("wgmma_16_bf16", Bf16, 128),
    product("wgmma_32_f16_registers", F16, 128),
    product("wgmma_64_bf16_registers", Bf16, 128),
    product("wgmma_64_f16_transposed", F16, 128),
    product("wgmma_64_bf16", Bf16, 128),
    product("wgmma_128_f16_transposed", F16, 128),
    product("wgmma_256_bf16", Bf16, 128),
    Case { threads: 384, ..warp("moved_registers", Sm90a, Numbers, 96) },
    Case { blocks: 2, threads: 384, ..warp("moved_registers_in_cluster", Sm90a, Numbers, 192) },
];
