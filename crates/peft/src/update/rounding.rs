//! From `f64` to the weight's type, once, and how far that is off.

use crate::tensor::{Tensor, each_type};
use half::{bf16, f16};
use lora_kernels::{Element, MergeReport, Rounding};

/// The same random numbers must not be used for every weight of a model.
pub(crate) fn reseed(rounding: Rounding, stream: u64) -> Rounding {
    match rounding {
        Rounding::Nearest => Rounding::Nearest,
        Rounding::Stochastic { seed } => {
            Rounding::Stochastic { seed: seed ^ stream.wrapping_mul(0x9E37_79B9_7F4A_7C15) }
        }
    }
}

/// A number for a tensor's name (FNV-1a).
pub(crate) fn name_stream(name: &str) -> u64 {
    name.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// The report of two updates together.
pub(crate) fn joined(one: &MergeReport, two: &MergeReport) -> MergeReport {
    let finite = |report: &MergeReport| (report.elements - report.non_finite) as f64;
    let count = finite(one) + finite(two);
    let squares = |report: &MergeReport| report.rms_error * report.rms_error * finite(report);
    MergeReport {
        elements: one.elements + two.elements,
        unchanged: one.unchanged + two.unchanged,
        max_error: one.max_error.max(two.max_error),
        rms_error: if count > 0.0 { ((squares(one) + squares(two)) / count).sqrt() } else { 0.0 },
        non_finite: one.non_finite + two.non_finite,
    }
}

/// What rounding did to the elements seen so far.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    elements: u64,
    unchanged: u64,
    non_finite: u64,
    max_error: f64,
    squares: f64,
}

impl Measured {
    fn add(&mut self, unchanged: bool, new: f64, exact: f64) {
        self.elements += 1;
        self.unchanged += u64::from(unchanged);
        if new.is_finite() {
            let error = (new - exact).abs();
            self.max_error = self.max_error.max(error);
            self.squares += error * error;
        } else {
            self.non_finite += 1;
        }
    }

    pub fn report(&self) -> MergeReport {
        let finite = self.elements - self.non_finite;
        MergeReport {
            elements: self.elements,
            unchanged: self.unchanged,
            max_error: self.max_error,
            rms_error: if finite > 0 { (self.squares / finite as f64).sqrt() } else { 0.0 },
            non_finite: self.non_finite,
        }
    }
}

/// Element types and their one rounding from `f64`.
trait Rounded: Element {
    fn rounded(exact: f64) -> Self;
}

impl Rounded for f32 {
    fn rounded(exact: f64) -> Self {
        exact as f32
    }
}

impl Rounded for f16 {
    fn rounded(exact: f64) -> Self {
        f16::from_f64(exact)
    }
}

impl Rounded for bf16 {
    fn rounded(exact: f64) -> Self {
        bf16::from_f64(exact)
    }
}

fn round<T: Rounded>(values: &mut [T], exact: &[f64], mut measured: Option<&mut Measured>) {
    for (value, exact) in values.iter_mut().zip(exact) {
        let new = T::rounded(*exact);
        if let Some(measured) = &mut measured {
            let unchanged = bytemuck::bytes_of(&new) == bytemuck::bytes_of(value);
            measured.add(unchanged, f64::from(new.to_f32()), *exact);
        }
        *value = new;
    }
}

/// Stores `f64` values in a tensor, each rounded once.
pub(crate) fn round_into(tensor: &mut Tensor, exact: &[f64]) {
    round_block(tensor, 0, exact, None);
}

/// [`round_into`] for the elements from `start` on.
pub(crate) fn round_block(tensor: &mut Tensor, start: usize, exact: &[f64], measured: Option<&mut Measured>) {
    let range = start..start + exact.len();
    each_type!(tensor.values_mut(), values => round(&mut values[range], exact, measured));
}
