//! What a launch moved and computed.

use crate::memory::shadow::Fresh;
use crate::memory::zeroed::Zeroed;
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
    /// Sectors of 32 bytes that blocks read: each counts once a block, however often and by whatever threads it is read.
    pub sectors_read: u64,
    /// Sectors of 32 bytes that blocks wrote, counted in the same way.
    pub sectors_written: u64,
    /// Read accesses of a thread. The C++ compiler may split a vector into words.
    pub reads: u64,
    /// Write accesses of a thread, counted in the same way.
    pub writes: u64,
}

impl Traffic {
    /// Counts one access.
    pub(crate) fn add(&mut self, write: bool, bytes: u64, fresh: Fresh, sectors: u64) {
        if write {
            self.sectors_written += sectors;
            self.writes += 1;
            self.bytes_written += bytes;
            self.unique_bytes_written += fresh.written;
        } else {
            self.sectors_read += sectors;
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
        self.sectors_read += other.sectors_read;
        self.sectors_written += other.sectors_written;
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
    /// Extra passes over shared memory that `ldmatrix` and `stmatrix` needed because rows of one matrix lie in the same
    /// banks. Conflicts of ordinary loads and stores are not counted.
    pub matrix_bank_conflicts: u64,
    /// Traffic of each buffer that was touched, by its name.
    pub buffers: BTreeMap<String, Traffic>,
}

/// Bytes of a sector.
const SECTOR: usize = 32;

/// Which block touched each sector of a buffer last.
#[derive(Debug)]
pub(crate) struct Sectors {
    read: Zeroed<u32>,
    written: Zeroed<u32>,
}

impl Sectors {
    pub fn new(bytes: usize) -> Self {
        let count = bytes.div_ceil(SECTOR);
        Sectors { read: Zeroed::new(count), written: Zeroed::new(count) }
    }

    /// Notes an access of `block`, a number that no other block of any launch has, and returns how many of its sectors
    /// are new to the block.
    pub fn touch(&mut self, write: bool, offset: usize, bytes: usize, block: u32) -> u64 {
        let marks = if write { &mut self.written } else { &mut self.read };
        let mut new = 0;
        for mark in &mut marks[offset / SECTOR..(offset + bytes).div_ceil(SECTOR)] {
            new += u64::from(*mark != block);
            *mark = block;
        }
        new
    }
}
