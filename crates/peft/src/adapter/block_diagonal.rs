//! BD-LoRA: A or B consist of blocks on the diagonal, which the file has one above the other.

use super::AdapterLayer;
use super::config::BlockDiagonal;
use super::layer::{PREFIX, names};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Writes out A and B of a module with the zeros beside their blocks.
///
/// # Errors
/// [`Error::Tensor`] if a matrix is not of blocks of the same size, [`Error::Module`] if both are to be.
pub(super) fn write_out(layer: &mut AdapterLayer, module: &str, config: &BlockDiagonal) -> Result<()> {
    let last = module.rsplit('.').next().unwrap_or(module);
    let named = |names: &[String]| names.iter().any(|name| last.contains(name.as_str()));
    let (a_name, b_name) = names(layer.embedding);
    match (named(&config.a), named(&config.b)) {
        (true, true) => Err(Error::module(module, "`use_bdlora` has blocks in both A and B")),
        (true, false) => whole(&mut layer.a, config.blocks, &format!("{PREFIX}{module}.{a_name}")),
        (false, true) => whole(&mut layer.b, config.blocks, &format!("{PREFIX}{module}.{b_name}")),
        (false, false) => Ok(()),
    }
}

/// \[rows, columns / blocks\] becomes \[rows, columns\].
fn whole(matrix: &mut Tensor, blocks: usize, name: &str) -> Result<()> {
    let &[rows, width] = matrix.shape() else {
        return Err(Error::tensor(name, "`use_bdlora` asks for a matrix"));
    };
    if matrix.is_empty() {
        return Ok(());
    }
    if rows % blocks != 0 {
        return Err(Error::tensor(name, format!("has {rows} rows, which are not {blocks} equal blocks")));
    }
    let columns = width.checked_mul(blocks).filter(|columns| columns.checked_mul(rows).is_some());
    let Some(columns) = columns else {
        return Err(Error::tensor(name, format!("has no room for {blocks} blocks")));
    };
    let mut written =
        Tensor::room_for(matrix.dtype(), &[rows, columns], || format!("`{name}` with all its blocks"))?;
    let (size, height) = (matrix.dtype().size(), rows / blocks);
    let bytes = written.bytes_mut();
    for (row, values) in matrix.bytes().chunks(width * size).enumerate() {
        let start = (row * columns + row / height * width) * size;
        bytes[start..start + values.len()].copy_from_slice(values);
    }
    *matrix = written;
    Ok(())
}
