//! The numbers of the model. None is measured yet: the instructions are counted in machine code (sm_90a, nvcc 13.0), the cards' rates
//! are modelled. Records of a GPU replace them.

/// What limits a card.
#[derive(Clone, Copy, Debug)]
pub struct Card {
    /// Its name.
    pub name: &'static str,
    /// Bytes read and written in a second by a copy of a large matrix.
    pub copy_bytes_per_second: f64,
    /// Instructions that all its warps issue in a second, at the efficiency of kernels like these.
    pub instructions_per_second: f64,
    /// Of the library's large products of 16-bit elements.
    pub product_flops_per_second: f64,
    /// The share of the time for reading the old C that a product with β = 1 does not hide.
    pub exposed_read_of_c: f64,
    /// From the end of one step to the start of the next, in a graph.
    pub launch_seconds: f64,
}

/// 132 multiprocessors, 4 instructions a clock, 1.9 GHz, 65%.
const HOPPER_INSTRUCTIONS: f64 = 132.0 * 4.0 * 1.9e9 * 0.65;

/// H100 SXM.
pub const H100: Card = Card {
    name: "H100",
    copy_bytes_per_second: 3.0e12,
    instructions_per_second: HOPPER_INSTRUCTIONS,
    product_flops_per_second: 705e12,
    exposed_read_of_c: 0.5,
    launch_seconds: 2e-6,
};

/// H200 SXM: the same chip, with faster memory.
pub const H200: Card = Card { name: "H200", copy_bytes_per_second: 4.3e12, ..H100 };

/// Instructions that a thread issues for one 64 × 64 tile.
#[derive(Clone, Copy, Debug)]
pub(super) struct TileInstructions {
    /// With the first 16 ranks.
    pub first: u64,
    /// For each 16 ranks more.
    pub further: u64,
    /// Where dropout is drawn.
    pub drawn: u64,
    /// Where the tile is copied: the loop's length times its four turns, ragged edges included.
    pub copied: u64,
}

/// On tensor cores; `f32` matrices, rounded to TF32, have twice the bytes and about twice the instructions.
pub(super) const SHRINK: TileInstructions =
    TileInstructions { first: 187, further: 36, drawn: 440, copied: 220 };
pub(super) const BACKWARD_A: TileInstructions = TileInstructions { copied: 0, ..SHRINK };
pub(super) const BACKWARD_DY: TileInstructions =
    TileInstructions { first: 354, further: 72, drawn: 0, copied: 220 };
pub(super) const EXPAND: TileInstructions =
    TileInstructions { first: 690, further: 116, drawn: 440, copied: 0 };

/// True `f32` products: a tile of 16 ranks takes 512 fused multiply-adds a thread, and half as many loads.
pub(super) const F32_PRODUCT: u64 = 768;

/// Instructions of a thread of `finalize`, beside those for each slab.
pub(super) const FINALIZE: u64 = 40;
/// Its instructions for each slab.
pub(super) const FINALIZE_SLAB: u64 = 3;
/// Instructions for an element that `pack` moves.
pub(super) const PACK: u64 = 30;
