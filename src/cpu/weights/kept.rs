//! The codes or old weights of a restore record, as the tasks of a pass share them.

use super::factors::{COLUMNS, ROWS, Tile};
use std::marker::PhantomData;

/// A place in the weight as it is stored: a tile may be cut off at the right and at the bottom.
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

// SAFETY: tasks of one pass touch the bytes of their own tiles only, and tiles do not overlap.
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
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "tasks share the buffer and own disjoint parts")]
    unsafe fn bytes(&self, index: usize, weights: usize) -> &mut [u8] {
        let (first, bytes) = (index * self.bytes_per_weight, weights * self.bytes_per_weight);
        assert!(first + bytes <= self.length);
        // SAFETY: inside the buffer, as just checked; exclusive, as the caller vouches.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), bytes) }
    }

    /// Reads what is kept for a tile.
    #[inline(always)]
    pub fn load(&self, place: Place, orientation: Orientation, tile: &mut Tile<u32>) {
        for_each_run(place, orientation, |index, weights, [row, column], [row_step, column_step]| {
            // SAFETY: tiles do not overlap and the slice ends with this closure.
            let bytes = unsafe { self.bytes(index, weights) };
            match self.bytes_per_weight {
                1 => {
                    for n in 0..weights {
                        tile[row + n * row_step][column + n * column_step] = u32::from(bytes[n]);
                    }
                }
                2 => {
                    for (n, bytes) in bytes.as_chunks::<2>().0.iter().enumerate() {
                        tile[row + n * row_step][column + n * column_step] =
                            u32::from(u16::from_le_bytes(*bytes));
                    }
                }
                _ => {
                    for (n, bytes) in bytes.as_chunks::<4>().0.iter().enumerate() {
                        tile[row + n * row_step][column + n * column_step] = u32::from_le_bytes(*bytes);
                    }
                }
            }
        });
    }

    /// Replaces what is kept for a tile.
    #[inline(always)]
    pub fn store(&self, place: Place, orientation: Orientation, tile: &Tile<u32>) {
        for_each_run(place, orientation, |index, weights, [row, column], [row_step, column_step]| {
            // SAFETY: tiles do not overlap and the slice ends with this closure.
            let bytes = unsafe { self.bytes(index, weights) };
            match self.bytes_per_weight {
                1 => {
                    for n in 0..weights {
                        bytes[n] = tile[row + n * row_step][column + n * column_step] as u8;
                    }
                }
                2 => {
                    for (n, bytes) in bytes.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                        let value = tile[row + n * row_step][column + n * column_step] as u16;
                        *bytes = value.to_le_bytes();
                    }
                }
                _ => {
                    for (n, bytes) in bytes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                        *bytes = tile[row + n * row_step][column + n * column_step].to_le_bytes();
                    }
                }
            }
        });
    }
}

/// Calls `run(index, weights, [row, column], [row step, column step])` for each run of weights of the tile that are
/// neighbours in W \[in, out\].
#[inline(always)]
fn for_each_run(
    place: Place,
    orientation: Orientation,
    mut run: impl FnMut(usize, usize, [usize; 2], [usize; 2]),
) {
    let (rows, columns) = (place.rows.min(ROWS), place.columns.min(COLUMNS));
    if orientation.transposed {
        for column in 0..columns {
            run(orientation.index(place.row, place.column + column), rows, [0, column], [1, 0]);
        }
    } else {
        for row in 0..rows {
            run(orientation.index(place.row + row, place.column), columns, [row, 0], [0, 1]);
        }
    }
}
