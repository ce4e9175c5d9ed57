//! Runs the CUDA kernels of lora-kernels on the CPU, to test them without a GPU.
//!
//! The kernels are the very files that nvcc compiles. A C++ compiler (GCC on 64-bit Linux) compiles them against the headers
//! in `include/`, which stand in for CUDA's, with instrumentation that reports every load and store. Each CUDA thread is
//! a fiber; barriers, tensor-core products and copies are done by this crate, in an order that a [`Schedule`] chooses.
//!
//! [`EmulatedCuda`] is the CUDA backend with this in the place of a GPU: the same planner, launch parameters and kernels.
//! [`Emulator`] is its executor, for single launches.
//!
//! # Running one kernel under one schedule
//!
//! A report ends with the schedule that shows it. With that schedule the same launch does the same again, step by step:
//!
//! ```no_run
//! use lora_emulator::{Completion, EmulatedCuda, Schedule, ThreadOrder};
//! let mut cuda = EmulatedCuda::new()?;
//! cuda.emulator_mut().set_schedule(Schedule {
//!     threads: ThreadOrder::RandomWarpPriorities,
//!     completion: Completion::Late,
//!     resident_blocks: 1,
//!     seed: 5,
//! });
//! // Upload, run an operation of `Backend`, and look at the result, or at `cuda.emulator().last_fault()`.
//! # Ok::<(), lora_emulator::Error>(())
//! ```
//!
//! # What its tests prove
//!
//! That the planner's launches of every kernel, over the shapes, ranks, layouts and element types of `tests/matrix.rs` and
//! under each schedule of [`Schedule::matrix`], give what an independent `f64` oracle says, give the same bits each time, touch
//! no memory but their own, and have no race. That each large matrix is read or written once (`tests/traffic.rs`). And that
//! the tests would notice: `tests/mutations.rs` plants faults in the kernels, and each is caught.
//!
//! Two accesses that nothing orders are reported in every schedule that has both, so few schedules go far; what depends on
//! when a copy completes, or on which block comes first, needs several.
//!
//! # Matrices beyond the machine
//!
//! [`Emulator::reserve`] gives memory of which only touched pages exist, and [`Emulator::run_blocks`] runs some blocks of a grid
//! that nobody could run: `tests/far_addresses.rs` takes every kernel where its matrices pass 2³¹ and 2³² elements.
//!
//! # What it reports
//!
//! [`FaultKind`] lists it. Races are found from vector clocks, whatever the schedule does: two accesses to the same bytes,
//! one of them a write, that no barrier orders. What orders memory:
//!
//! - `__syncthreads`, named barriers and cluster barriers order the threads that meet, `__syncwarp` the lanes in its mask.
//!   Shuffles, votes, `ldmatrix` and `mma` bring lanes together but order nothing, as CUDA has it.
//! - An mbarrier's wait orders after all arrivals, and all bytes, of the phases that have ended. Of what other blocks did, only
//!   the forms of cluster scope show ordinary stores.
//! - Atomic operations with release and acquire semantics, or relaxed ones between fences of device scope.
//! - `cp.async` writes its destination and reads its source from the instruction until the thread waits for the group; TMA and
//!   wgmma until the mbarrier or the group says so. Meanwhile nobody may touch them, whenever the bytes really move.
//! - The end of a kernel; where the next one is launched programmatically, its wait for that ([`Emulator`]).
//!
//! Beside races, it holds kernels to rules that hardware does not enforce, each with kernels that break it in `tests/rules`:
//!
//! - `fence.proxy.async`, by the threads that stored, before TMA or wgmma uses what they stored, in shared and global memory.
//! - `wgmma.fence` names the registers that products take, and they hold the same until they are waited for.
//! - `setmaxnreg` moves registers within what a block starts with, and all warps of a warpgroup ask alike.
//! - Barriers are executed by whole warps, at one place of the source.
//! - A block of a cluster is used by others after a cluster barrier and before it ends.
//! - Swizzled tiles start where the pattern does; declared and dynamic shared memory fit together.
//! - Blocks that wait for each other fit on the device together ([`Emulator::set_resident_limit`]).
//!
//! A C++ compiler may keep a value in a register that a GPU would load again, so an access can be missed that the source
//! shows twice. Each four bytes remember five accesses: where more threads read than that, a conflict with some of
//! them may be missed in one place, hardly in a whole tile.
//!
//! # What it counts
//!
//! [`StepRecord`]: bytes and sectors moved by each buffer's name, tensor-core operations, bank conflicts of `ldmatrix`.
//!
//! # What it cannot show
//!
//! - Time, occupancy and spills.
//! - Weak memory: values are always the latest ones; only the race detector knows of missing fences.
//! - Whether this crate reads the PTX manual as the hardware does: fragment layouts, swizzles, descriptors. Its tests check
//!   each mechanism against plain loops, written by the same people; a GPU has the last word.
//! - The last bits of tensor-core sums, whose order hardware does not specify. Here it is ascending k, in `f32`.
//! - An index that leaves one `__shared__` variable for another is not seen when written; dynamic shared memory and buffers
//!   have exact bounds. Other blocks of a cluster are reached in dynamic shared memory only. What a kernel declares is known
//!   from what its blocks access.
//! - Registers of a wgmma in flight: reading them early gives old values when it completes late, and is not reported.
//! - Streams and graphs. Kernels run one after another, in their order: of those that may overlap, only conflicts are found.

mod backend;
mod error;
mod fault;
mod library;
mod machine;
mod mechanisms;
mod memory;

pub use backend::{EmulatedBuffer, EmulatedCuda, LockedEmulator};
pub use error::{Error, Result};
pub use fault::{Fault, FaultKind, SourceLine};
pub use library::kernel_library::{KernelLibrary, LibraryBuilder};
pub use machine::emulator::{Emulator, WORKSPACE, available};
pub use machine::schedule::{Completion, Schedule, ThreadOrder};
pub use mechanisms::tensor_map::{Swizzle, TensorMap};
pub use memory::traffic::{StepRecord, Traffic};
