//! Global memory: named buffers with guard space around them.

use crate::memory::shadow::Shadow;
use crate::memory::traffic::{Sectors, Traffic};
use crate::memory::zeroed::Zeroed;

/// What never-written memory holds: NaN as `f32`, as two `bf16` and as two `f16`.
pub(crate) const POISON: [u8; 4] = 0x7fc1_ffc1_u32.to_le_bytes();

/// Space around a buffer that belongs to no other buffer, so that a stray address is attributed to the right one.
const GUARD_BYTES: usize = 64 << 10;
/// Memory that kernels reach through bare addresses.
#[derive(Debug)]
pub(crate) struct RawMemory(Zeroed<u8>);

impl RawMemory {
    /// Zeroed memory, aligned to 4096 bytes.
    pub fn new(bytes: usize) -> Self {
        RawMemory(Zeroed::new(bytes))
    }

    pub fn start(&self) -> usize {
        self.pointer() as usize
    }

    pub fn pointer(&self) -> *mut u8 {
        self.0.pointer()
    }

    fn check(&self, offset: usize, bytes: usize) {
        assert!(offset <= self.0.len() && bytes <= self.0.len() - offset, "checked by callers");
    }

    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        self.check(offset, bytes.len());
        // SAFETY: the range lies in this allocation, and `bytes` is an exclusive borrow of other memory.
        unsafe { self.pointer().add(offset).copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) }
    }

    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        // SAFETY: the range lies in this allocation, and `bytes` is a borrow of other memory.
        unsafe { self.pointer().add(offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }

    pub fn poison(&mut self, offset: usize, bytes: usize) {
        self.check(offset, bytes);
        // SAFETY: the range lies in this allocation, which only this borrow reaches while no kernel runs.
        let range = unsafe { std::slice::from_raw_parts_mut(self.pointer().add(offset), bytes) };
        let mut chunks = range.chunks_exact_mut(POISON.len());
        (&mut chunks).for_each(|chunk| chunk.copy_from_slice(&POISON));
        let tail = chunks.into_remainder();
        tail.copy_from_slice(&POISON[..tail.len()]);
    }
}

/// A buffer in global memory.
#[derive(Debug)]
pub(crate) struct Buffer {
    pub name: String,
    memory: RawMemory,
    pub start: usize,
    pub bytes: usize,
    pub shadow: Shadow,
    pub traffic: Traffic,
    pub sectors: Sectors,
}

/// An access outside every buffer, in words.
#[derive(Debug)]
pub(crate) struct OutOfBounds(pub String);

/// All buffers, by address.
#[derive(Debug, Default)]
pub(crate) struct GlobalMemory {
    buffers: Vec<Buffer>,
    last: usize,
    /// Blocks of all earlier launches.
    earlier_blocks: u32,
    /// Blocks of this launch.
    blocks: u32,
}

impl GlobalMemory {
    /// A new buffer that nobody has written.
    pub fn allocate(&mut self, name: &str, bytes: usize) -> u64 {
        let start = self.reserve(name, bytes);
        self.buffers[self.last].memory.poison(GUARD_BYTES, bytes);
        start
    }

    /// The same without poison: pages that nobody touches cost nothing.
    pub fn reserve(&mut self, name: &str, bytes: usize) -> u64 {
        let memory = RawMemory::new(bytes + 2 * GUARD_BYTES);
        let start = memory.start() + GUARD_BYTES;
        let buffer = Buffer {
            name: name.to_owned(),
            memory,
            start,
            bytes,
            shadow: Shadow::new(bytes),
            traffic: Traffic::default(),
            sectors: Sectors::new(bytes),
        };
        let index = self.buffers.partition_point(|other| other.start < start);
        self.buffers.insert(index, buffer);
        self.last = index;
        start as u64
    }

    /// Frees the buffer that starts at an address; false if there is none.
    pub fn free(&mut self, address: u64) -> bool {
        let before = self.buffers.len();
        self.buffers.retain(|buffer| buffer.start as u64 != address);
        self.last = 0;
        self.buffers.len() < before
    }

