//! An emulated thread: a fiber on a stack whose bottom holds what the kernel can ask about itself.

use crate::machine::block::Block;
use crate::machine::launch::Launch;
use corosensei::stack::{Stack, StackPointer};
use corosensei::{Coroutine, Yielder};
use std::io;

/// Size and alignment of a stack; `emulator::stack_bytes` in include/emulator/thread.h.
const STACK_BYTES: usize = 1 << 16;
const PAGE_BYTES: usize = 4096;

/// The context at the bottom of a thread's stack. The first part is `emulator::Thread` in include/emulator/thread.h.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Thread {
    pub thread_index: [u32; 3],
    pub block_index: [u32; 3],
    pub block_dimensions: [u32; 3],
    pub grid_dimensions: [u32; 3],
    pub dynamic_shared: *mut u8,
    pub arguments: *const u8,
    pub argument_bytes: u64,
    pub lane: u32,
    pub warp: u32,
    pub block_rank_in_cluster: u32,
    pub blocks_in_cluster: u32,
    // Not seen by the kernel.
    pub index: usize,
    pub launch: *mut Launch,
    pub block: *mut Block,
    pub yielder: *const Yielder<(), ()>,
}

/// A stack with the context in its first page and a guard in its second.
#[derive(Debug)]
pub(crate) struct AlignedStack {
    mapping: *mut libc::c_void,
    bottom: usize,
}

impl AlignedStack {
    pub fn new() -> io::Result<Self> {
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no existing memory.
        let mapping = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                2 * STACK_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapping == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let bottom = (mapping as usize).next_multiple_of(STACK_BYTES);
        let stack = AlignedStack { mapping, bottom };
        // SAFETY: the page lies in the new mapping, and nothing uses it yet.
        let guarded = unsafe {
            libc::mprotect((bottom + PAGE_BYTES) as *mut libc::c_void, PAGE_BYTES, libc::PROT_NONE)
        };
        if guarded != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stack)
    }

    pub fn context(&self) -> *mut Thread {
        self.bottom as *mut Thread
    }
}

// SAFETY: the mapping belongs to this value alone.
unsafe impl Send for AlignedStack {}

impl Drop for AlignedStack {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this size; no fiber runs on it any more.
        unsafe {
            libc::munmap(self.mapping, 2 * STACK_BYTES);
        }
    }
}

// SAFETY: the mapping lives as long as the value, the usable part starts above a guard page, and both ends are
// multiples of the page size.
unsafe impl Stack for AlignedStack {
    fn base(&self) -> StackPointer {
        StackPointer::new(self.bottom + STACK_BYTES).unwrap_or(StackPointer::MAX)
    }

    fn limit(&self) -> StackPointer {
        StackPointer::new(self.bottom + PAGE_BYTES).unwrap_or(StackPointer::MAX)
    }
}

/// A thread of execution.
pub(crate) struct Fiber {
    coroutine: Coroutine<(), (), (), AlignedStack>,
    thread: *mut Thread,
}

impl std::fmt::Debug for Fiber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fiber").field("done", &self.coroutine.done()).finish_non_exhaustive()
    }
}

impl Fiber {
    /// A thread that will call `entry(arguments)`, with this context.
    ///
    /// # Safety
    /// Launch, block and arguments must outlive the fiber, and `entry` must be the entry of a kernel that takes them.
    pub unsafe fn new(stack: AlignedStack, context: Thread, entry: unsafe extern "C" fn(*const u8)) -> Self {
        let thread = stack.context();
        let arguments = context.arguments;
        // SAFETY: the context's page is writable, aligned, and used by nobody else.
        unsafe { thread.write(context) };
        let coroutine = Coroutine::with_stack(stack, move |yielder: &Yielder<(), ()>, ()| {
            // SAFETY: the context is alive as long as this fiber's stack; the caller vouches for entry and arguments.
            unsafe {
                (*thread).yielder = yielder;
                entry(arguments);
            }
        });
        Fiber { coroutine, thread }
    }

    /// The block that the thread belongs to. Set before it first runs.
    pub fn set_block(&mut self, block: *mut Block) {
        // SAFETY: the context is alive as long as the stack that the coroutine owns, and the thread does not run.
        unsafe { (*self.thread).block = block }
    }

    /// Runs the thread until it waits or ends; true if it has ended.
    pub fn resume(&mut self) -> bool {
        self.coroutine.resume(()).as_return().is_some()
    }

    /// Gives up the thread, wherever it is, for its stack.
    pub fn into_stack(mut self) -> AlignedStack {
        // SAFETY: kernels are C++ without destructors of consequence, and `suspend` holds nothing that needs dropping.
        unsafe { self.coroutine.force_reset() };
        self.coroutine.into_stack()
    }
}

/// Lets other threads run until this one is resumed.
///
/// # Safety
/// `thread` must be the context of the running thread, and no reference into launch or block may be held.
pub(crate) unsafe fn suspend(thread: *const Thread) {
    // SAFETY: the yielder is valid while the thread runs, which the caller vouches for.
    unsafe { (*(*thread).yielder).suspend(()) }
}
