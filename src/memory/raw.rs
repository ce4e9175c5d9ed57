//! Device memory by bare addresses.

use super::Memory;
use crate::DType;

/// Device memory named by bare addresses: what planners and executors work with.
///
/// Nothing ties an address to a live allocation, so operations on it are for the `unsafe` raw layer and for executors.
#[derive(Clone, Copy, Debug)]
pub enum Raw {}

/// A run of elements in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawBuffer {
    /// Address of the first element.
    pub address: u64,
    /// Number of elements.
    pub len: usize,
    /// Element type.
    pub dtype: DType,
}

impl Memory for Raw {
    type Ref<'a> = RawBuffer;
    type Mut<'a> = RawBuffer;

    fn dtype(buffer: RawBuffer) -> DType {
        buffer.dtype
    }
    fn len(buffer: RawBuffer) -> usize {
        buffer.len
    }
    fn after(buffer: Self::Ref<'_>, elements: usize) -> Self::Ref<'_> {
        let skipped = elements.min(buffer.len);
        // Whether a buffer of any length fits the address space is for its views to find out.
        let bytes = (skipped as u64).wrapping_mul(buffer.dtype.size() as u64);
        RawBuffer { address: buffer.address.wrapping_add(bytes), len: buffer.len - skipped, ..buffer }
    }
    fn after_mut(buffer: Self::Mut<'_>, elements: usize) -> Self::Mut<'_> {
        Self::after(buffer, elements)
    }
    fn share(buffer: &RawBuffer) -> RawBuffer {
        *buffer
    }
    fn shorten<'short, 'long: 'short>(buffer: RawBuffer) -> RawBuffer {
        buffer
    }
    unsafe fn extend(buffer: RawBuffer) -> RawBuffer {
        buffer
    }
    fn reborrow(buffer: &mut RawBuffer) -> RawBuffer {
        *buffer
    }
    unsafe fn twice(buffer: Self::Mut<'_>) -> [Self::Mut<'_>; 2] {
        [buffer; 2]
    }
}
