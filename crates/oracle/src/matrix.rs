//! Matrices on the host as tests see them: typed elements, placed anywhere in a poisoned buffer.

use half::{bf16, f16};
use lora_kernels::memory::{HostMut, HostRef};
use lora_kernels::{DType, Element, Layout, Result};

/// A buffer of any element type.
#[derive(Clone, Debug)]
pub enum Data {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

/// Quiet NaNs that no arithmetic produces: seen in an output, they say "never written"; read as an input, they spread.
fn poison(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0x7FC0_DEAD,
        DType::F16 => 0x7E5A,
        DType::Bf16 => 0x7FDA,
    }
}

impl Data {
    /// A buffer that nobody has written.
    pub fn poisoned(dtype: DType, len: usize) -> Self {
        let bits = poison(dtype);
        match dtype {
            DType::F32 => Data::F32(vec![f32::from_bits(bits); len]),
            DType::F16 => Data::F16(vec![f16::from_bits(bits as u16); len]),
            DType::Bf16 => Data::Bf16(vec![bf16::from_bits(bits as u16); len]),
        }
    }

    pub fn dtype(&self) -> DType {
        match self {
            Data::F32(_) => DType::F32,
            Data::F16(_) => DType::F16,
            Data::Bf16(_) => DType::Bf16,
        }
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        match self {
            Data::F32(values) => values.len(),
            Data::F16(values) => values.len(),
            Data::Bf16(values) => values.len(),
        }
    }

    pub fn get(&self, index: usize) -> f64 {
        match self {
            Data::F32(values) => f64::from(values[index]),
            Data::F16(values) => f64::from(values[index].to_f32()),
            Data::Bf16(values) => f64::from(values[index].to_f32()),
        }
    }

    /// Stores the nearest value.
    fn set(&mut self, index: usize, value: f64) {
        match self {
            Data::F32(values) => values[index] = value as f32,
            Data::F16(values) => values[index] = f16::from_f32(value as f32),
            Data::Bf16(values) => values[index] = bf16::from_f32(value as f32),
        }
    }

    pub fn bits(&self, index: usize) -> u32 {
        match self {
            Data::F32(values) => values[index].to_bits(),
            Data::F16(values) => u32::from(values[index].to_bits()),
            Data::Bf16(values) => u32::from(values[index].to_bits()),
        }
    }

    pub fn set_bits(&mut self, index: usize, bits: u32) {
        match self {
            Data::F32(values) => values[index] = f32::from_bits(bits),
            Data::F16(values) => values[index] = f16::from_bits(bits as u16),
            Data::Bf16(values) => values[index] = bf16::from_bits(bits as u16),
        }
    }

    /// The elements, to copy to a device.
    pub fn host(&self) -> HostRef<'_> {
        match self {
            Data::F32(values) => HostRef::new(values),
            Data::F16(values) => HostRef::new(values),
            Data::Bf16(values) => HostRef::new(values),
        }
    }

    /// The elements, to be copied from a device.
    pub fn host_mut(&mut self) -> HostMut<'_> {
        match self {
            Data::F32(values) => HostMut::new(values),
            Data::F16(values) => HostMut::new(values),
            Data::Bf16(values) => HostMut::new(values),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            Data::F32(values) => bytemuck::cast_slice(values),
            Data::F16(values) => bytemuck::cast_slice(values),
            Data::Bf16(values) => bytemuck::cast_slice(values),
        }
    }
}

/// How a matrix lies in its buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrangement {
    /// Columns are contiguous instead of rows.
    pub transposed: bool,
    /// Elements between the end of a stored row and the start of the next.
    pub gap: usize,
    /// Elements before the first.
    pub offset: usize,
    /// All stored rows are one: stride 0. What was set last holds.
    pub repeated: bool,
}

/// A matrix in a buffer whose other elements are poison.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub data: Data,
    pub rows: usize,
    pub cols: usize,
    pub arrangement: Arrangement,
}

