//! `ldmatrix` and `stmatrix`: 8×8 matrices of 16-bit elements between shared memory and a warp's registers.
//!
//! Lane i names row i % 8 of matrix i / 8. In registers, lane i holds elements 2·(i % 4) and the next of row i / 4; of
//! column i / 4 if transposed.

use crate::fault::{FaultKind, RawFault};
use crate::machine::block::WARP;
use crate::machine::caller::Caller;
use crate::mechanisms::warp::Collective;
use crate::memory::access::{Request, check_as};
use crate::memory::shadow::AccessKind;

const ROW_BYTES: usize = 16;
type Matrix = [[u16; 8]; 8];

/// Checks that a lane's row is 16 aligned bytes of shared memory, and records the access.
fn check_row(
    caller: &mut Caller<'_>,
    warp: usize,
    collective: &Collective,
    lane: usize,
    kind: AccessKind,
) -> Result<usize, RawFault> {
    let operand = &collective.operands[lane];
    let row = operand.values[1] as usize;
    if caller.block.shared.window_address(row).is_none() {
        return Err(RawFault::new(
            FaultKind::OutOfBounds,
            format!("{}: lane {lane}'s row is not in shared memory", collective.kind),
        ));
    }
    let request = Request::new(row, ROW_BYTES, kind);
    check_as(caller.launch, caller.block, warp * WARP + lane, operand.pc, &request)?;
    Ok(row)
}

/// Passes over shared memory beyond the first for the eight rows of a matrix: rows in the same banks take turns.
fn bank_conflicts(rows: &[usize; 8]) -> u64 {
    const ROWS_IN_ALL_BANKS: usize = 8;
    let mut passes = [0u64; ROWS_IN_ALL_BANKS];
    for (index, row) in rows.iter().enumerate() {
        if !rows[..index].contains(row) {
            passes[row / ROW_BYTES % ROWS_IN_ALL_BANKS] += 1;
        }
    }
    passes.into_iter().max().unwrap_or(1) - 1
}

/// The element that lane `lane` holds in half `part` of its register, as (row, column).
fn element(lane: usize, part: usize, transposed: bool) -> (usize, usize) {
    let (group, within) = (lane / 4, lane % 4 * 2 + part);
    if transposed { (within, group) } else { (group, within) }
}

pub(crate) fn load(
    caller: &mut Caller<'_>,
    warp: usize,
    collective: &Collective,
    matrices: usize,
    transposed: bool,
) -> Result<(), RawFault> {
    for index in 0..matrices {
        let mut matrix: Matrix = [[0; 8]; 8];
        let mut rows = [0; 8];
        for (row, elements) in matrix.iter_mut().enumerate() {
            let address = check_row(caller, warp, collective, index * 8 + row, AccessKind::READ)?;
            // SAFETY: checked: 16 aligned bytes of the block's shared memory.
            *elements = unsafe { *(address as *const [u16; 8]) };
            rows[row] = address;
        }
        caller.launch.work.matrix_bank_conflicts += bank_conflicts(&rows);
        for lane in 0..WARP {
            let [low, high] = [0, 1].map(|part| {
                let (row, column) = element(lane, part, transposed);
                u32::from(matrix[row][column])
            });
            let registers = collective.operands[lane].values[0] as *mut u32;
            // SAFETY: the lane waits in its call, and gave room for `matrices` registers.
            unsafe { *registers.add(index) = low | high << 16 };
        }
    }
    Ok(())
}

pub(crate) fn store(
    caller: &mut Caller<'_>,
    warp: usize,
    collective: &Collective,
    matrices: usize,
    transposed: bool,
) -> Result<(), RawFault> {
    for index in 0..matrices {
        let mut matrix: Matrix = [[0; 8]; 8];
        for lane in 0..WARP {
            let registers = collective.operands[lane].values[0] as *const u32;
            // SAFETY: the lane waits in its call, and gave `matrices` registers.
            let register = unsafe { *registers.add(index) };
            for part in 0..2 {
                let (row, column) = element(lane, part, transposed);
                matrix[row][column] = (register >> (16 * part)) as u16;
            }
        }
        let mut rows = [0; 8];
        for (row, elements) in matrix.iter().enumerate() {
            let address = check_row(caller, warp, collective, index * 8 + row, AccessKind::WRITE)?;
            // SAFETY: checked: 16 aligned bytes of the block's shared memory.
            unsafe { *(address as *mut [u16; 8]) = *elements };
            rows[row] = address;
        }
        caller.launch.work.matrix_bank_conflicts += bank_conflicts(&rows);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_in_the_same_banks_take_turns() {
        assert_eq!(bank_conflicts(&std::array::from_fn(|row| row * 144)), 0);
        assert_eq!(bank_conflicts(&std::array::from_fn(|row| row * 128)), 7);
        assert_eq!(bank_conflicts(&std::array::from_fn(|row| row * 64)), 3);
        assert_eq!(bank_conflicts(&[256; 8]), 0);
    }
}
