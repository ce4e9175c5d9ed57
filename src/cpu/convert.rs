//! Conversion of runs of elements to and from `f32`.

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
        from.convert_to_f32_slice(to);
    }

    fn narrow(from: &[f32], to: &mut [f16]) {
        to.convert_from_f32_slice(from);
    }
}

impl Convert for bf16 {
    fn widen(from: &[bf16], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }

    fn narrow(from: &[f32], to: &mut [bf16]) {
        to.convert_from_f32_slice(from);
    }
}
