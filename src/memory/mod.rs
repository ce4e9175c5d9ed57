//! Where buffers live: host slices, or bare device addresses.

mod host;
mod raw;

pub use host::{Host, HostMut, HostRef};
pub use raw::{Raw, RawBuffer};

use crate::DType;

/// A kind of memory, with the type of a shared and of an exclusive borrow of a buffer in it.
///
/// Views and operations are generic over it, so that host and device buffers cannot be mixed by accident.
pub trait Memory: std::fmt::Debug + Sized + 'static {
    /// A shared borrow of a buffer.
    type Ref<'a>: Copy + std::fmt::Debug;
    /// An exclusive borrow of a buffer.
    type Mut<'a>: std::fmt::Debug;

    /// The element type of the buffer.
    fn dtype(buffer: Self::Ref<'_>) -> DType;
    /// The number of elements in the buffer.
    fn len(buffer: Self::Ref<'_>) -> usize;
    /// The borrow without its first `elements` elements; an empty one if there are fewer.
    fn after(buffer: Self::Ref<'_>, elements: usize) -> Self::Ref<'_>;
    /// The exclusive borrow without its first `elements` elements; an empty one if there are fewer.
    fn after_mut(buffer: Self::Mut<'_>, elements: usize) -> Self::Mut<'_>;
    /// A shared borrow of an exclusively borrowed buffer.
    fn share<'b>(buffer: &'b Self::Mut<'_>) -> Self::Ref<'b>;
    /// The same borrow for a shorter time: shared borrows are covariant, which a trait cannot say of its types.
    fn shorten<'short, 'long: 'short>(buffer: Self::Ref<'long>) -> Self::Ref<'short>;
    /// The same borrow without its end, so that a view can keep it and still be covariant.
    ///
    /// # Safety
    /// The result must not be used after the end of `buffer`'s borrow.
    unsafe fn extend(buffer: Self::Ref<'_>) -> Self::Ref<'static>;
    /// A shorter exclusive borrow.
    fn reborrow<'b>(buffer: &'b mut Self::Mut<'_>) -> Self::Mut<'b>;
    /// The same exclusive borrow twice, for views that share a buffer but no element of it.
    ///
    /// # Safety
    /// No element may be reached through both.
    unsafe fn twice(buffer: Self::Mut<'_>) -> [Self::Mut<'_>; 2];
}
