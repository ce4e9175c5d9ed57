//! A product of row-major or column-major matrices as cuBLASLt wants it: all column-major.

use crate::cuda::step::{Operand, Product};

/// op(first) \[m, k\] · op(second) \[k, n\] → result \[m, n\], with every matrix stored column by column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ColumnMajor {
    /// Rows of the result.
    pub m: u64,
    /// Columns of the result.
    pub n: u64,
    /// Length of the sums.
    pub k: u64,
    /// Left operand.
    pub first: Stored,
    /// Right operand.
    pub second: Stored,
    /// Result; never transposed.
    pub result: Stored,
    /// Whether `first` is the product's `b`: C is row-major, and Cᵀ = Bᵀ·Aᵀ is computed.
    pub swapped: bool,
}

/// A matrix as it is stored, column by column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stored {
    /// Rows as stored: contiguous elements.
    pub rows: u64,
    /// Columns as stored.
    pub cols: u64,
    /// Elements between the starts of two columns.
    pub leading_dimension: u64,
    /// Whether the product reads it transposed.
    pub transposed: bool,
}

impl ColumnMajor {
    /// The same product, column-major.
    pub fn from_product(product: &Product) -> Self {
        let Product { a, b, c, .. } = product;
        let swapped = !c.transposed;
        let (first, second) =
            if swapped { (stored(b, true), stored(a, true)) } else { (stored(a, false), stored(b, false)) };
        let result = stored(c, swapped);
        ColumnMajor { m: result.rows, n: result.cols, k: a.cols, first, second, result, swapped }
    }

    /// The addresses of first, second and result.
    pub fn addresses(&self, product: &Product) -> [u64; 3] {
        let Product { a, b, c, .. } = product;
        if self.swapped { [b.address, a.address, c.address] } else { [a.address, b.address, c.address] }
    }
}

/// How the operand lies in memory, and whether the operand (or its transpose, where that is meant) is read transposed.
fn stored(operand: &Operand, transpose: bool) -> Stored {
    let (rows, cols) =
        if operand.transposed { (operand.rows, operand.cols) } else { (operand.cols, operand.rows) };
    Stored {
        rows,
        cols,
        // The stride of a single column is never used, but cuBLASLt checks it.
        leading_dimension: operand.stride.max(rows),
        transposed: operand.transposed == transpose,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::cuda::step::F32Math;

    const M: u64 = 3;
    const N: u64 = 5;
    const K: u64 = 4;

    fn operand(address: u64, rows: u64, cols: u64, transposed: bool) -> Operand {
        let stride = if transposed { rows } else { cols } + 2;
        Operand { address, rows, cols, stride, transposed }
    }

    fn products() -> impl Iterator<Item = Product> {
        (0..8).map(|bits| Product {
            a: operand(1000, M, K, bits & 1 != 0),
            b: operand(2000, K, N, bits & 2 != 0),
            c: operand(3000, M, N, bits & 4 != 0),
            dtype: DType::F32,
            accumulate: false,
            f32_math: F32Math::Exact,
        })
    }

    fn value(address: u64) -> i64 {
        (address as i64 * 37) % 11 - 5
    }

    fn address(operand: &Operand, row: u64, col: u64) -> u64 {
        let (outer, inner) = if operand.transposed { (col, row) } else { (row, col) };
        operand.address + outer * operand.stride + inner
    }

    /// What cuBLASLt does: `(address, value)` of every element of the result.
    fn column_major_results(product: &Product) -> Vec<(u64, i64)> {
        let plan = ColumnMajor::from_product(product);
        let [first, second, result] = plan.addresses(product);
        let read = |base: u64, matrix: &Stored, row: u64, col: u64| {
            let (row, col) = if matrix.transposed { (col, row) } else { (row, col) };
            assert!(row < matrix.rows && col < matrix.cols && matrix.rows <= matrix.leading_dimension);
            value(base + col * matrix.leading_dimension + row)
        };
        let mut results = Vec::new();
        for row in 0..plan.m {
            for col in 0..plan.n {
                let sum = (0..plan.k)
                    .map(|i| read(first, &plan.first, row, i) * read(second, &plan.second, i, col))
                    .sum();
                results.push((result + col * plan.result.leading_dimension + row, sum));
            }
        }
        results.sort_unstable();
        results
    }

    #[test]
    fn all_eight_transpositions_give_the_naive_product_in_the_same_places() {
        for product in products() {
            let mut expected = Vec::new();
            for row in 0..M {
                for col in 0..N {
                    let term = |i| value(address(&product.a, row, i)) * value(address(&product.b, i, col));
                    expected.push((address(&product.c, row, col), (0..K).map(term).sum::<i64>()));
                }
            }
            expected.sort_unstable();
            assert_eq!(column_major_results(&product), expected, "{product:?}");
        }
    }

    #[test]
    fn the_result_is_never_stored_transposed() {
        assert!(products().all(|product| !ColumnMajor::from_product(&product).result.transposed));
    }

    #[test]
    fn the_stride_of_a_single_row_is_widened_to_what_the_library_accepts() {
        let mut product = products().next().unwrap();
        product.a = Operand { rows: 1, stride: 0, ..product.a };
        product.c = Operand { rows: 1, ..product.c };
        assert_eq!(ColumnMajor::from_product(&product).second.leading_dimension, K);
    }
}
