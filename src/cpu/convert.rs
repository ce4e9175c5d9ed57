//! Conversion of runs of elements to and from `f32`.

use super::simd::vectorize;
use crate::Element;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Element types whose slices convert in bulk.
pub(super) trait Convert: Element {
    /// `to[i] = from[i]`, exactly.
    fn widen(from: &[Self], to: &mut [f32]);

    /// `to[i] = from[i]`, rounded to nearest, ties to even.
    fn narrow(from: &[f32], to: &mut [Self]);

    /// Rounds to this type and back.
    fn round(value: f32) -> f32 {
        Self::from_f32(value).to_f32()
    }
}

impl Convert for f32 {
    fn widen(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    fn narrow(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

impl Convert for f16 {
    fn widen(from: &[f16], to: &mut [f32]) {
        assert_eq!(from.len(), to.len());
        vectorize(
            #[inline(always)]
            || {
                for (to, from) in to.iter_mut().zip(from) {
                    let bits = u32::from(from.to_bits());
                    let (sign, magnitude) = ((bits & 0x8000) << 16, bits & 0x7FFF);
                    // The exponent's bias grows from 15 to 127; that of infinities and NaN from 31 to 255.
                    let rebias = if magnitude < 0x7C00 { 112 << 23 } else { 224 << 23 };
                    let normal = (magnitude << 13) + rebias;
                    let subnormal = (magnitude as i32 as f32 * (1.0 / (1 << 24) as f32)).to_bits();
                    *to = f32::from_bits(sign | if magnitude < 0x0400 { subnormal } else { normal });
                }
            },
        );
    }

    fn narrow(from: &[f32], to: &mut [f16]) {
        to.convert_from_f32_slice(from);
    }
}

impl Convert for bf16 {
    fn widen(from: &[bf16], to: &mut [f32]) {
        assert_eq!(from.len(), to.len());
        vectorize(
            #[inline(always)]
            || {
                for (to, from) in to.iter_mut().zip(from) {
                    *to = f32::from_bits(u32::from(from.to_bits()) << 16);
                }
            },
        );
    }

    fn narrow(from: &[f32], to: &mut [bf16]) {
        assert_eq!(from.len(), to.len());
        vectorize(
            #[inline(always)]
            || {
                for (to, from) in to.iter_mut().zip(from) {
                    let bits = from.to_bits();
                    let nearest = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
                    let quiet = (bits >> 16) | 0x40;
                    *to = bf16::from_bits(if from.is_nan() { quiet } else { nearest } as u16);
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Convert>(from_bits: impl Fn(u16) -> T) {
        let all: Vec<T> = (0..=u16::MAX).map(from_bits).collect();
        let mut wide = vec![0.0; all.len()];
        T::widen(&all, &mut wide);
        for (value, wide) in all.iter().zip(&wide) {
            assert!(wide.is_nan() && value.to_f32().is_nan() || wide.to_bits() == value.to_f32().to_bits());
        }
        // All values, ties between them, and what lies next to the ties.
        for offset in [0u32, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x0FFF, 0x1000, 0x1001] {
            let values: Vec<f32> =
                wide.iter().map(|value| f32::from_bits(value.to_bits().wrapping_add(offset))).collect();
            let mut narrow = vec![T::from_f32(0.0); values.len()];
            T::narrow(&values, &mut narrow);
            for (value, narrow) in values.into_iter().zip(narrow) {
                let (expected, found) = (T::from_f32(value).to_f32(), narrow.to_f32());
                let equal = expected.to_bits() == found.to_bits() || expected.is_nan() && found.is_nan();
                assert!(equal, "{value:e}: {found:e} instead of {expected:e}");
            }
        }
    }

    #[test]
    fn bulk_conversion_equals_conversion_one_by_one() {
        check(f16::from_bits);
        check(bf16::from_bits);
    }
}
