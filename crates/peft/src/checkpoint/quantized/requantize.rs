//! FP8 again, after a merge: as many scales as before, each the largest magnitude of its tensor, row or block over the largest
//! number of the type.

use super::float8;
use super::weight::{Method, QuantizedWeight};
use crate::error::{Error, Result};
use crate::tensor::{Dtype, Tensor, float_type};

/// A weight in numbers of eight bits.
pub(crate) struct Requantized {
    pub codes: Vec<u8>,
    pub scale: Tensor,
    /// The largest and the root mean square difference from what it stands for, and the root mean square of that.
    pub max_error: f32,
    pub rms_error: f32,
    pub rms: f32,
}

impl QuantizedWeight {
    /// Whether [`requantize`](Self::requantize) gives the format that it has.
    pub fn can_requantize(&self) -> bool {
        let [(_, weight), (_, scale)] = self.parts.as_slice() else { return false };
        matches!(self.method, Method::Scaled(_))
            && matches!(weight.dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2)
            && float_type(scale.dtype).is_some()
    }

    /// Other values in the format that this weight has. `plain` has its shape.
    ///
    /// # Errors
    /// The format is another than FP8 with scales in plain numbers, or the shape is another.
    pub fn requantize(&self, plain: &Tensor) -> Result<Requantized> {
        let refused =
            || Error::tensor(&self.parts[0].0, format!("{} cannot be quantised again", self.format));
        let (Method::Scaled(method), true) = (&self.method, self.can_requantize()) else {
            return Err(refused());
        };
        let (weight, scale) = (&self.parts[0].1, &self.parts[1].1);
        let (&[.., rows, columns], Some(scale_type)) = (plain.shape(), float_type(scale.dtype)) else {
            return Err(refused());
        };
        if plain.shape() != self.shape {
            return Err(refused());
        }
        // Numbers of the type from zero on, in the order of their codes.
        let numbers: Vec<f64> = match weight.dtype {
            Dtype::F8_E5M2 => (0..=0x7b).map(|code| f64::from(float8::e5m2(code))).collect(),
            _ => (0..=0x7e).map(|code| f64::from(float8::e4m3(code))).collect(),
        };
        let largest_number = numbers.last().copied().unwrap_or(1.0);
        let grid = [rows.div_ceil(method.block[0]), columns.div_ceil(method.block[1])];
        let one = scale.elements() == 1;
        let place = |index: usize| {
            let (row, column) = (index / columns, index % columns);
            let first = (row / rows * grid[0] + row % rows / method.block[0]) * grid[1];
            if one { 0 } else { first + column / method.block[1] }
        };
        let values = plain.to_f32();
        let mut largest = vec![0f32; scale.elements()];
        for (index, value) in values.iter().enumerate() {
            let largest = &mut largest[place(index)];
            *largest = largest.max(value.abs());
        }
        let scale_of =
            |largest: f32| if largest > 0.0 { (f64::from(largest) / largest_number) as f32 } else { 1.0 };
        let scales = largest.into_iter().map(scale_of).collect::<Vec<f32>>();
        let scale = Tensor::of(&scale.shape, scales).cast(scale_type);
        let scales = scale.to_f32();
        let (mut max_error, mut errors, mut squares) = (0f64, 0f64, 0f64);
        let mut code = |(index, value): (usize, &f32)| {
            let (scale, value) = (f64::from(scales[place(index)]), f64::from(*value));
            let code = nearest(&numbers, value.abs() / scale);
            let error = (numbers[code] * scale - value.abs()).abs();
            (max_error, errors, squares) =
                (max_error.max(error), errors + error * error, squares + value * value);
            code as u8 | if value < 0.0 { 0x80 } else { 0 }
        };
        let codes = values.iter().enumerate().map(&mut code).collect();
        let mean = |sum: f64| (sum / values.len().max(1) as f64).sqrt() as f32;
        Ok(Requantized {
            codes,
            scale,
            max_error: max_error as f32,
            rms_error: mean(errors),
            rms: mean(squares),
        })
    }
}

/// The place of the nearest of ascending numbers; of two the even one.
fn nearest(numbers: &[f64], value: f64) -> usize {
    let above = numbers.partition_point(|number| *number < value).min(numbers.len() - 1);
    let below = above.saturating_sub(1);
    let (down, up) = (value - numbers[below], numbers[above] - value);
    if up < down || up == down && above % 2 == 0 { above } else { below }
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn the_nearest_number_is_found() {
        let numbers = [0.0, 1.0, 2.0, 4.0];
        for (value, expected) in
            [(0.0, 0), (0.4, 0), (0.5, 0), (0.6, 1), (1.5, 2), (3.0, 2), (3.1, 3), (9.0, 3)]
        {
            assert_eq!(nearest(&numbers, value), expected, "{value}");
        }
    }
}
