//! How many sets of buffers a layer on a GPU goes through in turn.

/// So that a measurement, which goes through all sets once, is long beside the resolution of events.
const LEAST: usize = 4;
/// Tiny problems would need more sets than they are worth; real layers have weights of megabytes and stay far below.
const MOST: usize = 64;

/// The number of sets, so that between two uses of one set at least twice the last-level cache of others is read.
pub(super) fn sets(bytes_of_a_set: usize, cache_bytes: usize) -> usize {
    ((2 * cache_bytes).div_ceil(bytes_of_a_set.max(1)) + 1).clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use super::sets;

    #[test]
    fn rotated_sets_exceed_the_cache_twice_between_two_uses_of_one() {
        const MIB: usize = 1 << 20;
        // 13 others of 8 MiB are more than twice 50 MiB.
        assert_eq!(sets(8 * MIB, 50 * MIB), 14);
        for bytes in [1, MIB, 7 * MIB, 32 * MIB, 1000 * MIB] {
            let sets = sets(bytes, 50 * MIB);
            assert!(sets == 64 || (sets - 1) * bytes >= 100 * MIB, "{sets} sets of {bytes} bytes");
            assert!((4..=64).contains(&sets));
        }
        assert_eq!(sets(0, 50 * MIB), 64);
    }
}
