//! Weight updates, deltas and fingerprints.

use super::Engine;
use crate::cuda::arguments::weights::{EscapeEntry, MeasuredPart, Sums};
use crate::cuda::executor::Executor;
use crate::cuda::plan::weights::{self as plan, RawCodes, UpdateMemory};
use crate::cuda::step::{Step, Zero};
use crate::fingerprint::{self, Fingerprint};
use crate::memory::Raw;
use crate::ops::{Delta, MergeReport, WeightUpdate};
use crate::restore::{CodeSums, DeltaOrder, Escape, Recorded, RestoreMethod, RestoreRecord};
use crate::{Adapter, Error, Result};

impl<E: Executor> Engine<E> {
    /// Merges, unmerges or switches on raw device memory. A record that is given must have room for its codes:
    /// [`RestoreRecord::code_bytes`].
    ///
    /// A record or a report is finished on the host, so asking for either waits for the stream. Recording with
    /// [`RestoreMethod::Codes`] reads W twice: a first launch finds the weights that need an escape entry.
    ///
    /// # Safety
    /// Every view and the record's codes must name live memory of the executor's device, and must not overlap.
    ///
    /// # Errors
    /// An argument or the record does not fit, more weights need an escape entry than there is room for
    /// ([`Error::TooManyEscapes`]), the restored weights are not the original ones ([`Error::NotRestored`]), or the executor
    /// failed. Only in the last two cases may anything have been written.
    pub unsafe fn update_weights(
        &mut self,
        mut op: WeightUpdate<'_, Raw, RawCodes>,
    ) -> Result<Option<MergeReport>> {
        op.check()?;
        let mut record = op.record.take();
        if op.remove.is_none() && op.add.is_none() {
            // Nothing to restore or to record either.
            record = None;
            if !op.report {
                return Ok(None);
            }
        }
        match record {
            None => {
                let memory = match op.report {
                    true => self.update_memory(&op, None, 0)?,
                    false => UpdateMemory::default(),
                };
                self.executor.run(&plan::update(&op, None, &memory, false)?)?;
                self.report(&op, &memory)
            }
            Some(record) => self.update_with_record(&op, record),
        }
    }

    /// Writes s·A·B to raw device memory.
    ///
    /// # Safety
    /// Every view must name live memory of the executor's device, and the output must not overlap anything else.
    ///
    /// # Errors
    /// An argument does not fit, or the executor failed.
    pub unsafe fn delta(&mut self, op: Delta<'_, Raw>) -> Result<()> {
        op.check()?;
        self.executor.run(&plan::delta(&op)?)
    }

    fn update_with_record(
        &mut self,
        op: &WeightUpdate<'_, Raw, RawCodes>,
        record: &mut RestoreRecord<RawCodes>,
    ) -> Result<Option<MergeReport>> {
        let (method, codes, w) = (record.method(), record.codes, op.w.as_ref());
        let code_bytes = RestoreRecord::<RawCodes>::code_bytes(method, w.shape(), w.dtype());
        record.check_code_bytes(codes.bytes, code_bytes)?;
        let memory = self.update_memory(op, Some(method), record.escapes.len())?;
        if let Some(adapter) = &op.remove {
            self.zero(memory.sums, size_of::<Sums>())?;
            self.executor.run(&plan::weight_fingerprint(w, memory.sums))?;
            let sums = self.identify(adapter, codes, code_bytes, &memory)?;
            record.check(adapter_fingerprint(&sums, adapter), Fingerprint(sums.w), code_sums(&sums))?;
            if !record.escapes.is_empty() {
                let entries: Vec<EscapeEntry> = record.escapes.iter().map(EscapeEntry::from).collect();
                self.executor.write(memory.old_escapes, bytemuck::cast_slice(&entries))?;
            }
        }

        let with_record = Some((method, codes));
        let mut escapes = Vec::new();
        self.zero(memory.sums, size_of::<Sums>())?;
        if op.add.is_some() && method == RestoreMethod::Codes {
            self.zero(memory.new_escape_count, size_of::<u64>())?;
            self.executor.run(&plan::update(op, with_record, &memory, true)?)?;
            escapes = self.new_escapes(&memory)?;
        }
        self.executor.run(&plan::update(op, with_record, &memory, false)?)?;
        let report = self.report(op, &memory)?;
        match &op.add {
            None => {
                let sums = self.sums(&memory)?;
                let restored = record.check_restored(Fingerprint(sums.new));
                record.forget();
                restored?;
            }
            Some(adapter) => {
                let sums = self.identify(adapter, codes, code_bytes, &memory)?;
                let original = Fingerprint(sums.base);
                if op.remove.is_some()
                    && let Err(error) = record.check_restored(original)
                {
                    record.forget();
                    return Err(error);
                }
                let recorded = Recorded {
                    shape: w.shape(),
                    dtype: w.dtype(),
                    order: DeltaOrder::AscendingFma,
                    adapter: adapter_fingerprint(&sums, adapter),
                    weight: Fingerprint(sums.new),
                    original,
                    checksum: Fingerprint(0),
                };
                record.renew(recorded, code_sums(&sums), escapes);
            }
        }
        Ok(report)
    }

