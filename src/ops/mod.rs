//! What each operation means: its arguments, its checks, its documentation. No backend code.
//!
//! Notation: M tokens, `in` and `out` features, rank r. X \[M, in\], W \[in, out\] frozen, A \[in, r\], B \[r, out\],
//! scale s. Views may be transposed, so that PEFT's W \[out, in\], lora_A \[r, in\] and lora_B \[out, r\] go in with
//! [`MatrixRef::t`](crate::MatrixRef::t).

mod adapter;
mod backward;
pub(crate) mod check;
mod conversion;
mod delta;
mod forward;
mod frozen;
mod weight_update;

pub use adapter::Adapter;
pub use backward::{Backward, BackwardProjection, BackwardSiblings, Output, WriteMode};
pub use conversion::Conversion;
pub use delta::Delta;
pub use forward::{Forward, ForwardSiblings, Projection};
pub use frozen::{Frozen, FrozenBackward};
pub use weight_update::{MergeReport, Rounding, WeightUpdate};
