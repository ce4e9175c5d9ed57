//! One source for every instruction set: the code is compiled once for each and chosen at run time.
//!
//! The bits do not depend on the choice: a fused multiply-add rounds once, whether by instruction or by library.

/// Work that gains from wide vectors. Implementations and what they call are `#[inline(always)]`, so that they are
/// compiled for the instruction set that they are called from.
pub(super) trait Vectorized {
    /// What the work yields.
    type Output;

    /// Does the work, with `WIDTH` neighbouring columns kept in registers: 16 or 64.
    fn run<const WIDTH: usize>(self) -> Self::Output;
}

/// Does the work with the widest vectors that this processor has.
pub(super) fn run<V: Vectorized>(work: V) -> V::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("fma")
        {
            // SAFETY: the processor has the features, as just checked.
            return unsafe { with_avx512(work) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the features, as just checked.
            return unsafe { with_avx2(work) };
        }
    }
    work.run::<16>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn with_avx512<V: Vectorized>(work: V) -> V::Output {
    work.run::<64>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn with_avx2<V: Vectorized>(work: V) -> V::Output {
    work.run::<16>()
}
