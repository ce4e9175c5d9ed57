//! `mma.sync`: products of fragments that are spread over a warp's registers.
//!
//! Fragment layouts as in the PTX manual, "Matrix multiply-accumulate operation using mma instruction". Products are
//! exact in `f32`, and added to the accumulator one by one from k = 0 upwards: the hardware's order is not specified,
//! this one is the emulator's own choice.

use crate::machine::block::WARP;
use crate::mechanisms::warp::Collective;
use half::{bf16, f16};

/// Types of the two factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operands {
    Bf16,
    F16,
    Tf32,
}

impl Operands {
    pub fn from_ffi(kind: u32) -> Self {
        match kind {
            0 => Operands::Bf16,
            1 => Operands::F16,
            _ => Operands::Tf32,
        }
    }

    /// Length of the sum.
    fn k(self) -> usize {
        match self {
            Operands::Bf16 | Operands::F16 => 16,
            Operands::Tf32 => 8,
        }
    }

    /// Elements in a 32-bit register.
    fn packed(self) -> usize {
        if self == Operands::Tf32 { 1 } else { 2 }
    }

    /// Element `part` of a register.
    pub fn decode(self, register: u32, part: usize) -> f32 {
        let bits = (register >> (16 * part)) as u16;
        match self {
            Operands::Bf16 => bf16::from_bits(bits).to_f32(),
            Operands::F16 => f16::from_bits(bits).to_f32(),
            // The low 13 bits of the mantissa are not read.
            Operands::Tf32 => f32::from_bits(register & !0x1fff),
        }
    }
}

const ROWS: usize = 16;
const COLS: usize = 8;
const MAX_K: usize = 16;

/// D += A·B for the whole warp; returns the number of operations.
pub(crate) fn execute(operands: Operands, collective: &Collective) -> u64 {
    let k = operands.k();
    let packed = operands.packed();
    let half_k = k / 2;
    let mut a = [[0.0f32; MAX_K]; ROWS];
    let mut b = [[0.0f32; COLS]; MAX_K];
    let mut d = [[0.0f32; COLS]; ROWS];
    for lane in 0..WARP {
        let (group, within) = (lane / 4, lane % 4);
        let [d_address, a_address, b_address] = collective.operands[lane].values;
        // SAFETY: the lane waits in its call to `mma`, and its arguments are arrays of these sizes.
        let (a_registers, b_registers, accumulators) = unsafe {
            (
                *(a_address as *const [u32; 4]),
                *(b_address as *const [u32; 2]),
                *(d_address as *const [f32; 4]),
            )
        };
        for (index, register) in a_registers.into_iter().enumerate() {
            for part in 0..packed {
                a[group + index % 2 * 8][within * packed + part + index / 2 * half_k] =
                    operands.decode(register, part);
            }
        }
        for (index, register) in b_registers.into_iter().enumerate() {
            for part in 0..packed {
                b[within * packed + part + index * half_k][group] = operands.decode(register, part);
            }
        }
        for (index, value) in accumulators.into_iter().enumerate() {
            d[group + index / 2 * 8][within * 2 + index % 2] = value;
        }
    }
    for (a_row, d_row) in a.iter().zip(&mut d) {
        for (factor, b_row) in a_row[..k].iter().zip(&b) {
            for (sum, other) in d_row.iter_mut().zip(b_row) {
                *sum += factor * other;
            }
        }
    }
    for lane in 0..WARP {
        let (group, within) = (lane / 4, lane % 4);
        let accumulators: [f32; 4] =
            std::array::from_fn(|index| d[group + index / 2 * 8][within * 2 + index % 2]);
        // SAFETY: as above; the lane's registers are not read by anyone else.
        unsafe { *(collective.operands[lane].values[0] as *mut [f32; 4]) = accumulators };
    }
    (2 * ROWS * COLS * k) as u64
}
