//! Loops compiled for several instruction sets, chosen at run time.

use pulp::{Arch, Simd, WithSimd};

struct Loop<F>(F);

impl<R, F: FnOnce() -> R> WithSimd for Loop<F> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> R {
        (self.0)()
    }
}

/// Runs `body` in a function compiled for the widest vectors of this machine, so that its loops vectorise for them.
///
/// What `body` calls must be inlined to profit.
#[inline(always)]
pub(super) fn vectorize<R>(body: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(Loop(body))
}
