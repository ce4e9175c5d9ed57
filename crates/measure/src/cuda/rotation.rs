//! How many sets of buffers a GPU benchmark goes through in turn.

/// So that a measurement, which goes through all sets once, is long beside the resolution of events.
const LEAST: usize = 4;
/// Tiny problems would need more sets than they are worth; real layers have weights of megabytes and stay far below.
const MOST: usize = 64;

/// The number of sets, so that between two uses of one set at least twice the last-level cache of others is read.
pub fn sets(bytes_of_a_set: usize, cache_bytes: usize) -> usize {
    ((2 * cache_bytes).div_ceil(bytes_of_a_set.max(1)) + 1).clamp(LEAST, MOST)
}
