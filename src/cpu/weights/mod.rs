//! Weight updates and deltas on the CPU.

mod delta;
mod factors;
mod identify;
mod kept;
mod pass;
mod row;
mod simd;
mod weight;

use crate::memory::HostMut;
use crate::ops::{Delta, MergeReport, WeightUpdate};
use crate::restore::{DeltaOrder, Recorded, RestoreMethod, RestoreRecord};
use crate::{Adapter, Layout, Result, Rounding};
use factors::Factors;
use kept::Kept;
use pass::{KeptWeights, Pass};
use weight::Weight;

pub(super) fn update(op: WeightUpdate<'_>) -> Result<Option<MergeReport>> {
    let WeightUpdate { w, remove, add, rounding, record, report } = op;
    let layout = w.layout();
    let update = Update { layout, remove, add, rounding, record, report };
    match w.into_buffer() {
        HostMut::F32(weights) => update.run(weights),
        HostMut::F16(weights) => update.run(weights),
        HostMut::Bf16(weights) => update.run(weights),
    }
}

pub(super) fn delta(op: Delta<'_>) -> Result<()> {
    let layout = op.delta.layout();
    let factors = Factors::new(&op.adapter, layout.is_transposed());
    match op.delta.into_buffer() {
        HostMut::F32(target) => delta::write(&factors, target, layout),
        HostMut::F16(target) => delta::write(&factors, target, layout),
        HostMut::Bf16(target) => delta::write(&factors, target, layout),
    }
    Ok(())
}

/// A [`WeightUpdate`] without its weights.
struct Update<'a> {
    layout: Layout,
    remove: Option<Adapter<'a>>,
    add: Option<Adapter<'a>>,
    rounding: Rounding,
    record: Option<&'a mut RestoreRecord>,
    report: bool,
}

impl Update<'_> {
    fn run<T: Weight>(mut self, weights: &mut [T]) -> Result<Option<MergeReport>> {
        let shape = self.layout.shape();
        if self.remove.is_none() && self.add.is_none() {
            // Nothing to restore or to record either.
            self.record = None;
            if !self.report {
                return Ok(None);
            }
        }
        let mut old_escapes = Vec::new();
        if let Some(record) = &mut self.record {
            let code_bytes = RestoreRecord::<Vec<u8>>::code_bytes(record.method(), shape, T::DTYPE);
            match &self.remove {
                Some(adapter) => {
                    record.check_fingerprints(
                        identify::adapter(adapter),
                        identify::weight(weights, self.layout),
                    )?;
                    record.check_codes(code_bytes)?;
                    old_escapes = std::mem::take(&mut record.escapes);
                }
                None => record.codes = vec![0; code_bytes],
            }
        }
        let transposed = self.layout.is_transposed();
        let pass = Pass {
            remove: self.remove.map(|adapter| Factors::new(&adapter, transposed)),
            add: self.add.map(|adapter| Factors::new(&adapter, transposed)),
            seed: match self.rounding {
                Rounding::Nearest => None,
                Rounding::Stochastic { seed } => Some(seed),
            },
            kept: self.record.as_mut().map(|record| {
                let method = record.method();
                let bytes_per_weight = match method {
                    RestoreMethod::Codes => 1,
                    RestoreMethod::Backup => T::DTYPE.size(),
                };
                let bytes = Kept::new(&mut record.codes, bytes_per_weight);
                KeptWeights { method, bytes, escapes: &old_escapes }
            }),
            report: self.report,
        };
        let outcome = pass.run(weights, self.layout);
        if let Some(record) = self.record {
            match self.add {
                None => record.clear(),
                Some(adapter) => record.renew(
                    Recorded {
                        shape,
                        dtype: T::DTYPE,
                        order: DeltaOrder::AscendingFma,
                        adapter: identify::adapter(&adapter),
                        weight: identify::weight(weights, self.layout),
                    },
                    outcome.escapes,
                ),
            }
        }
        let elements = shape.rows as u64 * shape.cols as u64;
        Ok(self.report.then(|| outcome.measured.report(elements)))
    }
}
