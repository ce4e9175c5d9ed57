//! Steps of the backward.
