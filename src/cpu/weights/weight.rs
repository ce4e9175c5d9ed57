//! What an update does with the bits of one weight.
//!
//! All functions are free of branches on data, so that loops over them become vector instructions.

use crate::Element;
use half::{bf16, f16};

/// A weight's element type. Bits are carried in 32 bits, 16-bit types in the low half.
pub(super) trait Weight: Element {
    /// The sign bit.
    const SIGN: u32;
    /// The exponent field; alone, the bits of +∞.
    const EXPONENT: u32;

    /// The bits.
    fn bits(self) -> u32;

    /// The weight with these bits.
    fn from_weight_bits(bits: u32) -> Self;

    /// The value of these bits, exactly.
    fn decode(bits: u32) -> f32;

    /// The bits of the nearest weight, ties to even; of any NaN, the quiet NaN with all payload bits set.
    fn nearest(value: f32) -> u32;

    /// The bits of one of the two neighbours of `value`, chosen by `draw`; see `Rounding::Stochastic`.
    fn stochastic(value: f32, draw: u32) -> u32;

    /// Whether the bits are neither infinite nor NaN.
    #[inline(always)]
    fn is_finite(bits: u32) -> bool {
        bits & Self::EXPONENT != Self::EXPONENT
    }

    /// Whether the bits are a NaN.
    #[inline(always)]
    fn is_nan(bits: u32) -> bool {
        bits & !Self::SIGN > Self::EXPONENT
    }

    /// Numbers weights in ascending order; -0 is one below +0.
    #[inline(always)]
    fn key(bits: u32) -> i32 {
        let magnitude = (bits & !Self::SIGN) as i32;
        if bits & Self::SIGN != 0 { !magnitude } else { magnitude }
    }

    /// The bits with this number.
    #[inline(always)]
    fn from_key(key: i32) -> u32 {
        if key < 0 { Self::SIGN | !key as u32 } else { key as u32 }
    }
}

const SIGN_F32: u32 = 0x8000_0000;
const INFINITY_F32: u32 = 0x7F80_0000;

impl Weight for f32 {
    const SIGN: u32 = SIGN_F32;
    const EXPONENT: u32 = INFINITY_F32;

    #[inline(always)]
    fn bits(self) -> u32 {
        self.to_bits()
    }

    #[inline(always)]
    fn from_weight_bits(bits: u32) -> Self {
        f32::from_bits(bits)
    }

    #[inline(always)]
    fn decode(bits: u32) -> f32 {
        f32::from_bits(bits)
    }

    #[inline(always)]
    fn nearest(value: f32) -> u32 {
        if value.is_nan() { 0x7FFF_FFFF } else { value.to_bits() }
    }

    #[inline(always)]
    fn stochastic(value: f32, _draw: u32) -> u32 {
        Self::nearest(value)
    }
}

impl Weight for bf16 {
    const SIGN: u32 = 0x8000;
    const EXPONENT: u32 = 0x7F80;

    #[inline(always)]
    fn bits(self) -> u32 {
        u32::from(self.to_bits())
    }

    #[inline(always)]
    fn from_weight_bits(bits: u32) -> Self {
        bf16::from_bits(bits as u16)
    }

    #[inline(always)]
    fn decode(bits: u32) -> f32 {
        f32::from_bits(bits << 16)
    }

    #[inline(always)]
    fn nearest(value: f32) -> u32 {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
        if value.is_nan() { 0x7FFF } else { rounded }
    }

    #[inline(always)]
    fn stochastic(value: f32, draw: u32) -> u32 {
        let bits = value.to_bits();
        // The low bits of an infinity are zero: nothing carries out of them.
        let rounded = bits.wrapping_add(draw & 0xFFFF) >> 16;
        if value.is_nan() { 0x7FFF } else { rounded }
    }
}

/// Exponent fields of `f32` and `f16` differ by this, shifted to `f32`'s place.
const REBIAS: u32 = (127 - 15) << 23;
/// The bits of 2⁻¹⁴, below which `f16` values are subnormal, as `f32`.
const SMALLEST_NORMAL_F16: u32 = (127 - 14) << 23;

impl Weight for f16 {
    const SIGN: u32 = 0x8000;
    const EXPONENT: u32 = 0x7C00;

    #[inline(always)]
    fn bits(self) -> u32 {
        u32::from(self.to_bits())
    }

    #[inline(always)]
    fn from_weight_bits(bits: u32) -> Self {
        f16::from_bits(bits as u16)
    }

    #[inline(always)]
    fn decode(bits: u32) -> f32 {
        let magnitude = (bits & 0x7FFF) << 13;
        let normal = magnitude + REBIAS;
        // Put the subnormal's digits behind a leading one, then take the one away.
        let subnormal = f32::from_bits(magnitude + SMALLEST_NORMAL_F16) - f32::from_bits(SMALLEST_NORMAL_F16);
        let finite = if magnitude < 0x400 << 13 { subnormal.to_bits() } else { normal };
        let value = if magnitude >= 0x7C00 << 13 { magnitude | INFINITY_F32 } else { finite };
        f32::from_bits(value | (bits & 0x8000) << 16)
    }

