//! An f64 matrix without any cleverness.

use crate::matrix::Matrix;

/// Row-major values.
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    pub rows: usize,
    pub cols: usize,
    pub values: Vec<f64>,
}

impl Dense {
    pub fn from_fn(rows: usize, cols: usize, mut value: impl FnMut(usize, usize) -> f64) -> Self {
        let mut values = Vec::with_capacity(rows * cols);
        for i in 0..rows {
            for j in 0..cols {
                values.push(value(i, j));
            }
        }
        Dense { rows, cols, values }
    }

    pub fn zeros(rows: usize, cols: usize) -> Self {
        Dense { rows, cols, values: vec![0.0; rows * cols] }
    }

    pub fn at(&self, row: usize, col: usize) -> f64 {
        assert!(row < self.rows && col < self.cols);
        self.values[row * self.cols + col]
    }

    pub fn transposed(&self) -> Self {
        Self::from_fn(self.cols, self.rows, |i, j| self.at(j, i))
    }

    pub fn largest(&self) -> f64 {
        self.values.iter().fold(0.0, |largest, value| value.abs().max(largest))
    }
}

impl From<&Matrix> for Dense {
    fn from(matrix: &Matrix) -> Self {
        Self::from_fn(matrix.rows, matrix.cols, |i, j| matrix.get(i, j))
    }
}
