//! What a kernel did wrong.

use crate::machine::schedule::Schedule;
use crate::memory::shadow::Site;
use std::fmt;

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// Two accesses to the same bytes, one of them a write, that nothing orders.
    Race,
    /// A read of memory that nobody wrote.
    NeverWritten,
    /// An access outside every buffer, or outside the block's shared memory.
    OutOfBounds,
    /// An address that is not a multiple of what the access needs.
    Misaligned,
    /// TMA or wgmma reads or overwrites what ordinary stores wrote, with no `fence.proxy.async` of the writer between.
    MissingProxyFence,
    /// wgmma takes registers that `wgmma.fence` has not been told of, or that have changed since.
    UnfencedRegisters,
    /// A kernel launched programmatically never waits for the kernel before it: later ones may outrun that one.
    MissingGridWait,
    /// Threads of a warp or warpgroup in different collective operations, or missing from one.
    Divergence,
    /// Threads that wait for ever.
    Deadlock,
    /// A thread ended before the asynchronous work that it started.
    InFlightAtExit,
    /// A barrier used against its rules: too many arrivals, differing counts, not initialised.
    BarrierMisuse,
    /// An instruction with operands that the hardware does not take.
    InvalidOperand,
    /// A launch that the device or the kernel would not take.
    InvalidLaunch,
    /// The kernel called `__trap`.
    Trap,
}

/// A line of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLine {
    /// The file, as the compiler named it.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
}

impl fmt::Display for SourceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.file.rsplit('/').next().unwrap_or(&self.file);
        write!(f, "{name}:{}", self.line)
    }
}

/// What a kernel did wrong, where, and under which schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kind.
    pub kind: FaultKind,
    /// What happened.
    pub message: String,
    /// The kernel.
    pub kernel: String,
    /// Block index, where one thread is at fault.
    pub block: Option<[u32; 3]>,
    /// Thread in the block, counted in x, then y, then z.
    pub thread: Option<usize>,
    /// Lines of the kernel, the innermost function first.
    pub lines: Vec<SourceLine>,
    /// For a race: the lines of the earlier access.
    pub other_lines: Vec<SourceLine>,
    /// The schedule that shows it.
    pub schedule: Schedule,
}

fn write_lines(f: &mut fmt::Formatter<'_>, lines: &[SourceLine]) -> fmt::Result {
    for (i, line) in lines.iter().enumerate() {
        write!(f, "{}{line}", if i == 0 { " at " } else { ", called from " })?;
    }
    Ok(())
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in kernel {}: ", self.kind, self.kernel)?;
        if let (Some([x, y, z]), Some(thread)) = (self.block, self.thread) {
            write!(f, "block ({x}, {y}, {z}) thread {thread}")?;
            write_lines(f, &self.lines)?;
            write!(f, ": ")?;
        }
        write!(f, "{}", self.message)?;
        write_lines(f, &self.other_lines)?;
        write!(f, "\n  under {}", self.schedule)
    }
}

impl std::error::Error for Fault {}

/// A fault as recorded while the kernel runs, before program counters are looked up.
#[derive(Debug)]
pub(crate) struct RawFault {
    pub kind: FaultKind,
    pub message: String,
    /// Site of the other access of a race.
    pub other: Option<Site>,
}

impl RawFault {
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        RawFault { kind, message: message.into(), other: None }
    }
}

/// Where a fault happened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub block: [u32; 3],
    pub thread: usize,
    pub site: Site,
}
