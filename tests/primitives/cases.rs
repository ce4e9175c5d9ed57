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

pub const INPUT_WORDS: usize = 12288;

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
    pub maps: Option<[Map; 2]>,
    /// A kernel that is launched first, with the same arguments; this one may start before it has ended.
    pub after: Option<&'static str>,
}

/// A matrix of 16-bit elements, with nothing between its rows, and the boxes that it is cut into.
#[derive(Clone, Copy, Debug)]
pub struct Map {
    in_output: bool,
    /// Where it starts in the input or output.
    first_word: usize,
    rows: usize,
    columns: usize,
    box_rows: u32,
    box_columns: u32,
    swizzle: Swizzle,
}

impl Map {
    fn tensor_map(self, input: u64, output: u64) -> TensorMap {
        TensorMap {
            address: if self.in_output { output } else { input } + 4 * self.first_word as u64,
            element_bytes: 2,
            columns: self.columns as u64,
            rows: self.rows as u64,
            row_bytes: 2 * self.columns as u64,
            box_columns: self.box_columns,
            box_rows: self.box_rows,
            swizzle: self.swizzle,
        }
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
        for map in self.maps.iter().flatten() {
            bytes.extend(encode(&map.tensor_map(input, output))?);
        }
        bytes.extend([input, output].into_iter().flat_map(u64::to_le_bytes));
        if self.maps.is_some() {
            bytes.resize(384, 0);
        }
        Ok(bytes)
    }
}

const fn warp(kernel: &'static str, file: File, input: Input, output_words: usize) -> Case {
    Case {
        kernel,
        file,
        blocks: 1,
        threads: 32,
        shared_bytes: 0,
        input,
        output_words,
        maps: None,
        after: None,
    }
}

/// Words of a matrix of 6 × 72 elements.
const MATRIX_WORDS: usize = 6 * 36;

/// A matrix of 6 × 72 elements at the input's start, and one behind the image of a box of 8 rows in the output.
const fn boxed(kernel: &'static str, swizzle: Swizzle, columns: u32) -> Case {
    let image_words = 4 * columns as usize;
    let from = Map {
        in_output: false,
        first_word: 0,
        rows: 6,
        columns: 72,
        box_rows: 8,
        box_columns: columns,
        swizzle,
    };
    let to = Map { in_output: true, first_word: image_words, ..from };
    Case {
        threads: 64,
        shared_bytes: 16 * columns,
        maps: Some([from, to]),
        ..warp(kernel, File::Sm90, Input::Numbers, image_words + MATRIX_WORDS)
    }
}

/// Factors for 128-byte swizzle at the input's start, one behind the other.
const fn tiles(kernel: &'static str, [a, b]: [(usize, usize, u32); 2]) -> Case {
    let first = Map { rows: a.0, columns: a.1, box_rows: a.2, ..REUSED[0] };
    let second = Map { first_word: a.0 * a.1 / 2, rows: b.0, columns: b.1, box_rows: b.2, ..first };
    Case {
        threads: 256,
        shared_bytes: 128 * 128 + 256 * 128 + 64,
        maps: Some([first, second]),
        ..warp(kernel, File::Sm90a, Input::Bf16, 256)
    }
}

const fn product(kernel: &'static str, input: Input, output_words: usize) -> Case {
    Case { threads: 128, shared_bytes: 16384, ..warp(kernel, File::Sm90a, input, output_words) }
}

use File::{Sm80, Sm90, Sm90a};
use Input::{Bf16, F16, Numbers};

const BOXES: Case = boxed("stmatrix_to_swizzled_box", Swizzle::None, 16);
const MULTICAST: Case = Case {
    blocks: 2,
    threads: 32,
    shared_bytes: 272,
    output_words: 280,
    ..boxed("tma_multicast", Swizzle::None, 16)
};
/// 128 × 64 elements of the input, and a ragged 60 × 72 behind an image of 64 × 64.
const REUSED: [Map; 2] = {
    let from = Map {
        in_output: false,
        first_word: 0,
        rows: 128,
        columns: 64,
        box_rows: 64,
        box_columns: 64,
        swizzle: Swizzle::Bytes128,
    };
    [from, Map { in_output: true, first_word: 2048, rows: 60, columns: 72, ..from }]
};
/// The first 64 rows of 64 elements, by halves of 8 rows. The second map is not used.
const HALVES: [Map; 2] = {
    let from = Map { rows: 64, box_rows: 4, swizzle: Swizzle::None, ..REUSED[0] };
    [from, from]
};

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
    boxed("tma_box_right_of_all", Swizzle::None, 16),
    boxed("tma_box_above_all", Swizzle::None, 16),
    // The written matrix is not used, but its map must be one.
    MULTICAST,
    Case { kernel: "tma_multicast_ragged", ..MULTICAST },
    Case { shared_bytes: 8192 + 64, threads: 128, output_words: 2048 + 60 * 36, maps: Some(REUSED), ..BOXES },
    Case { kernel: "tma_reads_stored_words", shared_bytes: 256 + 64, ..boxed("", Swizzle::None, 16) },
    Case {
        kernel: "multicast_ring",
        blocks: 2,
        shared_bytes: 2048 + 64,
        output_words: 512,
        maps: Some(HALVES),
        ..BOXES
    },
    Case { blocks: 2, shared_bytes: 256, ..warp("cluster_handover", Sm90, Numbers, 64) },
    Case { blocks: 2, shared_bytes: 227 << 10, ..warp("cluster_of_227_kib", Sm90, Numbers, 128) },
    Case { after: Some("programmatic_first"), ..warp("programmatic_second", Sm90, Numbers, 64) },
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
    Case { blocks: 2, threads: 384, ..warp("many_live_values_in_cluster", Sm90a, Numbers, 512) },
    tiles("tiles_256_bf16", [(128, 64, 128), (256, 64, 256)]),
    tiles("tiles_256_bf16_turned", [(64, 128, 64), (64, 256, 64)]),
    product("two_groups_in_flight", Bf16, 256),
    Case { threads: 256, ..warp("warpgroups_in_turn", Sm90a, Numbers, 128) },
];
