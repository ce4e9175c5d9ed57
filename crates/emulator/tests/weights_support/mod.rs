//! Weights, adapters and a plain scalar reference for the tests of weight updates.
#![allow(dead_code, reason = "each test file uses a part")]

use lora_kernels::{Adapter, DType, Element, MatrixMut, MatrixRef};

/// SplitMix64: small, and the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normal with the given standard deviation (Box and Muller).
    pub fn normal(&mut self, deviation: f64) -> f32 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        (deviation * radius * (std::f64::consts::TAU * self.uniform()).cos()) as f32
    }

    pub fn matrix<T: Element>(&mut self, elements: usize, deviation: f64) -> Vec<T> {
        (0..elements).map(|_| T::from_f32(self.normal(deviation))).collect()
    }
}

/// A matrix with its own storage: rows or columns contiguous, gaps filled with a mark.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored<T> {
    pub data: Vec<T>,
    pub rows: usize,
    pub cols: usize,
    pub stride: usize,
    pub transposed: bool,
}

impl<T: Element> Stored<T> {
    pub fn new(values: &[T], rows: usize, cols: usize, transposed: bool, gap: usize) -> Self {
        let (outer, inner) = if transposed { (cols, rows) } else { (rows, cols) };
        let stride = inner + gap;
        let mut stored =
            Stored { data: vec![T::from_f32(-77.0); outer * stride], rows, cols, stride, transposed };
        for i in 0..rows {
            for j in 0..cols {
                let at = stored.at(i, j);
                stored.data[at] = values[i * cols + j];
            }
        }
        stored
    }

    fn at(&self, i: usize, j: usize) -> usize {
        if self.transposed { j * self.stride + i } else { i * self.stride + j }
    }

    pub fn get(&self, i: usize, j: usize) -> T {
        self.data[self.at(i, j)]
    }

    /// The values row by row, and whether the gaps still hold their mark.
    pub fn values(&self) -> Vec<T> {
        let mut inside = vec![false; self.data.len()];
        let mut values = Vec::with_capacity(self.rows * self.cols);
        for i in 0..self.rows {
            for j in 0..self.cols {
                inside[self.at(i, j)] = true;
                values.push(self.get(i, j));
            }
        }
        for (element, inside) in self.data.iter().zip(inside) {
            assert!(inside || *element == T::from_f32(-77.0), "a gap between rows was written");
        }
        values
    }

    pub fn view(&self) -> MatrixRef<'_> {
        let (rows, cols) = if self.transposed { (self.cols, self.rows) } else { (self.rows, self.cols) };
        let view = MatrixRef::strided(&self.data, rows, cols, self.stride).unwrap();
        if self.transposed { view.t() } else { view }
    }

    pub fn view_mut(&mut self) -> MatrixMut<'_> {
        let (rows, cols) = if self.transposed { (self.cols, self.rows) } else { (self.rows, self.cols) };
        let view = MatrixMut::strided(&mut self.data, rows, cols, self.stride).unwrap();
        if self.transposed { view.t() } else { view }
    }
}

/// A and B, row by row.
#[derive(Clone, Debug)]
pub struct Factors<T> {
    pub a: Vec<T>,
    pub b: Vec<T>,
    pub rank: usize,
    pub scale: f32,
}

impl<T: Element> Factors<T> {
    /// Random factors for a \[rows, cols\] weight whose s·A·B has about the given standard deviation.
    pub fn random(random: &mut Random, rows: usize, cols: usize, rank: usize, deviation: f64) -> Self {
        let scale = 2.0;
        let each = (deviation / (f64::from(scale) * (rank as f64).sqrt())).sqrt();
        Factors { a: random.matrix(rows * rank, each), b: random.matrix(rank * cols, each), rank, scale }
    }

    pub fn adapter(&self) -> Adapter<'_> {
        Adapter {
            a: MatrixRef::new(&self.a, self.a.len() / self.rank, self.rank).unwrap(),
            b: MatrixRef::new(&self.b, self.rank, self.b.len() / self.rank).unwrap(),
            scale: self.scale,
        }
    }

    /// Σₖ A\[i,k\]·B\[k,j\] by fused multiply-adds from k = 0 upwards.
    pub fn sum(&self, i: usize, j: usize) -> f32 {
        let cols = self.b.len() / self.rank;
        (0..self.rank).fold(0.0, |sum, k| {
            self.a[i * self.rank + k].to_f32().mul_add(self.b[k * cols + j].to_f32(), sum)
        })
    }
}

/// The bits of an element, 16-bit ones in the low half.
pub fn bits<T: Element>(element: T) -> u32 {
    let bytes = bytemuck::bytes_of(&element);
    match T::DTYPE {
        DType::F32 => u32::from_le_bytes(bytes.try_into().unwrap()),
        DType::F16 | DType::Bf16 => u32::from(u16::from_le_bytes(bytes.try_into().unwrap())),
    }
}

pub fn all_bits<T: Element>(elements: &[T]) -> Vec<u32> {
    elements.iter().map(|&element| bits(element)).collect()
}

/// The element with these bits.
pub fn from_bits<T: Element>(bits: u32) -> T {
    bytemuck::pod_read_unaligned(&bits.to_le_bytes()[..T::DTYPE.size()])
}

/// What an update without record makes of one weight.
pub fn updated<T: Element>(w: T, remove: Option<(f32, f32)>, add: Option<(f32, f32)>) -> T {
    let mut value = w.to_f32();
    if let Some((scale, sum)) = remove {
        value = (-scale).mul_add(sum, value);
    }
    if let Some((scale, sum)) = add {
        value = scale.mul_add(sum, value);
    }
    T::from_f32(value)
}
