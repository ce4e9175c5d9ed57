//! Updates that keep a record, and those that a record takes back: block by block, so that no more than one block's
//! escapes are in memory, and a block that codes do not suit is kept as it was instead.

use super::{Concatenated, HostBackend, Term, UpdateOptions, joined, one_kind, reseed, slices};
use crate::checkpoint::LayerKind;
use crate::tensor::{Tensor, each_type};
use crate::{Error, Result};
use lora_kernels::memory::HostMut;
use lora_kernels::restore::{RestoreMethod, RestoreRecord};
use lora_kernels::{Adapter as Factors, Layout, MatrixMut, MergeReport, Rounding, WeightUpdate};
use std::ops::Range;

/// Elements of a block, but no less than a row: enough for all threads, and with 16 bytes for each element, should all
/// escape, little beside the weights of large models.
const BLOCK: usize = 1 << 22;

/// Bytes of an escape in a record's file.
const ESCAPE_BYTES: usize = 12;

/// Adds adapters to a weight as [`update`](super::update) does, and records what rounding loses: a record for each block
/// of rows as the weight is stored, matrix by matrix.
///
/// Blocks whose codes and escapes would take more than the old weights are kept as those, and so are matrices of several
/// blocks that are rounded stochastically: their draws depend on an element's place in the whole matrix.
///
/// # Errors
/// The factors do not fit.
pub(crate) fn merge_recorded(
    backend: &HostBackend<'_>,
    weight: &mut Tensor,
    add: &[Term<'_>],
    options: UpdateOptions,
    method: RestoreMethod,
) -> Result<(Option<MergeReport>, Vec<RestoreRecord>)> {
    merge_in_blocks(backend, weight, add, options, method, BLOCK)
}

fn merge_in_blocks(
    backend: &HostBackend<'_>,
    weight: &mut Tensor,
    add: &[Term<'_>],
    options: UpdateOptions,
    method: RestoreMethod,
    block: usize,
) -> Result<(Option<MergeReport>, Vec<RestoreRecord>)> {
    let Some(kind) = one_kind(add)? else { return Ok((None, Vec::new())) };
    let (matrices, rows, columns) = slices(kind, weight);
    let step = (block / columns.max(1)).max(1);
    let (step, method) = match options.rounding {
        Rounding::Stochastic { .. } if rows > step => (rows, RestoreMethod::Backup),
        _ => (step, method),
    };
    let mut records = Vec::new();
    let mut total: Option<MergeReport> = None;
    for matrix in 0..matrices {
        let factors = Concatenated::new(add, matrix);
        let options = UpdateOptions { rounding: reseed(options.rounding, matrix as u64), ..options };
        for start in (0..rows).step_by(step) {
            let block = Block { kind, matrix, rows: start..rows.min(start + step), columns };
            let (report, record) = block.merge(backend, weight, &factors, options, method)?;
            records.push(record);
            total = together(total, report);
        }
    }
    Ok((total, records))
}

/// Takes adapters out of a weight again, with the records that [`merge_recorded`] gave.
///
/// # Errors
/// The factors do not fit, or the records are of other weights or adapters.
pub(crate) fn unmerge_recorded(
    backend: &HostBackend<'_>,
    weight: &mut Tensor,
    remove: &[Term<'_>],
    records: Vec<RestoreRecord>,
) -> Result<()> {
    let kind = one_kind(remove)?
        .ok_or_else(|| Error::Record("it is of a weight that none of the adapters changes".into()))?;
    let (matrices, rows, columns) = slices(kind, weight);
    let unfit = || Error::Record(format!("its parts are not those of a weight {:?}", weight.shape()));
    let mut blocks = Vec::new();
    let mut position = (0usize, 0usize);
    for record in records {
        let recorded = record.recorded().ok_or_else(unfit)?.shape;
        let count = if kind.is_input_major() { recorded.rows } else { recorded.cols };
        let (matrix, start) = position;
        let end = start.checked_add(count).filter(|&end| matrix < matrices && end <= rows && count > 0);
        let end = end.ok_or_else(unfit)?;
        blocks.push((Block { kind, matrix, rows: start..end, columns }, record));
        position = if end == rows { (matrix + 1, 0) } else { (matrix, end) };
    }
    if position != (matrices, 0) {
        return Err(unfit());
    }
    for blocks in blocks.chunk_by_mut(|(one, _), (two, _)| one.matrix == two.matrix) {
        let factors = Concatenated::new(remove, blocks[0].0.matrix);
        for (block, record) in blocks {
            block.update(backend, weight, (Some(&factors), None), UpdateOptions::default(), record)?;
        }
    }
    Ok(())
}

/// Rows of one of a weight's matrices, as it is stored.
struct Block {
    kind: LayerKind,
    matrix: usize,
    rows: Range<usize>,
    columns: usize,
}

impl Block {
    fn merge(
        &self,
        backend: &HostBackend<'_>,
        weight: &mut Tensor,
        add: &Concatenated<'_>,
        options: UpdateOptions,
        method: RestoreMethod,
    ) -> Result<(Option<MergeReport>, RestoreRecord)> {
        let mut record = RestoreRecord::new(method);
        if method == RestoreMethod::Backup {
            let report = self.update(backend, weight, (None, Some(add)), options, &mut record)?;
            return Ok((report, record));
        }
        let bytes = self.bytes(weight);
        let before = weight.bytes()[bytes.clone()].to_vec();
        let report = self.update(backend, weight, (None, Some(add)), options, &mut record)?;
        if record.codes().len() + ESCAPE_BYTES * record.escapes().len() <= before.len() {
            return Ok((report, record));
        }
        drop(record);
        weight.bytes_mut()[bytes].copy_from_slice(&before);
        self.merge(backend, weight, add, options, RestoreMethod::Backup)
    }

    fn update(
        &self,
        backend: &HostBackend<'_>,
        weight: &mut Tensor,
        (remove, add): (Option<&Concatenated<'_>>, Option<&Concatenated<'_>>),
        options: UpdateOptions,
        record: &mut RestoreRecord,
    ) -> Result<Option<MergeReport>> {
        Ok(backend.update_weights(WeightUpdate {
            w: self.matrix(weight)?,
            remove: remove.map(|factors| self.factors(factors)).transpose()?,
            add: add.map(|factors| self.factors(factors)).transpose()?,
            rounding: options.rounding,
            record: Some(record),
            report: options.report,
        })?)
    }

    fn factors<'f>(&self, factors: &'f Concatenated<'_>) -> Result<Factors<'f>> {
        match self.kind.is_input_major() {
            true => factors.block(self.rows.clone(), 0..self.columns),
            false => factors.block(0..self.columns, self.rows.clone()),
        }
    }

    fn elements(&self, weight: &Tensor) -> Range<usize> {
        let (_, rows, columns) = slices(self.kind, weight);
        let first = self.matrix * rows;
        (first + self.rows.start) * columns..(first + self.rows.end) * columns
    }

    fn bytes(&self, weight: &Tensor) -> Range<usize> {
        let (elements, size) = (self.elements(weight), weight.dtype().size());
        elements.start * size..elements.end * size
    }

    /// As W \[in, out\].
    fn matrix<'w>(&self, weight: &'w mut Tensor) -> Result<MatrixMut<'w>> {
        let elements = self.elements(weight);
        let buffer = each_type!(weight.values_mut(), values => HostMut::new(&mut values[elements]));
        let layout = Layout::strided(self.rows.len(), self.columns, self.columns)?;
        let matrix = MatrixMut::from_buffer(buffer, layout)?;
        Ok(if self.kind.is_input_major() { matrix } else { matrix.t() })
    }
}

/// The report of two parts of one update.
pub(super) fn together(one: Option<MergeReport>, two: Option<MergeReport>) -> Option<MergeReport> {
    match (one, two) {
        (Some(one), Some(two)) => Some(joined(&one, &two)),
        (one, two) => two.or(one),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::AdapterLayer;
    use crate::binding::Site;
    use crate::update::update;
    use half::bf16;
    use lora_kernels::DType;
    use lora_kernels::cpu::Cpu;

    const RANK: usize = 3;

    fn site_and_layer(kind: LayerKind, shape: &[usize]) -> (Site, AdapterLayer) {
        let (matrices, rows, columns) = match *shape {
            [matrices, rows, columns] => (matrices, rows, columns),
            _ => (1, shape[0], shape[1]),
        };
        let (out, input) = if kind.is_input_major() { (columns, rows) } else { (rows, columns) };
        let values = |seed: usize, len: usize| {
            (0..len).map(|i| ((i * 31 + seed * 17) % 101) as f32 / 1000.0 - 0.05).collect::<Vec<f32>>()
        };
        let layer = AdapterLayer {
            a: Tensor::of(&[RANK * matrices, input], values(1, RANK * matrices * input)),
            b: Tensor::of(&[out, RANK * matrices], values(2, out * RANK * matrices)),
            bias: None,
            magnitude: None,
            embedding: kind == LayerKind::Embedding,
        };
        let (name, weight) = ("layer".to_owned(), "layer.weight".to_owned());
        (Site { layer: name, weight, bias: None, kind, rank: RANK, scale: 0.7 }, layer)
    }

    /// Every other stretch of rows is zero: codes suit some blocks and not others.
    fn weight(shape: &[usize], dtype: DType) -> Tensor {
        let len: usize = shape.iter().product();
        let stretch = 4 * shape[shape.len() - 1];
        let value =
            |i: usize| if (i / stretch).is_multiple_of(2) { 0.0 } else { ((i * 7) % 97) as f32 / 50.0 - 1.0 };
        Tensor::of(shape, (0..len).map(value).collect()).cast(dtype)
    }

    const KINDS: [(LayerKind, &[usize]); 5] = [
        (LayerKind::Linear, &[23, 18]),
        (LayerKind::TransposedLinear, &[23, 18]),
        (LayerKind::Embedding, &[23, 18]),
        (LayerKind::Experts, &[3, 23, 18]),
        (LayerKind::TransposedExperts, &[3, 23, 18]),
    ];

    #[test]
    fn blocks_give_the_bits_of_the_whole_and_take_them_back() {
        for (kind, shape) in KINDS {
            for dtype in [DType::F32, DType::F16, DType::Bf16] {
                let (site, layer) = site_and_layer(kind, shape);
                let terms = [Term { weight: 1.5, ..Term::new(&site, &layer) }];
                let before = weight(shape, dtype);
                let options = UpdateOptions { report: true, ..Default::default() };
                let mut whole = before.clone();
                let expected = update(&Cpu::new(), &mut whole, &[], &terms, options).unwrap().unwrap();
                for block in [1, 4 * shape[1], 7 * 18, BLOCK] {
                    for method in [RestoreMethod::Codes, RestoreMethod::Backup] {
                        let mut found = before.clone();
                        let cpu = &mut Cpu::new();
                        let (report, records) =
                            merge_in_blocks(cpu, &mut found, &terms, options, method, block).unwrap();
                        assert_eq!(found.bytes(), whole.bytes(), "{kind:?} {dtype:?} in blocks of {block}");
                        let report = report.unwrap();
                        assert_eq!(
                            (report.elements, report.unchanged, report.max_error),
                            (expected.elements, expected.unchanged, expected.max_error)
                        );
                        unmerge_recorded(cpu, &mut found, &terms, records).unwrap();
                        assert_eq!(found.bytes(), before.bytes(), "{kind:?} {dtype:?} in blocks of {block}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_record_never_takes_more_than_the_weights() {
        let shape = [32, 64];
        let (site, layer) = site_and_layer(LayerKind::Linear, &shape);
        // Δ is so large that what rounding leaves of it is far from zero in every type.
        let terms = [Term { weight: 100.0, ..Term::new(&site, &layer) }];
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let zeros = Tensor::zeros(dtype, &shape);
            let half = weight(&shape, dtype);
            let ordinary =
                Tensor::of(&shape, (0..2048).map(|i| 1.0 + i as f32 / 2048.0).collect::<Vec<f32>>());
            // Blocks of four rows: all, half and none of them are zero.
            for (weight, kept) in [(zeros, 8), (half, 4), (ordinary.cast(dtype), 0)] {
                let (_, records) = merge_in_blocks(
                    &Cpu::new(),
                    &mut weight.clone(),
                    &terms,
                    UpdateOptions::default(),
                    RestoreMethod::Codes,
                    4 * shape[1],
                )
                .unwrap();
                let backups =
                    records.iter().filter(|record| record.method() == RestoreMethod::Backup).count();
                assert_eq!((records.len(), backups), (8, kept), "{dtype:?}");
                let bytes: usize = records
                    .iter()
                    .map(|record| record.codes().len() + ESCAPE_BYTES * record.escapes().len())
                    .sum();
                assert!(bytes <= weight.bytes().len(), "{bytes} bytes for {dtype:?}");
            }
        }
    }

    #[test]
    fn stochastic_draws_are_those_of_the_whole_matrix() {
        for (kind, shape) in KINDS {
            let (site, layer) = site_and_layer(kind, shape);
            let terms = [Term::new(&site, &layer)];
            let len: usize = shape.iter().product();
            let values = (0..len).map(|i| bf16::from_f32(1.0 + i as f32 / len as f32)).collect();
            let before = Tensor::of(shape, values);
            let options = UpdateOptions { rounding: Rounding::Stochastic { seed: 9 }, ..Default::default() };
            let cpu = &mut Cpu::new();
            let mut whole = before.clone();
            update(cpu, &mut whole, &[], &terms, options).unwrap();
            for (block, method) in [(4 * shape[1], RestoreMethod::Backup), (BLOCK, RestoreMethod::Codes)] {
                let mut found = before.clone();
                let (_, records) =
                    merge_in_blocks(cpu, &mut found, &terms, options, RestoreMethod::Codes, block).unwrap();
                assert_eq!(found.bytes(), whole.bytes(), "{kind:?} in blocks of {block}");
                assert!(records.iter().any(|record| record.method() == method), "{kind:?}");
                unmerge_recorded(cpu, &mut found, &terms, records).unwrap();
                assert_eq!(found.bytes(), before.bytes(), "{kind:?}");
            }
        }
    }

    #[test]
    fn records_of_other_parts_are_refused() {
        let shape = [23, 18];
        let (site, layer) = site_and_layer(LayerKind::Linear, &shape);
        let terms = [Term::new(&site, &layer)];
        let cpu = &mut Cpu::new();
        let mut merged = Tensor::of(&shape, vec![bf16::ONE; 23 * 18]);
        let options = UpdateOptions::default();
        let (_, records) =
            merge_in_blocks(cpu, &mut merged, &terms, options, RestoreMethod::Codes, 5 * 18).unwrap();
        let mut swapped = records.clone();
        swapped.swap(0, 1);
        let mut more = records.clone();
        more.push(records[0].clone());
        for wrong in [Vec::new(), records[1..].to_vec(), swapped, more, vec![RestoreRecord::default(); 5]] {
            assert!(unmerge_recorded(cpu, &mut merged.clone(), &terms, wrong).is_err());
        }
        assert!(unmerge_recorded(cpu, &mut merged.clone(), &[], records).is_err());
    }
}
