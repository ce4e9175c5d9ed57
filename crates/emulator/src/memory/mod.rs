//! Global and shared memory, who may access what when, and what was moved.

pub(crate) mod access;
pub(crate) mod clock;
pub(crate) mod global;
pub(crate) mod proxy;
pub(crate) mod shadow;
pub(crate) mod shared;
pub(crate) mod traffic;
pub(crate) mod zeroed;