    pub fn buffers_mut(&mut self) -> &mut [Buffer] {
        &mut self.buffers
    }

    /// The buffer that holds these bytes, and the offset in it.
    #[inline]
    pub fn locate(&mut self, address: usize, bytes: usize) -> Result<(&mut Buffer, usize), OutOfBounds> {
        let holds =
            |buffer: &Buffer| address >= buffer.start && address + bytes <= buffer.start + buffer.bytes;
        if !self.buffers.get(self.last).is_some_and(holds) {
            let next = self.buffers.partition_point(|buffer| buffer.start <= address);
            match next.checked_sub(1) {
                Some(index) if holds(&self.buffers[index]) => self.last = index,
                _ => return Err(OutOfBounds(self.describe(address))),
            }
        }
        let buffer = &mut self.buffers[self.last];
        let offset = address - buffer.start;
        Ok((buffer, offset))
    }

    /// The same, to look at only.
    pub fn find(&self, address: usize, bytes: usize) -> Option<(&Buffer, usize)> {
        let next = self.buffers.partition_point(|buffer| buffer.start <= address);
        let buffer = &self.buffers[next.checked_sub(1)?];
        (address + bytes <= buffer.start + buffer.bytes).then(|| (buffer, address - buffer.start))
    }

    /// An address in terms of the nearest buffer.
    fn describe(&self, address: usize) -> String {
        let distance = |buffer: &Buffer| {
            let last = buffer.start + buffer.bytes.saturating_sub(1);
            if address < buffer.start { buffer.start - address } else { address.saturating_sub(last) }
        };
        let Some(nearest) = self.buffers.iter().min_by_key(|buffer| distance(buffer)) else {
            return format!("at {address:#x}, and there are no buffers");
        };
        let (name, bytes) = (&nearest.name, nearest.bytes);
        if address < nearest.start {
            format!("{} bytes before the start of `{name}` ({bytes} bytes)", nearest.start - address)
        } else if address < nearest.start + bytes {
            format!("from byte {} on past the end of `{name}` ({bytes} bytes)", address - nearest.start)
        } else {
            format!("{} bytes past the end of `{name}` ({bytes} bytes)", address - nearest.start - bytes)
        }
    }

    /// Copies bytes in; they count as written.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), OutOfBounds> {
        let (buffer, offset) = self.locate(address as usize, bytes.len())?;
        buffer.memory.write(GUARD_BYTES + offset, bytes);
        buffer.shadow.set_written(offset, bytes.len(), true);
        Ok(())
    }

    /// Copies bytes out, written or not.
    pub fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), OutOfBounds> {
        let (buffer, offset) = self.locate(address as usize, bytes.len())?;
        buffer.memory.read(GUARD_BYTES + offset, bytes);
        Ok(())
    }

    /// Back to never written.
    pub fn poison(&mut self, address: u64, bytes: usize) -> Result<(), OutOfBounds> {
        let (buffer, offset) = self.locate(address as usize, bytes)?;
        buffer.memory.poison(GUARD_BYTES + offset, bytes);
        buffer.shadow.set_written(offset, bytes, false);
        Ok(())
    }

    /// A launch of so many blocks starts: after all accesses so far, or, where kernels overlap, beside them.
    pub fn next_launch(&mut self, blocks: u32, overlaps: bool) {
        self.earlier_blocks = self.earlier_blocks.wrapping_add(self.blocks);
        self.blocks = blocks;
        for buffer in &mut self.buffers {
            if overlaps {
                buffer.shadow.next_overlapping_generation();
            } else {
                buffer.shadow.next_generation();
            }
        }
    }

    /// A number for a block of this launch that no other block has.
    pub fn block_number(&self, sequence: u32) -> u32 {
        self.earlier_blocks.wrapping_add(sequence).wrapping_add(1)
    }
}
