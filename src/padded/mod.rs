//! Operands with room for the rank-r part, so that a layer with an adapter is one product over K + r.
//!
//! `X·W + S·B` with S = s·drop(X)·A is `[X S]·[W; B]`: one product, if S lies beside X and B below W. And `dY·Wᵀ + dS·Aᵀ` is
//! `[dY dS]·[W A]ᵀ`, if A lies beside W. A [`PaddedWeight`] holds the three so:
//!
//! ```text
//!            out    room
//!        ┌─────────┬───┐
//!     in │    W    │ A │     W stored [out, in]: the mirror image, with B in the padding of its rows and A below the last.
//!        ├─────────┼───┤     Rows begin at multiples of 128 bytes.
//!   room │    B    │   │
//!        └─────────┴───┘
//! ```
//!
//! Its parts are views like any others, which every operation takes. The CUDA backend sees by where matrices lie that they are parts
//! of one, whoever owns them, and then takes fewer passes: see [`Forward`](crate::Forward) and
//! [`Backward`](crate::Backward). A and B are there as they are; the scale s goes into S, in `f32`, before S is rounded. So A and B may
//! be the parameters that are trained, and their gradients are those of any adapter.

mod input;
mod weight;

pub use input::InputWithRoom;
pub use weight::{PaddedWeight, PartsMut};
