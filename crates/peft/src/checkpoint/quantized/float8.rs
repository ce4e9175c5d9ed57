//! Numbers of eight bits (Micikevicius et al., arXiv 2209.05433; OCP Microscaling Formats 1.0).

use half::f16;

/// 4 bits of exponent, 3 of mantissa; no infinities.
pub(crate) fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The upper half of an `f16`.
pub(crate) fn e5m2(byte: u8) -> f32 {
    f16::from_bits(u16::from(byte) << 8).to_f32()
}

/// A power of two: 2^(byte − 127).
pub(crate) fn e8m0(byte: u8) -> f32 {
    match byte {
        255 => f32::NAN,
        0 => f32::from_bits(1 << 22),
        _ => f32::from_bits(u32::from(byte) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_formats() {
        for (byte, value) in
            [(0, 0.0), (1, 2f32.powi(-9)), (0x08, 2f32.powi(-6)), (0x38, 1.0), (0xb9, -1.125), (0x7e, 448.0)]
        {
            assert_eq!(e4m3(byte), value, "{byte:#x}");
        }
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        for (byte, value) in [(0, 0.0), (0x3c, 1.0), (0xc1, -2.5), (0x7b, 57344.0)] {
            assert_eq!(e5m2(byte), value, "{byte:#x}");
        }
        for (byte, value) in [(0, 2f32.powi(-127)), (1, 2f32.powi(-126)), (127, 1.0), (254, 2f32.powi(127))] {
            assert_eq!(e8m0(byte), value, "{byte}");
        }
        assert!(e8m0(255).is_nan());
    }
}
