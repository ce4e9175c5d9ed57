//! Singular values and orthogonal factors of dense matrices.

use crate::{Error, Result};
use faer::{Accum, Mat, MatRef, Par};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::random::normal;

/// Matrices up to this many rows or columns get a full decomposition.
const FULL_SIZE: usize = 512;
/// Directions that the randomized decomposition keeps beyond the wanted ones, and times that it applies the matrix.
const OVERSAMPLING: usize = 16;
const ITERATIONS: usize = 6;

/// The leading singular triplets of a matrix \[m, n\]: M ≈ U·diag(S)·Vᵀ.
#[derive(Clone, Debug)]
pub(crate) struct Truncated {
    /// \[m, r\], row by row.
    pub left: Vec<f64>,
    /// Largest first.
    pub values: Vec<f64>,
    /// \[r, n\], row by row: Vᵀ.
    pub right: Vec<f64>,
}

/// The `rank` leading singular triplets.
///
/// Small matrices are decomposed fully. For large ones a random subspace is improved by applying M·Mᵀ six times (Halko,
/// Martinsson, Tropp, SIAM Review 2011, algorithm 4.4): enough for the leading directions of decaying spectra; in flat
/// ones, directions with nearly the same singular value are as good as each other.
pub(crate) fn truncated_svd(matrix: &[f64], rows: usize, columns: usize, rank: usize) -> Result<Truncated> {
    let matrix = MatRef::from_row_major_slice(matrix, rows, columns);
    let rank = rank.min(rows.min(columns));
    if rows.min(columns) <= FULL_SIZE.max(2 * (rank + OVERSAMPLING)) {
        return Ok(leading(svd(matrix)?, rank));
    }
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let start = Mat::from_fn(columns, rank + OVERSAMPLING, |_, _| normal(&mut random));
    let mut basis = orthonormal(&product(matrix, start.as_ref()));
    for _ in 0..ITERATIONS {
        let back = orthonormal(&product(matrix.transpose(), basis.as_ref()));
        basis = orthonormal(&product(matrix, back.as_ref()));
    }
    let (left, values, right) = svd(product(basis.transpose(), matrix).as_ref())?;
    Ok(leading((product(basis.as_ref(), left.as_ref()), values, right), rank))
}

type Triplets = (Mat<f64>, Vec<f64>, Mat<f64>);

/// U, S, V.
fn svd(matrix: MatRef<'_, f64>) -> Result<Triplets> {
    let svd = matrix
        .thin_svd()
        .map_err(|_| Error::module("", "the singular value decomposition did not converge"))?;
    let values = svd.S().column_vector().iter().copied().collect();
    Ok((svd.U().to_owned(), values, svd.V().to_owned()))
}

fn leading((left, values, right): Triplets, rank: usize) -> Truncated {
    Truncated {
        left: row_major(left.as_ref().subcols(0, rank)),
        values: values[..rank].to_vec(),
        right: row_major(right.as_ref().subcols(0, rank).transpose()),
    }
}

/// Q \[m, r\] and R \[r, n\] of M = Q·R, cut to r columns and rows; row by row.
pub(crate) fn truncated_qr(matrix: &[f64], rows: usize, columns: usize, rank: usize) -> (Vec<f64>, Vec<f64>) {
    let qr = MatRef::from_row_major_slice(matrix, rows, columns).qr();
    (row_major(qr.compute_thin_Q().as_ref().subcols(0, rank)), row_major(qr.thin_R().subrows(0, rank)))
}

fn orthonormal(matrix: &Mat<f64>) -> Mat<f64> {
    matrix.qr().compute_thin_Q()
}

fn product(left: MatRef<'_, f64>, right: MatRef<'_, f64>) -> Mat<f64> {
    let mut product = Mat::zeros(left.nrows(), right.ncols());
    faer::linalg::matmul::matmul(product.as_mut(), Accum::Replace, left, right, 1.0, Par::Seq);
    product
}

fn row_major(matrix: MatRef<'_, f64>) -> Vec<f64> {
    (0..matrix.nrows()).flat_map(|row| (0..matrix.ncols()).map(move |column| matrix[(row, column)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// U·diag(S)·Vᵀ must leave no more of M than the best approximation does.
    fn residual(matrix: &[f64], rows: usize, columns: usize, svd: &Truncated) -> f64 {
        let rank = svd.values.len();
        let mut sum = 0.0;
        for i in 0..rows {
            for j in 0..columns {
                let value: f64 = (0..rank)
                    .map(|k| svd.left[i * rank + k] * svd.values[k] * svd.right[k * columns + j])
                    .sum();
                sum += (matrix[i * columns + j] - value).powi(2);
            }
        }
        sum.sqrt()
    }

    #[test]
    fn low_rank_matrices_are_recovered_by_both_ways() {
        for (rows, columns) in [(20, 30), (600, 700)] {
            let mut random = ChaCha8Rng::seed_from_u64(1);
            let rank = 4;
            let a: Vec<f64> = (0..rows * rank).map(|_| normal(&mut random)).collect();
            let b: Vec<f64> = (0..rank * columns).map(|_| normal(&mut random)).collect();
            let entry =
                |i: usize, j: usize| (0..rank).map(|k| a[i * rank + k] * b[k * columns + j]).sum::<f64>();
            let matrix: Vec<f64> =
                (0..rows * columns).map(|index| entry(index / columns, index % columns)).collect();
            let svd = truncated_svd(&matrix, rows, columns, rank).unwrap();
            let scale = matrix.iter().map(|v| v * v).sum::<f64>().sqrt();
            assert!(residual(&matrix, rows, columns, &svd) < 1e-10 * scale, "{rows} x {columns}");
            assert!(svd.values.windows(2).all(|pair| pair[0] >= pair[1]));
        }
    }

    #[test]
    fn qr_gives_the_matrix_back() {
        let (rows, columns) = (7, 5);
        let mut random = ChaCha8Rng::seed_from_u64(2);
        let matrix: Vec<f64> = (0..rows * columns).map(|_| normal(&mut random)).collect();
        let (q, r) = truncated_qr(&matrix, rows, columns, 5);
        for i in 0..rows {
            for j in 0..columns {
                let value: f64 = (0..5).map(|k| q[i * 5 + k] * r[k * columns + j]).sum();
                assert!((value - matrix[i * columns + j]).abs() < 1e-12);
            }
        }
    }
}
