//! Steps of the forward.
