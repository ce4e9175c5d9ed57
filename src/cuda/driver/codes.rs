//! Restore records whose codes lie in device memory.

use super::workspace::allocate;
use crate::cuda::engine::RawCodes;
use crate::restore::RestoreRecord;
use crate::{DType, Error, Result, Shape};
use cudarc::driver::{CudaSlice, CudaStream};
use std::sync::Arc;

/// The codes of a [`RestoreRecord`] in device memory, allocated by the merge that fills it.
#[derive(Debug, Default)]
pub struct DeviceCodes(pub(super) Option<CudaSlice<u8>>);

impl DeviceCodes {
    fn len(&self) -> usize {
        self.0.as_ref().map_or(0, CudaSlice::len)
    }
}

/// Makes room for the codes of a weight, if the record has none.
pub fn make_room(
    record: &mut RestoreRecord<DeviceCodes>,
    stream: &Arc<CudaStream>,
    shape: Shape,
    dtype: DType,
) -> Result<()> {
    if record.codes.0.is_none() {
        let bytes = RestoreRecord::<DeviceCodes>::code_bytes(record.method(), shape, dtype);
        record.codes = DeviceCodes(Some(allocate(stream, bytes, "a restore record")?));
    }
    Ok(())
}

/// A record can be put together from any parts; kernels must not follow them out of its memory or the weight's.
pub fn check_parts(record: &RestoreRecord<DeviceCodes>) -> Result<()> {
    let Some(recorded) = record.recorded() else { return Ok(()) };
    let needed = RestoreRecord::<DeviceCodes>::code_bytes(record.method(), recorded.shape, recorded.dtype);
    if record.codes.len() != needed {
        return Err(Error::RecordMismatch(format!(
            "it holds {} bytes of codes, but a weight of shape {} in {} needs {needed}",
            record.codes.len(),
            recorded.shape,
            recorded.dtype
        )));
    }
    let elements = (recorded.shape.rows * recorded.shape.cols) as u64;
    match record.escapes().last() {
        Some(last) if last.index >= elements => Err(Error::RecordMismatch(format!(
            "it restores weight number {}, but a weight of shape {} has only {elements}",
            last.index, recorded.shape
        ))),
        _ => Ok(()),
    }
}

/// Moves everything but the codes into a record for the engine.
pub fn lend(record: &mut RestoreRecord<DeviceCodes>) -> RestoreRecord<RawCodes> {
    let empty = RestoreRecord::new(record.method());
    let (lent, codes) = std::mem::replace(record, empty).move_codes(RawCodes::default());
    record.codes = codes;
    lent
}

/// Takes back what [`lend`] gave and the engine changed. An empty record needs no codes.
pub fn take_back(record: &mut RestoreRecord<DeviceCodes>, lent: RestoreRecord<RawCodes>) {
    let codes = std::mem::take(&mut record.codes);
    *record = lent.move_codes(codes).0;
    if record.recorded().is_none() {
        record.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fingerprint::Fingerprint;
    use crate::restore::{DeltaOrder, Escape, Recorded, RestoreMethod};

    fn record(shape: Shape, escapes: Vec<Escape>) -> RestoreRecord<DeviceCodes> {
        let recorded = Recorded {
            shape,
            dtype: DType::Bf16,
            order: DeltaOrder::AscendingFma,
            adapter: Fingerprint(1),
            weight: Fingerprint(2),
        };
        RestoreRecord::from_parts(RestoreMethod::Codes, recorded, DeviceCodes::default(), escapes)
    }

    #[test]
    fn a_record_with_too_few_codes_is_refused() {
        let error = check_parts(&record(Shape::new(2, 3), Vec::new())).unwrap_err();
        assert!(error.to_string().contains("0 bytes of codes"), "{error}");
    }

    #[test]
    fn an_escape_outside_of_the_weight_is_refused() {
        // An empty weight needs no codes, so that no device is needed to test the second check.
        let outside = Escape { index: 0, bits: 0 };
        let error = check_parts(&record(Shape::new(0, 3), vec![outside])).unwrap_err();
        assert!(error.to_string().contains("weight number 0"), "{error}");
    }

    #[test]
    fn an_empty_record_passes() {
        assert!(check_parts(&RestoreRecord::new(RestoreMethod::Backup)).is_ok());
    }

    #[test]
    fn what_is_lent_comes_back() {
        let escape = Escape { index: 3, bits: 7 };
        let mut original = record(Shape::new(2, 3), vec![escape]);
        let recorded = *original.recorded().unwrap();
        let lent = lend(&mut original);
        assert_eq!((lent.recorded(), lent.escapes()), (Some(&recorded), [escape].as_slice()));
        take_back(&mut original, lent);
        assert_eq!((original.recorded(), original.escapes()), (Some(&recorded), [escape].as_slice()));
    }

    #[test]
    fn a_record_that_was_used_up_comes_back_empty() {
        let mut original = record(Shape::new(2, 3), vec![Escape { index: 3, bits: 7 }]);
        let mut lent = lend(&mut original);
        lent.clear();
        take_back(&mut original, lent);
        assert!(original.recorded().is_none() && original.escapes().is_empty());
    }
}
