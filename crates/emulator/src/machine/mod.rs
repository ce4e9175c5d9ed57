//! The device that runs launches: threads, blocks, what runs next, and the executor that the library's plans go to.

pub(crate) mod block;
pub(crate) mod caller;
mod deadlock;
pub(crate) mod emulator;
pub(crate) mod launch;
mod product;
mod ready;
pub(crate) mod request;
mod run;
pub(crate) mod schedule;
pub(crate) mod thread;