    #[inline(always)]
    fn nearest(value: f32) -> u32 {
        let bits = value.to_bits();
        let magnitude = bits & !SIGN_F32;
        let sign = (bits >> 16) & 0x8000;
        let normal = magnitude.wrapping_sub(REBIAS).wrapping_add(0xFFF + ((magnitude >> 13) & 1)) >> 13;
        // 1/2 has the place value 2⁻²⁴ of subnormal `f16` in its last bit: the addition rounds.
        let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
        let rounded = if magnitude < SMALLEST_NORMAL_F16 { subnormal } else { normal };
        let limited = if magnitude >= 65536.0f32.to_bits() { Self::EXPONENT } else { rounded };
        if value.is_nan() { 0x7FFF } else { sign | limited }
    }

    #[inline(always)]
    fn stochastic(value: f32, draw: u32) -> u32 {
        let bits = value.to_bits();
        let magnitude = bits & !SIGN_F32;
        let sign = (bits >> 16) & 0x8000;
        let normal = magnitude.wrapping_sub(REBIAS).wrapping_add(draw & 0x1FFF) >> 13;
        // |value| in units of 2⁻²⁴, with 32 binary digits of fraction.
        let exponent = magnitude >> 23;
        let significand = u64::from((magnitude & 0x007F_FFFF) | if exponent > 0 { 0x0080_0000 } else { 0 });
        let left = exponent.saturating_sub(94).min(18);
        let right = 94u32.saturating_sub(exponent.max(1)).min(63);
        let fixed = (significand << left) >> right;
        let subnormal = ((fixed + u64::from(draw)) >> 32) as u32;
        let rounded = if magnitude < SMALLEST_NORMAL_F16 { subnormal } else { normal };
        let limited = if magnitude >= 65536.0f32.to_bits() { Self::EXPONENT } else { rounded };
        if value.is_nan() { 0x7FFF } else { sign | limited }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_16_bit_value<T: Weight>() {
        for bits in 0..=0xFFFFu32 {
            let value = T::decode(bits);
            let expected = T::from_weight_bits(bits).to_f32();
            assert!(
                value.to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan(),
                "{bits:#x}"
            );
            assert_eq!(T::is_nan(bits), value.is_nan());
            assert_eq!(T::is_finite(bits), value.is_finite());
            assert_eq!(T::from_key(T::key(bits)), bits);
            if value.is_nan() {
                assert_eq!(T::nearest(value), 0x7FFF);
                continue;
            }
            for draw in [0, 1, 0x1FFF, 0xFFFF, 0x7FFF_FFFF, u32::MAX] {
                assert_eq!(T::stochastic(value, draw), bits, "{bits:#x} is representable");
            }
            // Around each value and around each midpoint between neighbours.
            for anchor in [value, (value + T::from_weight_bits(bits ^ 1).to_f32()) / 2.0] {
                for nudge in -2i32..=2 {
                    let near = f32::from_bits(anchor.to_bits().wrapping_add_signed(nudge));
                    if !near.is_nan() {
                        assert_eq!(T::nearest(near), T::from_f32(near).bits(), "{near:e}");
                    }
                }
            }
        }
    }

    #[test]
    fn conversions_agree_with_half() {
        every_16_bit_value::<f16>();
        every_16_bit_value::<bf16>();
    }

    #[test]
    fn keys_follow_the_order_of_values() {
        for pair in [f32::NEG_INFINITY, -1.0, -1e-40, -0.0, 0.0, 1e-40, 1.0, f32::INFINITY].windows(2) {
            assert!(<f32 as Weight>::key(pair[0].to_bits()) < <f32 as Weight>::key(pair[1].to_bits()));
        }
        assert_eq!(<f32 as Weight>::key(0.0f32.to_bits()) - <f32 as Weight>::key((-0.0f32).to_bits()), 1);
    }

    /// The share of draws that round up is the distance to the lower neighbour, for every kind of number.
    #[test]
    fn stochastic_rounding_goes_up_as_often_as_it_should() {
        fn share_up<T: Weight>(value: f32) -> f64 {
            let lower = T::stochastic(value, 0);
            let draws = 1 << 16;
            let up = (0..draws).filter(|i| T::stochastic(value, i * 0x1_0001) != lower).count();
            up as f64 / f64::from(draws)
        }
        assert_eq!(share_up::<bf16>(f32::from_bits(0x3F80_4000)), 0.25);
        assert_eq!(share_up::<bf16>(f32::from_bits(0x8000_C000)), 0.75);
        assert_eq!(share_up::<f16>(1.0 + 0.75 / 1024.0), 0.75);
        // 2⁻²⁴ is the smallest f16.
        let smallest = 2f32.powi(-24);
        for fraction in [0.125, 0.5, 0.875] {
            for whole in [0.0, 1.0, 500.0, 1022.0] {
                let share = share_up::<f16>(-(whole + fraction) * smallest);
                assert!((share - f64::from(fraction)).abs() < 1e-4, "{whole} + {fraction}: {share}");
            }
        }
        assert_eq!(f16::stochastic(1e-30, u32::MAX), 0);
        // Half way from the largest value to where the next would be.
        assert_eq!(share_up::<f16>(65520.0), 0.5);
        assert_eq!(f16::stochastic(70000.0, 0), 0x7C00);
        assert_eq!(f16::stochastic(f32::NEG_INFINITY, u32::MAX), 0xFC00);
        assert_eq!(bf16::stochastic(f32::INFINITY, u32::MAX), 0x7F80);
        assert_eq!(bf16::stochastic(f32::NAN, 0), 0x7FFF);
    }
}