/// Elements after the last.
const TAIL: usize = 3;

impl Matrix {
    /// A matrix that nobody has written yet: every element is a NaN.
    pub fn poisoned(dtype: DType, rows: usize, cols: usize, arrangement: Arrangement) -> Self {
        let mut matrix = Matrix { data: Data::poisoned(dtype, 0), rows, cols, arrangement };
        let (stored_rows, stored_cols) = matrix.stored();
        let stored_rows = if arrangement.repeated { stored_rows.min(1) } else { stored_rows };
        let len = arrangement.offset + stored_rows * (stored_cols + arrangement.gap) + TAIL;
        matrix.data = Data::poisoned(dtype, len);
        matrix
    }

    /// The nearest values of the type to those of `value(row, column)`.
    pub fn from_fn(
        dtype: DType,
        rows: usize,
        cols: usize,
        arrangement: Arrangement,
        mut value: impl FnMut(usize, usize) -> f64,
    ) -> Self {
        let mut matrix = Self::poisoned(dtype, rows, cols, arrangement);
        for i in 0..rows {
            for j in 0..cols {
                matrix.set(i, j, value(i, j));
            }
        }
        matrix
    }

    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }

    fn stored(&self) -> (usize, usize) {
        if self.arrangement.transposed { (self.cols, self.rows) } else { (self.rows, self.cols) }
    }

    pub fn index(&self, row: usize, col: usize) -> usize {
        let (_, stored_cols) = self.stored();
        let (major, minor) = if self.arrangement.transposed { (col, row) } else { (row, col) };
        let major = if self.arrangement.repeated { 0 } else { major };
        self.arrangement.offset + major * (stored_cols + self.arrangement.gap) + minor
    }

    pub fn get(&self, row: usize, col: usize) -> f64 {
        self.data.get(self.index(row, col))
    }

    pub fn set(&mut self, row: usize, col: usize, value: f64) {
        let index = self.index(row, col);
        self.data.set(index, value);
    }

    /// The bits of an element.
    pub fn bits(&self, row: usize, col: usize) -> u32 {
        self.data.bits(self.index(row, col))
    }

    pub fn set_bits(&mut self, row: usize, col: usize, bits: u32) {
        let index = self.index(row, col);
        self.data.set_bits(index, bits);
    }

    /// The bits of all elements, row by row.
    pub fn all_bits(&self) -> Vec<u32> {
        (0..self.rows * self.cols).map(|n| self.bits(n / self.cols, n % self.cols)).collect()
    }

    /// The layout that the library is told, for a buffer that starts at the offset.
    pub fn layout(&self) -> Result<Layout> {
        let (rows, cols) = self.stored();
        let layout = match self.arrangement.repeated {
            true => Layout::repeated(rows, cols)?,
            false => Layout::strided(rows, cols, cols + self.arrangement.gap)?,
        };
        Ok(if self.arrangement.transposed { layout.t() } else { layout })
    }

    /// Panics if an element outside the matrix is no longer poison.
    pub fn assert_surroundings_untouched(&self, name: &str) {
        let mut inside = vec![false; self.data.count()];
        for i in 0..self.rows {
            for j in 0..self.cols {
                inside[self.index(i, j)] = true;
            }
        }
        for (index, _) in inside.iter().enumerate().filter(|(_, inside)| !**inside) {
            let (found, expected) = (self.data.bits(index), poison(self.dtype()));
            assert_eq!(
                found, expected,
                "`{name}` [{}, {}] {:?}: element {index} of the buffer is outside the matrix, but was written",
                self.rows, self.cols, self.arrangement
            );
        }
    }
}

/// The nearest value of the type.
pub fn nearest(dtype: DType, value: f64) -> f64 {
    match dtype {
        DType::F32 => f64::from(value as f32),
        DType::F16 => f64::from(<f16 as Element>::from_f32(value as f32).to_f32()),
        DType::Bf16 => f64::from(<bf16 as Element>::from_f32(value as f32).to_f32()),
    }
}
