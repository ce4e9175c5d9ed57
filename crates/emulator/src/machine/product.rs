//! The frozen layer's product, which the library's executor gives to cuBLASLt: plain loops here.

use crate::fault::{FaultKind, RawFault};
use crate::memory::clock::{Actor, Clocks};
use crate::memory::global::{Buffer, GlobalMemory};
use crate::memory::shadow::{Access, AccessKind, Fresh};
use half::{bf16, f16};
use lora_kernels::DType;
use lora_kernels::cuda::step::{F32Math, Operand, Product};

/// C ← A·B + β·C with `f32` sums in ascending k.
pub(crate) fn run(memory: &mut GlobalMemory, product: &Product) -> Result<(), RawFault> {
    let Product { a, b, c, dtype, accumulate, f32_math } = *product;
    if a.rows != c.rows || b.cols != c.cols || a.cols != b.rows {
        return Err(RawFault::new(
            FaultKind::InvalidLaunch,
            format!("a product of shapes that do not fit: {product:?}"),
        ));
    }
    let (m, n, k) = (c.rows as usize, c.cols as usize, a.cols as usize);
    memory.next_launch(1, false);
    let clocks = Clocks::new(0, 0, false, 1);
    let mut left = load(memory, &clocks, "A", &a, dtype)?;
    let mut right = load(memory, &clocks, "B", &b, dtype)?;
    if dtype == DType::F32 && f32_math == F32Math::Tf32 {
        left.iter_mut().chain(&mut right).for_each(|value| *value = to_tf32(*value));
    }
    let mut sums = if accumulate { load(memory, &clocks, "C", &c, dtype)? } else { vec![0.0; m * n] };
    let earlier = if accumulate { sums.clone() } else { Vec::new() };
    sums.fill(0.0);
    for (row, sums) in left.chunks_exact(k.max(1)).zip(sums.chunks_exact_mut(n.max(1))) {
        for (factor, others) in row.iter().zip(right.chunks_exact(n.max(1))) {
            for (sum, other) in sums.iter_mut().zip(others) {
                *sum += factor * other;
            }
        }
    }
    for (sum, earlier) in sums.iter_mut().zip(&earlier) {
        *sum += earlier;
    }
    store(memory, &clocks, &c, dtype, &sums)
}

/// Rounded to the 10-bit mantissa of TF32, ties away from zero.
fn to_tf32(value: f32) -> f32 {
    if value.is_finite() { f32::from_bits((value.to_bits() + 0x1000) & !0x1fff) } else { value }
}

/// The stored lines of a matrix: how many, and how many elements each has.
fn stored(operand: &Operand) -> (usize, usize) {
    let (rows, cols) = (operand.rows as usize, operand.cols as usize);
    if operand.transposed { (cols, rows) } else { (rows, cols) }
}

fn line_address(operand: &Operand, line: usize, dtype: DType) -> u64 {
    operand.address + line as u64 * operand.stride * dtype.size() as u64
}

/// Position of element `index` of stored line `line` in a packed row-major matrix.
fn position(operand: &Operand, line: usize, index: usize) -> usize {
    let cols = operand.cols as usize;
    if operand.transposed { index * cols + line } else { line * cols + index }
}

fn load(
    memory: &mut GlobalMemory,
    clocks: &Clocks,
    name: &str,
    operand: &Operand,
    dtype: DType,
) -> Result<Vec<f32>, RawFault> {
    let (lines, length) = stored(operand);
    let mut values = vec![0.0; lines * length];
    let bytes = length * dtype.size();
    let mut line_bytes = vec![0u8; bytes];
    for line in 0..if length == 0 { 0 } else { lines } {
        let address = line_address(operand, line, dtype);
        let out_of_bounds = |error: crate::memory::global::OutOfBounds| {
            RawFault::new(
                FaultKind::OutOfBounds,
                format!("a product reads {bytes} bytes of {name} {}", error.0),
            )
        };
        let (buffer, offset) = memory.locate(address as usize, bytes).map_err(out_of_bounds)?;
        if let Some(byte) = buffer.shadow.first_unwritten(offset, bytes) {
            return Err(RawFault::new(
                FaultKind::NeverWritten,
                format!(
                    "a product reads byte {byte} of `{}` as {name}, which nobody has written",
                    buffer.name
                ),
            ));
        }
        record(buffer, clocks, offset, bytes, AccessKind::READ);
        let fresh = Fresh { read: bytes as u64, written: 0 };
        buffer.traffic.add(false, bytes as u64, fresh, bytes.div_ceil(32) as u64);
        memory.read(address, &mut line_bytes).map_err(out_of_bounds)?;
        for (index, element) in line_bytes.chunks_exact(dtype.size()).enumerate() {
            values[position(operand, line, index)] = match (dtype, element) {
                (DType::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
                (DType::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
                (DType::Bf16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
                _ => f32::NAN,
            };
        }
    }
    Ok(values)
}

/// Notes an access of the library's kernel, for kernels that may overlap with it.
fn record(buffer: &mut Buffer, clocks: &Clocks, offset: usize, bytes: usize, kind: AccessKind) {
    let access = Access { actor: Actor::new(0, 0), count: clocks.now(0), site: 0, kind };
    // The first access of a launch conflicts with nothing, and that what is read was written is known.
    let _ = buffer.shadow.access(offset, bytes, &access, clocks, 0);
}

fn store(
    memory: &mut GlobalMemory,
    clocks: &Clocks,
    operand: &Operand,
    dtype: DType,
    values: &[f32],
) -> Result<(), RawFault> {
    let (lines, length) = stored(operand);
    for line in 0..if length == 0 { 0 } else { lines } {
        let mut bytes = Vec::with_capacity(length * dtype.size());
        for index in 0..length {
            let value = values[position(operand, line, index)];
            match dtype {
                DType::F32 => bytes.extend(value.to_le_bytes()),
                DType::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
                DType::Bf16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
            }
        }
        let address = line_address(operand, line, dtype);
        memory.write(address, &bytes).map_err(|error| {
            RawFault::new(
                FaultKind::OutOfBounds,
                format!("a product writes {} bytes of C {}", bytes.len(), error.0),
            )
        })?;
        if let Ok((buffer, offset)) = memory.locate(address as usize, bytes.len()) {
            record(buffer, clocks, offset, bytes.len(), AccessKind::WRITE);
            let length = bytes.len() as u64;
            buffer.traffic.add(true, length, Fresh { read: 0, written: length }, length.div_ceil(32));
        }
    }
    Ok(())
}
