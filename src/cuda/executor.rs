//! Who runs the steps.

use super::step::Step;
use super::target::Target;
use crate::Result;

/// Runs steps in order on one device. The driver's executor and the emulator implement it.
pub trait Executor {
    /// What the planner may know of the device.
    fn target(&self) -> Target;

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
