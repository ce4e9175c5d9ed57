//! The codes or old weights of a restore record, as the tasks of a pass share them.

use super::factors::{COLUMNS, ROWS, Tile};
use super::pass::{PANELS, TASK_ROWS};
use std::marker::PhantomData;

/// A part of the weight as it is stored.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// First stored row.
    pub row: usize,
    /// First stored column.
    pub column: usize,
    /// Rows inside the weight.
    pub rows: usize,
    /// Columns inside the weight.
    pub columns: usize,
}

/// How positions in storage relate to positions in W \[in, out\].
#[derive(Clone, Copy)]
pub(super) struct Orientation {
    /// Whether storage is \[out, in\].
    pub transposed: bool,
    /// Output features.
    pub out: usize,
}

impl Orientation {
    /// The index i·out + j of the weight at this stored row and column.
    #[inline(always)]
    pub fn index(self, row: usize, column: usize) -> usize {
        if self.transposed { column * self.out + row } else { row * self.out + column }
    }
}

/// `bytes_per_weight` bytes for each weight, row by row in W \[in, out\].
pub(super) struct Kept<'a> {
    start: *mut u8,
    length: usize,
    bytes_per_weight: usize,
    buffer: PhantomData<&'a mut [u8]>,
}

// SAFETY: tasks of one pass touch the bytes of their own blocks only, and blocks do not overlap.
unsafe impl Sync for Kept<'_> {}

impl<'a> Kept<'a> {
    /// Shares a buffer among tasks.
    pub fn new(buffer: &'a mut [u8], bytes_per_weight: usize) -> Self {
        Kept { start: buffer.as_mut_ptr(), length: buffer.len(), bytes_per_weight, buffer: PhantomData }
    }

    /// The bytes of `weights` neighbouring weights from `index` on.
    ///
    /// # Safety
    /// No other task uses these weights' bytes, and the caller holds no other slice of them.
    #[expect(clippy::mut_from_ref, reason = "tasks share the buffer and own disjoint parts")]
    unsafe fn bytes(&self, index: usize, weights: usize) -> &mut [u8] {
        let (first, bytes) = (index * self.bytes_per_weight, weights * self.bytes_per_weight);
        assert!(first + bytes <= self.length);
        // SAFETY: inside the buffer, as just checked; exclusive, as the caller vouches.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), bytes) }
    }
}

/// The most stored columns of a block.
const BLOCK_COLUMNS: usize = PANELS * COLUMNS;

/// One task's copy of what is kept for a block of the weight. Runs of neighbours in W \[in, out\] go to and from the
/// record whole, also where tiles cross them.
#[derive(Default)]
pub(super) struct Block {
    /// By run: a run is a stored row, or a stored column where storage is transposed.
    bytes: Vec<u8>,
}

/// The runs of a block: number, weights in each, distance between them in the copy.
fn runs(place: Place, orientation: Orientation) -> (usize, usize, usize) {
    if orientation.transposed {
        (place.columns, place.rows, TASK_ROWS)
    } else {
        (place.rows, place.columns, BLOCK_COLUMNS)
    }
}

/// Index of the first weight of a run.
fn run_start(place: Place, orientation: Orientation, run: usize) -> usize {
    let (row, column) = if orientation.transposed { (0, run) } else { (run, 0) };
    orientation.index(place.row + row, place.column + column)
}

impl Block {
    /// Fetches the block at `place` from the record.
    pub fn load(&mut self, kept: &Kept<'_>, place: Place, orientation: Orientation) {
        self.make_room(kept);
        let (count, weights, stride) = runs(place, orientation);
        for (run, copy) in self.bytes.chunks_mut(stride * kept.bytes_per_weight).take(count).enumerate() {
            // SAFETY: blocks do not overlap and the slice ends with this statement.
            let bytes = unsafe { kept.bytes(run_start(place, orientation, run), weights) };
            copy[..bytes.len()].copy_from_slice(bytes);
        }
    }

