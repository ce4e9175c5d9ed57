//! Steps of weight updates, deltas and fingerprints.
