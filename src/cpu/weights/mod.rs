//! Weight updates and deltas on the CPU.

mod delta;
mod factors;
mod identify;
mod kept;
mod pass;
mod row;
mod simd;
mod weight;
mod words;

use super::view::ViewMut;
use crate::fingerprint::Fingerprint;
use crate::ops::{Delta, MergeReport, WeightUpdate};
use crate::restore::{DeltaOrder, Recorded, RestoreMethod, RestoreRecord};
use crate::{DType, MatrixMut, Result, Rounding};
use factors::Factors;
use half::{bf16, f16};
use kept::Kept;
use pass::{KeptWeights, Pass};
use weight::Weight;

pub(super) fn update(op: WeightUpdate<'_>) -> Result<Option<MergeReport>> {
    match op.w.dtype() {
        DType::F32 => run::<f32>(op),
        DType::F16 => run::<f16>(op),
        DType::Bf16 => run::<bf16>(op),
    }
}

pub(super) fn delta(op: Delta<'_>) -> Result<()> {
    let factors = Factors::new(&op.adapter, op.delta.layout().is_transposed())?;
    match op.delta.dtype() {
        DType::F32 => delta::write(&factors, stored::<f32>(op.delta)?),
        DType::F16 => delta::write(&factors, stored::<f16>(op.delta)?),
        DType::Bf16 => delta::write(&factors, stored::<bf16>(op.delta)?),
    }
    Ok(())
}

/// The matrix as it is stored: its rows are contiguous.
fn stored<T: Weight>(matrix: MatrixMut<'_>) -> Result<ViewMut<'_, T>> {
    let transposed = matrix.layout().is_transposed();
    let view = ViewMut::new(matrix)?;
    Ok(if transposed { view.t() } else { view })
}

fn run<T: Weight>(op: WeightUpdate<'_>) -> Result<Option<MergeReport>> {
    let WeightUpdate { w, remove, add, rounding, mut record, report } = op;
    if remove.is_none() && add.is_none() {
        // Nothing to restore or to record either.
        record = None;
        if !report {
            return Ok(None);
        }
    }
    let (shape, transposed) = (w.shape(), w.layout().is_transposed());
    let mut weights = stored::<T>(w)?;
    let mut pass = Pass {
        remove: remove.map(|adapter| Factors::new(&adapter, transposed)).transpose()?,
        add: add.map(|adapter| Factors::new(&adapter, transposed)).transpose()?,
        seed: match rounding {
            Rounding::Nearest => None,
            Rounding::Stochastic { seed } => Some(seed),
        },
        kept: None,
        report,
    };
    let elements = shape.rows as u64 * shape.cols as u64;
    let Some(record) = record else {
        let outcome = pass.run(weights.reborrow(), transposed);
        return Ok(report.then(|| outcome.measured.report(elements)));
    };

    let method = record.method();
    let code_bytes = RestoreRecord::<Vec<u8>>::code_bytes(method, shape, T::DTYPE);
    match &remove {
        Some(adapter) => {
            record.check_code_bytes(record.codes.len() as u64, code_bytes)?;
            record.check(
                identify::adapter(adapter),
                identify::weight(weights.as_view(), transposed),
                identify::codes(&record.codes[..code_bytes]),
            )?;
        }
        None => record.codes = vec![0; code_bytes],
    }
    let bytes_per_weight = match method {
        RestoreMethod::Codes => 1,
        RestoreMethod::Backup => T::DTYPE.size(),
    };
    let old_escapes = std::mem::take(&mut record.escapes);
    let bytes = Kept::new(&mut record.codes, bytes_per_weight);
    pass.kept = Some(KeptWeights { method, bytes, escapes: &old_escapes });
    let outcome = pass.run(weights.reborrow(), transposed);
    drop(pass);

    let [base, new] = outcome.fingerprints;
    let original = if add.is_some() { base } else { new };
    let restored = match remove {
        Some(_) => record.check_restored(original),
        None => Ok(()),
    };
    match add {
        Some(adapter) if restored.is_ok() => {
            let codes = identify::codes(&record.codes);
            let recorded = Recorded {
                shape,
                dtype: T::DTYPE,
                order: DeltaOrder::AscendingFma,
                adapter: identify::adapter(&adapter),
                weight: new,
                original,
                checksum: Fingerprint(0),
            };
            record.renew(recorded, codes, outcome.escapes);
        }
        _ => record.clear(),
    }
    restored?;
    Ok(report.then(|| outcome.measured.report(elements)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Adapter, Backend, Error, Layout, MatrixRef, cpu::Cpu};

    /// SplitMix64.
    pub struct Numbers(pub u64);

    impl Iterator for Numbers {
        type Item = u64;

        fn next(&mut self) -> Option<u64> {
            self.0 = self.0.wrapping_add(crate::fingerprint::PHI);
            Some(crate::fingerprint::mix(self.0))
        }
    }

    /// Where element (i, j) lies.
    pub fn place_at(layout: Layout, i: usize, j: usize) -> usize {
        i * layout.row_stride() + j * layout.col_stride()
    }

    /// A record that contradicts itself, but has the checksum of a whole one: found by what the restored weights are.
    #[test]
    fn what_was_restored_is_compared_with_the_original() {
        let (rows, cols) = (9, 70);
        let base: Vec<bf16> = (0..rows * cols).map(|n| bf16::from_f32(n as f32 * 0.01 - 2.0)).collect();
        let (a, b) = (vec![0.37f32; rows], vec![-0.11f32; cols]);
        let [one, two] = [0.5, 0.7].map(|scale| Adapter {
            a: MatrixRef::new(&a, rows, 1).expect("it fits"),
            b: MatrixRef::new(&b, 1, cols).expect("it fits"),
            scale,
        });
        for switches in [false, true] {
            let mut w = base.clone();
            let mut record: RestoreRecord = RestoreRecord::new(RestoreMethod::Codes);
            let merge = WeightUpdate::merge(MatrixMut::new(&mut w, rows, cols).expect("it fits"), one);
            Cpu::new().update_weights(merge.record(&mut record)).expect("a merge");
            record.falsify_original(identify::codes(&record.codes));
            let w = MatrixMut::new(&mut w, rows, cols).expect("it fits");
            let update = match switches {
                false => WeightUpdate::unmerge(w, one),
                true => WeightUpdate::switch(w, one, two),
            };
            let error = Cpu::new().update_weights(update.record(&mut record)).expect_err("another original");
            assert!(matches!(error, Error::NotRestored), "{error}");
            assert!(record.recorded().is_none(), "a record of neither weight");
        }
    }
}
