//! Weights of 8 bits times a scale: one for the tensor, a row, or a block.
//!
//! W = S·Q, or S·(Q − Z). DeepSeek-V3 calls S `weight_scale_inv`, in blocks of 128 × 128, the last ones smaller where that does
//! not divide; compressed-tensors, FBGEMM and ModelOpt call it `weight_scale`.

use super::float8;
use super::part::{Part, fill_rows};
use crate::error::Result;
use crate::tensor::{Dtype, Tensor};

/// How scales are laid over a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scaled {
    /// Rows and columns of a block.
    pub block: [usize; 2],
}

/// Rows and columns of a block that nothing says otherwise of (DeepSeek-V3's, and the default of transformers).
const BLOCK: [usize; 2] = [128, 128];

impl Scaled {
    /// The layout of scales of shape `scale` over a weight of shape `weight`, whose last two dimensions are rows and columns;
    /// `None` if they do not fit. `configured` is the size of blocks that `config.json` names.
    pub fn find(weight: &[usize], scale: &[usize], configured: Option<[usize; 2]>) -> Option<Self> {
        let [stacked @ .., rows, columns] = weight else { return None };
        let count: usize = scale.iter().product();
        if count == 1 {
            return Some(Scaled { block: [(*rows).max(1), (*columns).max(1)] });
        }
        let grid = match scale {
            [one] if one == rows && stacked.is_empty() => [*one, 1],
            [before @ .., grid_rows, grid_columns] if before == stacked => [*grid_rows, *grid_columns],
            _ => return None,
        };
        let blocks = |block: [usize; 2]| {
            let covers = [rows.div_ceil(block[0]), columns.div_ceil(block[1])] == grid;
            covers.then_some(Scaled { block })
        };
        let exact = || {
            let divides = grid[0] > 0 && grid[1] > 0 && rows % grid[0] == 0 && columns % grid[1] == 0;
            divides.then(|| Scaled { block: [(rows / grid[0]).max(1), (columns / grid[1]).max(1)] })
        };
        configured.filter(|block| block[0] > 0 && block[1] > 0).and_then(blocks).or_else(|| match grid[1] {
            // A scale for each row.
            1 if grid[0] == *rows => exact(),
            _ => blocks(BLOCK).or_else(exact),
        })
    }

    pub fn fill(&self, tensor: &mut Tensor, parts: &[Part]) -> Result<()> {
        let weight = &parts[0];
        let scales = match parts.get(1) {
            None => vec![1.0],
            Some(scale) => match scale.info.dtype {
                Dtype::F8_E8M0 | Dtype::U8 => scale.bytes.iter().map(|&byte| float8::e8m0(byte)).collect(),
                _ => scale.floats()?,
            },
        };
        let zeros: Option<Vec<f32>> = match parts.get(2) {
            Some(zeros) if zeros.info.dtype == Dtype::I8 => {
                Some(zeros.bytes.iter().map(|&byte| f32::from(byte as i8)).collect())
            }
            Some(zeros) => Some(zeros.floats()?),
            None => None,
        };
        let value: [f32; 256] = match weight.info.dtype {
            Dtype::F8_E5M2 => std::array::from_fn(|byte| float8::e5m2(byte as u8)),
            Dtype::I8 => std::array::from_fn(|byte| f32::from(byte as u8 as i8)),
            _ => std::array::from_fn(|byte| float8::e4m3(byte as u8)),
        };
        let (rows, columns) = match *tensor.shape() {
            [.., rows, columns] => (rows, columns),
            [columns] => (1, columns),
            [] => (1, 1),
        };
        let grid = [rows.div_ceil(self.block[0]), columns.div_ceil(self.block[1])];
        let block = self.block;
        fill_rows(tensor, |index, row| {
            let (stacked, inside) = (index / rows, index % rows);
            let first = (stacked * grid[0] + inside / block[0]) * grid[1];
            let bytes = &weight.bytes[index * columns..];
            for (column, (new, byte)) in row.iter_mut().zip(bytes).enumerate() {
                let place = if scales.len() == 1 { 0 } else { first + column / block[1] };
                let zero = zeros.as_ref().map_or(0.0, |zeros| zeros[place]);
                *new = (value[usize::from(*byte)] - zero) * scales[place];
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Scaled;

    #[test]
    fn scales_lie_over_the_weight_as_their_shape_says() {
        type Case<'a> = (&'a [usize], &'a [usize], Option<[usize; 2]>, Option<[usize; 2]>);
        let cases: [Case<'_>; 13] = [
            (&[16, 24], &[1, 1], None, Some([16, 24])),
            (&[16, 24], &[], None, Some([16, 24])),
            (&[16, 24], &[1], Some([128, 128]), Some([16, 24])),
            (&[16, 24], &[16, 1], None, Some([1, 24])),
            (&[16, 24], &[16], None, Some([1, 24])),
            (&[256, 384], &[2, 3], None, Some([128, 128])),
            // 192 rows are a block of 128 and one of 64, and not two of 96.
            (&[192, 300], &[2, 3], None, Some([128, 128])),
            (&[16, 24], &[4, 3], None, Some([4, 8])),
            (&[18, 20], &[3, 3], Some([8, 8]), Some([8, 8])),
            (&[2, 192, 128], &[2, 2, 1], None, Some([128, 128])),
            (&[16, 24], &[5, 5], None, None),
            (&[2, 16, 24], &[3, 1, 1], None, None),
            (&[16], &[16], None, None),
        ];
        for (weight, scale, configured, expected) in cases {
            let found = Scaled::find(weight, scale, configured).map(|scaled| scaled.block);
            assert_eq!(found, expected, "{weight:?} {scale:?} {configured:?}");
        }
    }
}