    fn update_memory(
        &mut self,
        op: &WeightUpdate<'_, Raw, RawCodes>,
        method: Option<RestoreMethod>,
        old_escapes: usize,
    ) -> Result<UpdateMemory> {
        let (_, bytes) = plan::update_memory(op, method, old_escapes, 0)?;
        let base = self.executor.workspace(bytes)?;
        Ok(plan::update_memory(op, method, old_escapes, base)?.0)
    }

    /// Adds an adapter and the codes to the sums, and reads all of them; waits for the stream.
    fn identify(
        &mut self,
        adapter: &Adapter<'_, Raw>,
        codes: RawCodes,
        code_bytes: usize,
        memory: &UpdateMemory,
    ) -> Result<Sums> {
        for step in plan::adapter_fingerprint(adapter, memory.sums) {
            self.executor.run(&step)?;
        }
        self.executor.run(&plan::codes_fingerprint(codes, code_bytes, memory.sums))?;
        self.sums(memory)
    }

    fn sums(&mut self, memory: &UpdateMemory) -> Result<Sums> {
        let mut sums = Sums::default();
        self.executor.read(memory.sums, bytemuck::bytes_of_mut(&mut sums))?;
        Ok(sums)
    }

    /// What a dry run collected; waits for the stream.
    fn new_escapes(&mut self, memory: &UpdateMemory) -> Result<Vec<Escape>> {
        let (mut needed, capacity) = (0u64, memory.new_escape_capacity as u64);
        self.executor.read(memory.new_escape_count, bytemuck::bytes_of_mut(&mut needed))?;
        if needed > capacity {
            return Err(Error::TooManyEscapes { needed, capacity });
        }
        let mut entries = vec![EscapeEntry::default(); needed as usize];
        if needed > 0 {
            self.executor.read(memory.new_escapes, bytemuck::cast_slice_mut(&mut entries))?;
        }
        Ok(entries.iter().map(Escape::from).collect())
    }

    /// Adds up what the blocks measured, in their order; waits for the stream.
    fn report(
        &mut self,
        op: &WeightUpdate<'_, Raw, RawCodes>,
        memory: &UpdateMemory,
    ) -> Result<Option<MergeReport>> {
        if !op.report {
            return Ok(None);
        }
        let mut parts = vec![MeasuredPart::default(); plan::blocks(op.w.layout())? as usize];
        self.executor.read(memory.parts, bytemuck::cast_slice_mut(&mut parts))?;
        let shape = op.w.shape();
        let mut report =
            MergeReport { elements: shape.rows as u64 * shape.cols as u64, ..MergeReport::default() };
        let (mut squares, mut measured) = (0.0, 0);
        for part in &parts {
            report.unchanged += part.unchanged;
            report.non_finite += part.non_finite;
            report.max_error = report.max_error.max(part.max_error);
            squares += part.squares;
            measured += part.measured;
        }
        if measured > 0 {
            report.rms_error = (squares / measured as f64).sqrt();
        }
        Ok(Some(report))
    }

    fn zero(&mut self, address: u64, bytes: usize) -> Result<()> {
        self.executor.run(&Step::Zero(Zero { address, bytes: bytes as u64 }))
    }
}

fn adapter_fingerprint(sums: &Sums, adapter: &Adapter<'_, Raw>) -> Fingerprint {
    fingerprint::adapter(sums.a, sums.b, adapter.scale)
}

fn code_sums(sums: &Sums) -> CodeSums {
    CodeSums { sum: sums.codes, escapes: sums.escapes }
}
