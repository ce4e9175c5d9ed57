//! What a launch moved and computed.

use crate::shadow::Fresh;
use std::collections::BTreeMap;

/// Bytes moved between kernels and one buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of all reads. Equal to the buffer's size if it is read once.
    pub bytes_read: u64,
    /// Bytes of all writes.
    pub bytes_written: u64,
    /// Different bytes read; the sum over launches, if there were several.
    pub unique_bytes_read: u64,
    /// Different bytes written; the sum over launches, if there were several.
    pub unique_bytes_written: u64,
    /// Read accesses of a thread.
    pub reads: u64,
    /// Write accesses of a thread.
    pub writes: u64,
}

impl Traffic {
    /// Counts one access.
    pub(crate) fn add(&mut self, write: bool, bytes: u64, fresh: Fresh) {
        if write {
            self.writes += 1;
            self.bytes_written += bytes;
            self.unique_bytes_written += fresh.written;
        } else {
            self.reads += 1;
            self.bytes_read += bytes;
            self.unique_bytes_read += fresh.read;
        }
    }
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
        self.unique_bytes_read += other.unique_bytes_read;
        self.unique_bytes_written += other.unique_bytes_written;
        self.reads += other.reads;
        self.writes += other.writes;
    }
}

/// One step that the emulator ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepRecord {
    /// The kernel's name; `product` or `zero` for the other steps.
    pub name: String,
    /// Blocks of the grid.
    pub blocks: u64,
    /// Operations of tensor cores: two for each multiply-add.
    pub tensor_core_operations: u64,
    /// Traffic of each buffer that was touched, by its name.
    pub buffers: BTreeMap<String, Traffic>,
}
