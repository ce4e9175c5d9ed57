//! What can go wrong, with the argument named.

use crate::{DType, Shape};

/// Every error of this crate. Nothing has been written when an error of arguments or of a record is returned, but for
/// [`NotRestored`](Error::NotRestored).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two arguments do not fit together.
    #[error(
        "`{argument}` has shape {found}, but {expected} is needed to fit `{reference}` of shape {reference_shape}"
    )]
    ShapeMismatch {
        /// The argument that does not fit.
        argument: &'static str,
        /// Its shape.
        found: Shape,
        /// The shape it should have.
        expected: Shape,
        /// The argument that fixes the expected shape.
        reference: &'static str,
        /// The shape of that argument.
        reference_shape: Shape,
    },
    /// An argument has an element type that the operation does not take there.
    #[error("`{argument}` holds {found}, but {expected} is needed")]
    DTypeMismatch {
        /// The argument.
        argument: &'static str,
        /// Its element type.
        found: DType,
        /// What is accepted, in words.
        expected: String,
    },
    /// A view reaches past the end of its buffer.
    #[error(
        "a view of shape {shape} with row stride {stride} needs {needed} elements, but the buffer holds {available}"
    )]
    BufferTooShort {
        /// Rows and columns as stored.
        shape: Shape,
        /// Elements from one stored row to the next.
        stride: usize,
        /// Elements that the view spans.
        needed: usize,
        /// Elements that the buffer has.
        available: usize,
    },
    /// The stored rows of a view would overlap, or the view is larger than memory can be.
    #[error("a view of shape {shape} cannot have row stride {stride}: {reason}")]
    InvalidStride {
        /// Rows and columns as stored.
        shape: Shape,
        /// Elements from one stored row to the next.
        stride: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A tensor does not lie in memory as a matrix does.
    #[error(
        "a tensor of dimensions {dims:?} and strides {strides:?} is no matrix: {reason}; copy it into contiguous memory"
    )]
    NotAMatrix {
        /// Lengths of the tensor's dimensions.
        dims: Vec<usize>,
        /// Elements between neighbours along each dimension.
        strides: Vec<usize>,
        /// Why it is none.
        reason: &'static str,
    },
    /// The adapter has rank 0 or a layer has no features.
    #[error("`{argument}` has shape {found}: {reason}")]
    EmptyDimension {
        /// The argument.
        argument: &'static str,
        /// Its shape.
        found: Shape,
        /// Which dimension must not be zero.
        reason: &'static str,
    },
    /// A number is outside its domain.
    #[error("`{argument}` is {value}, but it must be {expected}")]
    InvalidValue {
        /// The argument.
        argument: &'static str,
        /// The value found.
        value: String,
        /// The domain, in words.
        expected: &'static str,
    },
    /// An optional argument is needed for what was asked.
    #[error("`{argument}` is missing: {reason}")]
    MissingArgument {
        /// The argument.
        argument: &'static str,
        /// What needs it.
        reason: &'static str,
    },
    /// A restore record does not belong to the weights or the adapter it was given with.
    #[error("the restore record does not fit: {0}")]
    RecordMismatch(String),
    /// Restoring from a record gave other weights than those from before the merge, though adapter, weight and record were
    /// found to be whole: arithmetic or memory failed meanwhile. The weights have been written and are not to be used.
    #[error(
        "the restored weights are not those from before the merge, though the record fits: `w` has been written and is not \
         to be used"
    )]
    NotRestored,
    /// More weights need an escape entry than the restore record has room for.
    #[error(
        "{needed} weights need an escape entry but the restore record has room for {capacity}; record with `RestoreMethod::Backup` instead"
    )]
    TooManyEscapes {
        /// Entries needed.
        needed: u64,
        /// Entries available.
        capacity: u64,
    },
    /// The combination is not offered.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// There is no usable GPU backend; the text says what is missing and how to get it.
    #[error("no CUDA backend: {0}")]
    CudaUnavailable(String),
    /// Arguments live in another CUDA context than the handle's.
    #[error(
        "`{argument}` lives in another CUDA context (of device {found}) than the handle's (of device {expected})"
    )]
    WrongDevice {
        /// The argument.
        argument: &'static str,
        /// Ordinal of the device that holds it.
        found: usize,
        /// Ordinal of the handle's device.
        expected: usize,
    },
    /// Device memory ran out.
    #[error("out of device memory: {needed} bytes of {purpose} could not be allocated")]
    OutOfMemory {
        /// Bytes asked for.
        needed: usize,
        /// What they were for.
        purpose: &'static str,
    },
    /// The CUDA driver or a CUDA library reported an error.
    #[error("{call} failed: {message}")]
    Cuda {
        /// The call that failed.
        call: &'static str,
        /// The library's own words.
        message: String,
    },
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
