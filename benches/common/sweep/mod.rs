//! Variants of kernels: which there are, how each is launched, whether it is right, and which is fastest.

pub mod check;
pub mod launch;
pub mod ranking;
pub mod steps;
pub mod table;
