//! Tensor maps: what TMA knows of a matrix in global memory.

/// How rows of a box are permuted in shared memory: 16-byte pieces, within 8, 4 or 2 rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Swizzle {
    /// Not at all.
    #[default]
    None,
    /// Over 32 bytes.
    Bytes32,
    /// Over 64 bytes.
    Bytes64,
    /// Over 128 bytes.
    Bytes128,
}

impl Swizzle {
    /// Where the byte at a shared address really lies: address bits 4 to 6 are mixed with bits 7 to 9.
    pub(crate) fn apply(self, address: u32) -> u32 {
        let mask = match self {
            Swizzle::None => 0,
            Swizzle::Bytes32 => 1,
            Swizzle::Bytes64 => 3,
            Swizzle::Bytes128 => 7,
        };
        address ^ ((address >> 7 & mask) << 4)
    }

    /// Bytes after which the pattern repeats: where tiles start. `None` without a swizzle.
    pub(crate) fn pattern_bytes(self) -> Option<usize> {
        self.row_bytes().map(|row| 8 * row)
    }

    /// Bytes of a row; `None` if rows may have any length.
    pub(crate) fn row_bytes(self) -> Option<usize> {
        match self {
            Swizzle::None => None,
            Swizzle::Bytes32 => Some(32),
            Swizzle::Bytes64 => Some(64),
            Swizzle::Bytes128 => Some(128),
        }
    }
}

/// A matrix in global memory, cut into boxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Address of element (0, 0): a multiple of 16.
    pub address: u64,
    /// Bytes of an element: 1, 2, 4 or 8.
    pub element_bytes: u32,
    /// Elements in a row.
    pub columns: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes from one row to the next: a multiple of 16 below 2⁴⁰.
    pub row_bytes: u64,
    /// Elements of a box's row, up to 256. With a swizzle, as many as it spans.
    pub box_columns: u32,
    /// Rows of a box, up to 256.
    pub box_rows: u32,
    /// Layout in shared memory.
    pub swizzle: Swizzle,
}

/// Marks encoded maps.
const MAGIC: u64 = 0x4d41_5054_4c52_4f4c;

impl TensorMap {
    /// The 128 bytes that a kernel takes as its `CUtensorMap`.
    ///
    /// # Errors
    /// What `cuTensorMapEncodeTiled` would not take, in words.
    pub fn encode(&self) -> Result<[u8; 128], String> {
        self.check()?;
        let words = [
            MAGIC,
            self.address,
            u64::from(self.element_bytes),
            self.columns,
            self.rows,
            self.row_bytes,
            u64::from(self.box_columns) << 32 | u64::from(self.box_rows),
            self.swizzle as u64,
        ];
        let mut bytes = [0; 128];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        Ok(bytes)
    }

    /// The map in these bytes, if they are one.
    pub(crate) fn decode(bytes: &[u8; 128]) -> Option<TensorMap> {
        let word = |index: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[8 * index..8 * index + 8]);
            u64::from_le_bytes(word)
        };
        if word(0) != MAGIC {
            return None;
        }
        Some(TensorMap {
            address: word(1),
            element_bytes: word(2) as u32,
            columns: word(3),
            rows: word(4),
            row_bytes: word(5),
            box_columns: (word(6) >> 32) as u32,
            box_rows: word(6) as u32,
            swizzle: match word(7) {
                0 => Swizzle::None,
                1 => Swizzle::Bytes32,
                2 => Swizzle::Bytes64,
                _ => Swizzle::Bytes128,
            },
        })
    }

    /// Bytes of a whole box: what counts at an mbarrier, wherever the box lies.
    pub fn box_bytes(&self) -> usize {
        self.box_row_bytes() * self.box_rows as usize
    }

    pub(crate) fn box_row_bytes(&self) -> usize {
        (self.box_columns * self.element_bytes) as usize
    }

    fn check(&self) -> Result<(), String> {
        let row = self.box_columns.saturating_mul(self.element_bytes) as usize;
        let whole_row = self.columns.checked_mul(u64::from(self.element_bytes));
        let rules = [
            (matches!(self.element_bytes, 1 | 2 | 4 | 8), "elements have 1, 2, 4 or 8 bytes"),
            (self.address.is_multiple_of(16), "the address is a multiple of 16"),
            (self.row_bytes.is_multiple_of(16), "rows are a multiple of 16 bytes apart"),
            (self.row_bytes < 1 << 40, "rows are less than 2^40 bytes apart"),
            (whole_row.is_some_and(|bytes| bytes <= self.row_bytes), "rows do not overlap"),
            ((1..=256).contains(&self.box_columns), "a box has 1 to 256 columns"),
            ((1..=256).contains(&self.box_rows), "a box has 1 to 256 rows"),
            (self.columns >= 1 && self.columns <= 1 << 32, "a matrix has 1 to 2^32 columns"),
            (self.rows >= 1 && self.rows <= 1 << 32, "a matrix has 1 to 2^32 rows"),
            (row.is_multiple_of(16), "a box's row is a multiple of 16 bytes"),
            (
                self.swizzle.row_bytes().is_none_or(|bytes| row == bytes),
                "with a swizzle, a box's row has as many bytes as it spans",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            None => Ok(()),
            Some((_, rule)) => Err(format!("{rule}: {self:?}")),
        }
    }
}
