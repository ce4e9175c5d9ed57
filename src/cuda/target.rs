//! What the planner may know of a card.

/// What a plan may depend on beside the operation: the architecture, and what every card of it has.
///
/// How large a card is (its multiprocessors, its memory), how fast it runs and how busy it is are not here: results, down to their
/// last bits, may depend on shapes, layouts, element types and the architecture, never on those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Compute capability, for example (9, 0).
    pub compute_capability: (u32, u32),
    /// Shared memory that one block may ask for, in bytes.
    pub shared_bytes_per_block: u32,
}
