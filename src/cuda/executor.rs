//! Who runs the steps.

use super::step::Step;
use crate::Result;

/// What the planner needs to know of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceProperties {
    /// Compute capability, for example (9, 0).
    pub compute_capability: (u32, u32),
    /// Shared memory that one block may ask for, in bytes.
    pub shared_bytes_per_block: u32,
}

/// Runs steps in order on one device. The driver's executor and the emulator implement it.
pub trait Executor {
    /// The device.
    fn properties(&self) -> DeviceProperties;

    /// The address of scratch memory of at least this many bytes, aligned to 256, kept until a larger one is asked for.
    ///
    /// # Errors
    /// Memory ran out, or it would have to grow while the stream is being captured.
    fn workspace(&mut self, bytes: usize) -> Result<u64>;

    /// Runs the step after all earlier ones.
    ///
    /// # Errors
    /// The step could not be launched.
    fn run(&mut self, step: &Step) -> Result<()>;

    /// Copies bytes to the device, after all earlier steps.
    ///
    /// # Errors
    /// The copy failed.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()>;

    /// Waits for all earlier steps and copies bytes from the device.
    ///
    /// # Errors
    /// The copy, or a step before it, failed.
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()>;
}
