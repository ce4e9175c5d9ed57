//! Singular values and orthogonal factors of dense matrices.

use super::random::normal;
use crate::{Error, Result};
use faer::{Accum, Mat, MatRef, Par};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rayon::prelude::*;

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

/// Rows of a product that one thread computes: fixed, so that the result does not depend on the number of threads.
const PRODUCT_ROWS: usize = 256;

fn product(left: MatRef<'_, f64>, right: MatRef<'_, f64>) -> Mat<f64> {
    let block = |start: usize| {
        let rows = left.subrows(start, PRODUCT_ROWS.min(left.nrows() - start));
        let mut product = Mat::zeros(rows.nrows(), right.ncols());
        faer::linalg::matmul::matmul(product.as_mut(), Accum::Replace, rows, right, 1.0, Par::Seq);
        product
    };
    let blocks: Vec<Mat<f64>> = (0..left.nrows()).into_par_iter().step_by(PRODUCT_ROWS).map(block).collect();
    Mat::from_fn(left.nrows(), right.ncols(), |row, column| {
        blocks[row / PRODUCT_ROWS][(row % PRODUCT_ROWS, column)]
    })
}

/// ‖M − L·R‖² with L \[m, r\] and R \[r, n\]; row by row. Zero if that is below the last digits of ‖M‖².
pub(crate) fn squared_distance(
    matrix: &[f64],
    [rows, columns]: [usize; 2],
    left: &[f64],
    right: &[f64],
) -> f64 {
    let rank = left.len() / rows;
    let matrix = MatRef::from_row_major_slice(matrix, rows, columns);
    let left = MatRef::from_row_major_slice(left, rows, rank);
    let right = MatRef::from_row_major_slice(right, rank, columns);
    // ‖M‖² − 2·⟨M·Rᵀ, L⟩ + ⟨Lᵀ·L, R·Rᵀ⟩
    let inner = |one: MatRef<'_, f64>, two: MatRef<'_, f64>| -> f64 {
        (0..one.ncols())
            .map(|k| one.col(k).iter().zip(two.col(k).iter()).map(|(a, b)| a * b).sum::<f64>())
            .sum()
    };
    let crossed = product(matrix, right.transpose());
    let (lefts, rights) = (product(left.transpose(), left), product(right, right.transpose()));
    let all = inner(matrix, matrix);
    let distance = all - 2.0 * inner(crossed.as_ref(), left) + inner(lefts.as_ref(), rights.as_ref());
    if distance > 1e-16 * all { distance } else { 0.0 }
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

    /// Of singular values that fall slowly, as those of real differences do, no more is lost than must be.
    #[test]
    fn slowly_decaying_spectra_are_cut_off_well() {
        let (rows, columns, rank) = (600, 640, 16);
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let mut orthogonal = |size| orthonormal(&Mat::from_fn(size, rows, |_, _| normal(&mut random)));
        let (left, right) = (orthogonal(rows), orthogonal(columns));
        let value = |k: usize| 1.0 / ((k + 1) as f64).sqrt();
        let scaled = Mat::from_fn(rows, rows, |i, k| left[(i, k)] * value(k));
        let matrix = row_major(product(scaled.as_ref(), right.transpose()).as_ref());
        let svd = truncated_svd(&matrix, rows, columns, rank).unwrap();
        let best = (rank..rows).map(|k| value(k).powi(2)).sum::<f64>().sqrt();
        let found = residual(&matrix, rows, columns, &svd);
        assert!(found >= best * (1.0 - 1e-9) && found <= best * 1.01, "{found} against {best}");

        let left: Vec<f64> =
            svd.left.iter().enumerate().map(|(i, value)| value * svd.values[i % rank]).collect();
        let distance = squared_distance(&matrix, [rows, columns], &left, &svd.right).sqrt();
        assert!((distance - found).abs() < 1e-9 * found, "{distance} and {found}");
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