    /// Puts the block at `place` into the record.
    pub fn store(&self, kept: &Kept<'_>, place: Place, orientation: Orientation) {
        let (count, weights, stride) = runs(place, orientation);
        for (run, copy) in self.bytes.chunks(stride * kept.bytes_per_weight).take(count).enumerate() {
            // SAFETY: blocks do not overlap and the slice ends with this statement.
            let bytes = unsafe { kept.bytes(run_start(place, orientation, run), weights) };
            bytes.copy_from_slice(&copy[..bytes.len()]);
        }
    }

    /// Makes room for a block that is not loaded.
    pub fn make_room(&mut self, kept: &Kept<'_>) {
        self.bytes.resize(TASK_ROWS * BLOCK_COLUMNS * kept.bytes_per_weight, 0);
    }

    /// What is kept for a tile: a group of `ROWS` rows and a panel of `COLUMNS` columns, counted from the block's
    /// first.
    #[inline(always)]
    pub fn tile(&self, kept: &Kept<'_>, transposed: bool, group: usize, panel: usize) -> Tile<u32> {
        match kept.bytes_per_weight {
            1 => self.typed_tile::<1>(transposed, group, panel),
            2 => self.typed_tile::<2>(transposed, group, panel),
            _ => self.typed_tile::<4>(transposed, group, panel),
        }
    }

    /// Replaces what is kept for a tile.
    #[inline(always)]
    pub fn set_tile(
        &mut self,
        kept: &Kept<'_>,
        transposed: bool,
        group: usize,
        panel: usize,
        tile: &Tile<u32>,
    ) {
        match kept.bytes_per_weight {
            1 => self.set_typed_tile::<1>(transposed, group, panel, tile),
            2 => self.set_typed_tile::<2>(transposed, group, panel, tile),
            _ => self.set_typed_tile::<4>(transposed, group, panel, tile),
        }
    }

    #[inline(always)]
    fn typed_tile<const BYTES: usize>(&self, transposed: bool, group: usize, panel: usize) -> Tile<u32> {
        let weights = self.bytes.as_chunks::<BYTES>().0;
        let mut tile = [[0; COLUMNS]; ROWS];
        if transposed {
            let columns = &weights[panel * COLUMNS * TASK_ROWS..][..COLUMNS * TASK_ROWS];
            for column in 0..COLUMNS {
                let rows = &columns[column * TASK_ROWS + group * ROWS..][..ROWS];
                for row in 0..ROWS {
                    tile[row][column] = from_bytes(rows[row]);
                }
            }
        } else {
            for (row, tile) in tile.iter_mut().enumerate() {
                let start = (group * ROWS + row) * BLOCK_COLUMNS + panel * COLUMNS;
                for (value, bytes) in tile.iter_mut().zip(&weights[start..][..COLUMNS]) {
                    *value = from_bytes(*bytes);
                }
            }
        }
        tile
    }

    #[inline(always)]
    fn set_typed_tile<const BYTES: usize>(
        &mut self,
        transposed: bool,
        group: usize,
        panel: usize,
        tile: &Tile<u32>,
    ) {
        let weights = self.bytes.as_chunks_mut::<BYTES>().0;
        if transposed {
            let columns = &mut weights[panel * COLUMNS * TASK_ROWS..][..COLUMNS * TASK_ROWS];
            for column in 0..COLUMNS {
                let rows = &mut columns[column * TASK_ROWS + group * ROWS..][..ROWS];
                for row in 0..ROWS {
                    rows[row] = to_bytes(tile[row][column]);
                }
            }
        } else {
            for (row, tile) in tile.iter().enumerate() {
                let start = (group * ROWS + row) * BLOCK_COLUMNS + panel * COLUMNS;
                for (bytes, value) in weights[start..][..COLUMNS].iter_mut().zip(tile) {
                    *bytes = to_bytes(*value);
                }
            }
        }
    }
}

/// A little-endian number of at most four bytes.
#[inline(always)]
fn from_bytes<const BYTES: usize>(bytes: [u8; BYTES]) -> u32 {
    let mut value = 0;
    for (place, byte) in bytes.into_iter().enumerate() {
        value |= u32::from(byte) << (8 * place);
    }
    value
}

#[inline(always)]
fn to_bytes<const BYTES: usize>(value: u32) -> [u8; BYTES] {
    std::array::from_fn(|place| (value >> (8 * place)) as u8)
}
