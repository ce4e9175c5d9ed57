//! Where a restore record's codes lie in device memory.

use super::workspace::allocate;
use crate::Result;
use cudarc::driver::{CudaSlice, CudaStream};
use std::sync::Arc;

/// The codes of a [`RestoreRecord`](crate::restore::RestoreRecord) in device memory, allocated by the merge that first
/// fills it and used again by later ones.
#[derive(Debug, Default)]
pub struct DeviceCodes(pub(super) Option<CudaSlice<u8>>);

impl DeviceCodes {
    /// Makes room for this many bytes; what was there before is lost if they do not fit.
    pub(super) fn make_room(&mut self, stream: &Arc<CudaStream>, bytes: usize) -> Result<()> {
        if self.0.as_ref().map_or(0, CudaSlice::len) < bytes {
            self.0 = Some(allocate(stream, bytes, "a restore record")?);
        }
        Ok(())
    }
}
