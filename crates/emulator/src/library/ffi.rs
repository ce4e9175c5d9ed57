//! The functions that kernels call, by the names of include/emulator/functions.h.
//!
//! Each runs on the calling thread's stack. References into launch and block end before the thread is suspended.

use crate::fault::{FaultKind, RawFault};
use crate::machine::block::WARP;
use crate::machine::caller::{Caller, Flow};
use crate::machine::thread::{Thread, suspend};
use crate::mechanisms::atomic::{self, Operation, Order};
use crate::mechanisms::warp::{self, CollectiveKind};
use crate::mechanisms::wgmma::{self, Instruction, Shape};
use crate::mechanisms::{
    barrier, cluster, cp_async, grid_dependency, mbarrier, mma, register_operands, registers, tma,
};
use crate::memory::access::{self, Request, check};
use crate::memory::proxy::Space;
use crate::memory::shadow::AccessKind;
use std::ffi::c_void;

/// Runs `body` for the calling thread, suspends it if asked to, and for ever after a fault.
///
/// # Safety
/// `thread` must be the context of the running thread.
unsafe fn enter(
    thread: *mut Thread,
    pc: usize,
    body: impl FnOnce(&mut Caller<'_>) -> Result<Flow, RawFault>,
) {
    // SAFETY: launch and block outlive the thread, and are different objects; the scheduler holds no reference to either
    // while a thread runs.
    let flow = unsafe {
        let mut caller = Caller {
            launch: &mut *(*thread).launch,
            block: &mut *(*thread).block,
            thread: (*thread).index,
            pc,
        };
        caller.block.threads[caller.thread].pc = pc;
        let result = body(&mut caller);
        result.map_err(|fault| caller.launch.record(fault, caller.block.index, caller.thread, pc))
    };
    match flow {
        Ok(Flow::Continue) => {}
        // SAFETY: the caller's condition, and no reference is held.
        Ok(Flow::Suspend) => unsafe { suspend(thread) },
        Err(()) => loop {
            // SAFETY: as above. The launch is over; nobody resumes this thread.
            unsafe { suspend(thread) }
        },
    }
}

/// What the last collective operation gave the thread.
///
/// # Safety
/// As for [`enter`].
unsafe fn result(thread: *mut Thread) -> u64 {
    // SAFETY: as for `enter`.
    unsafe { (&(*(*thread).block).threads)[(*thread).index].result }
}

/// Lets others run before a load in what is probably a waiting loop.
///
/// # Safety
/// As for [`enter`].
unsafe fn let_others_run(thread: *mut Thread, pc: usize) {
    // SAFETY: as for `enter`.
    unsafe {
        enter(thread, pc, |caller| {
            caller.spin();
            Ok(Flow::Suspend)
        });
    }
}

const WRITE: u32 = 1;
const VOLATILE: u32 = 2;
const MAY_BE_UNALIGNED: u32 = 4;

unsafe extern "C" fn memory_access(thread: *mut Thread, pc: usize, address: usize, bytes: u64, flags: u32) {
    let kind =
        AccessKind { write: flags & WRITE != 0, atomic: flags & VOLATILE != 0, asynchronous_proxy: false };
    let mut request = Request::new(address, bytes as usize, kind);
    if flags & MAY_BE_UNALIGNED != 0 {
        request.alignment = 1;
    }
    // SAFETY: runtime.cpp passes the running thread's context.
    unsafe {
        if flags & (VOLATILE | WRITE) == VOLATILE {
            let_others_run(thread, pc);
        }
        enter(thread, pc, |caller| check(caller, &request).map(|()| Flow::Continue));
    }
}

/// Functions that only call `enter`.
macro_rules! functions {
    ($($name:ident($caller:ident $(, $parameter:ident: $type:ty)*) $body:block)*) => {
        $(unsafe extern "C" fn $name(thread: *mut Thread, pc: usize $(, $parameter: $type)*) {
            // SAFETY: runtime.cpp passes the running thread's context.
            unsafe {
                enter(thread, pc, |$caller| $body)
            }
        })*
    };
}

functions! {
    barrier_sync(caller, id: u32, threads: u32) { barrier::arrive(caller, id, threads, true) }
    barrier_arrive(caller, id: u32, threads: u32) { barrier::arrive(caller, id, threads, false) }
    sync_warp(caller, mask: u32) { warp::join(caller, CollectiveKind::SyncWarp, mask, [0; 3]) }
    mma(caller, kind: u32, d: u64, a: u64, b: u64) {
        warp::join(caller, CollectiveKind::Mma(mma::Operands::from_ffi(kind)), u32::MAX, [d, a, b])
    }
    ldmatrix(caller, registers: u64, matrices: u32, transposed: u32, row: u64) {
        let kind = CollectiveKind::LdMatrix { matrices, transposed: transposed != 0 };
        warp::join(caller, kind, u32::MAX, [registers, row, 0])
    }
    stmatrix(caller, registers: u64, matrices: u32, transposed: u32, row: u64) {
        let kind = CollectiveKind::StMatrix { matrices, transposed: transposed != 0 };
        warp::join(caller, kind, u32::MAX, [registers, row, 0])
    }
    cp_async(caller, shared: usize, global: usize, bytes: u32, source_bytes: u32) {
        cp_async::issue(caller, shared, global, bytes as usize, source_bytes as usize).map(|()| Flow::Continue)
    }
    cp_async_commit(caller) {
        cp_async::commit(caller);
        Ok(Flow::Continue)
    }
    cp_async_wait(caller, pending: u32) {
        cp_async::wait(caller, pending as usize);
        Ok(Flow::Continue)
    }
    fence(caller, kind: u32) {
        match kind {
            FENCE_DEVICE => atomic::fence(caller),
            FENCE_PROXY_ASYNC_SHARED => fence_proxy(caller, Space::Shared),
            FENCE_PROXY_ASYNC_GLOBAL => fence_proxy(caller, Space::Global),
            FENCE_MBARRIER_INIT => mbarrier::fence_init(caller),
            // Of block scope: barriers order what a block does.
            _ => {}
        }
        Ok(Flow::Continue)
    }
    misaligned(caller, address: usize, alignment: u32) {
        Err(access::misaligned(caller, address, alignment as usize))
    }
    outside_array(_caller, index: i64) {
        Err(RawFault::new(FaultKind::OutOfBounds, format!("uses element {index} of an array that does not have it")))
    }
    pause(caller) {
        caller.spin();
        Ok(Flow::Suspend)
    }
    mbarrier_init(caller, barrier: usize, arrivals: u32) { mbarrier::init(caller, barrier, arrivals) }
    mbarrier_arrive(caller, barrier: usize, bytes: u32, block_rank: i32, cluster_scope: u32) {
        mbarrier::arrive(caller, barrier, bytes, usize::try_from(block_rank).ok(), cluster_scope != 0)
    }
    cluster_arrive(caller) { cluster::arrive(caller) }
    tma_load(caller, shared: usize, map: usize, barrier: usize, column: i32, row: i32, blocks: i32) {
        tma::load(caller, shared, map, barrier, (column, row), u32::try_from(blocks).ok())
    }
    tma_store(caller, map: usize, shared: usize, column: i32, row: i32) {
        tma::store(caller, map, shared, (column, row))
    }
    tma_store_commit(caller) {
        tma::commit(caller);
        Ok(Flow::Continue)
    }
    tma_store_wait(caller, pending: u32, only_read: u32) {
        tma::wait(caller, pending as usize, only_read != 0);
        Ok(Flow::Continue)
    }
    wgmma_registers(caller, address: u64, words: u32) {
        register_operands::name(caller, address, words as usize);
        Ok(Flow::Continue)
    }
    grid_dependency_wait(caller) {
        grid_dependency::wait(caller);
        Ok(Flow::Continue)
    }
    wgmma_fence(caller) { wgmma::join(caller, Instruction::Fence, (0, 0)) }
    wgmma_commit(caller) { wgmma::join(caller, Instruction::Commit, (0, 0)) }
    wgmma_wait(caller, pending: u32) { wgmma::join(caller, Instruction::Wait(pending), (0, 0)) }
    wgmma(caller, kind: u32, n: u32, flags: u32, d: u64, a_registers: u64, a: u64, b: u64) {
        let shape = Shape {
            operands: mma::Operands::from_ffi(kind),
            n: n as usize,
            accumulate: flags & 1 != 0,
            a_transposed: flags & 2 != 0,
            b_transposed: flags & 4 != 0,
            a: (a_registers == 0).then_some(a),
            b,
        };
        wgmma::join(caller, Instruction::Product(shape), (d, a_registers))
    }
    set_max_registers(caller, count: u32, increase: u32) {
        if !(24..=256).contains(&count) || !count.is_multiple_of(8) {
            let message = format!("setmaxnreg {count}: not a multiple of 8 from 24 to 256");
            return Err(RawFault::new(FaultKind::InvalidOperand, message));
        }
        let request = registers::Request { count, increase: increase != 0 };
        warp::join(caller, CollectiveKind::SetMaxRegisters(request), u32::MAX, [0; 3])
    }
    trap(_caller) { Err(RawFault::new(FaultKind::Trap, "__trap()")) }
}

const FENCE_DEVICE: u32 = 1;
const FENCE_PROXY_ASYNC_SHARED: u32 = 2;
const FENCE_PROXY_ASYNC_GLOBAL: u32 = 3;
const FENCE_MBARRIER_INIT: u32 = 4;

fn fence_proxy(caller: &mut Caller<'_>, space: Space) {
    caller.launch.proxy_fences.fence(caller.block, caller.thread, space);
}

/// Functions that wait: `body` is tried again until the thread's result is 1.
macro_rules! waiting_functions {
    ($($name:ident($caller:ident $(, $parameter:ident: $type:ty)*) $body:block)*) => {
        $(unsafe extern "C" fn $name(thread: *mut Thread, pc: usize $(, $parameter: $type)*) {
            // SAFETY: runtime.cpp passes the running thread's context.
            unsafe {
                loop {
                    enter(thread, pc, |$caller| $body);
                    if result(thread) == 1 {
                        return;
                    }
                }
            }
        })*
    };
}

waiting_functions! {
    mbarrier_wait(caller, barrier: usize, parity: u32, cluster_scope: u32) {
        mbarrier::wait(caller, barrier, parity, cluster_scope != 0)
    }
    registers_wait(caller, count: u32) { Ok(registers::wait(caller, count)) }
    cluster_wait(caller) { cluster::wait(caller) }
}

unsafe extern "C" fn shuffle(thread: *mut Thread, pc: usize, mask: u32, value: u64, source: u32) -> u64 {
    // SAFETY: runtime.cpp passes the running thread's context.
    unsafe {
        enter(thread, pc, |caller| {
            warp::join(caller, CollectiveKind::Shuffle, mask, [value, u64::from(source), 0])
        });
        result(thread)
    }
}

unsafe extern "C" fn vote(thread: *mut Thread, pc: usize, kind: u32, mask: u32, value: u64) -> u32 {
    let kind = if kind == 0 { CollectiveKind::Ballot } else { CollectiveKind::Match };
    // SAFETY: runtime.cpp passes the running thread's context.
    unsafe {
        enter(thread, pc, |caller| warp::join(caller, kind, mask, [value, 0, 0]));
        result(thread) as u32
    }
}

unsafe extern "C" fn active_mask(thread: *mut Thread, _pc: usize) -> u32 {
    // SAFETY: as for `enter`.
    unsafe { (*(*thread).block).live_lanes((*thread).index / WARP) }
}

unsafe extern "C" fn shared_address(thread: *mut Thread, pc: usize, address: usize) -> u32 {
    // SAFETY: runtime.cpp passes the running thread's context.
    unsafe {
        enter(thread, pc, |caller| {
            let window = caller.block.shared.window_address(address).ok_or_else(|| {
                RawFault::new(FaultKind::OutOfBounds, "the address in shared memory of what is not there")
            })?;
            caller.block.threads[caller.thread].result = u64::from(window);
            Ok(Flow::Continue)
        });
        result(thread) as u32
    }
}

unsafe extern "C" fn cluster_pointer(thread: *mut Thread, pc: usize, own: usize, rank: u32) -> usize {
    // SAFETY: runtime.cpp passes the running thread's context.
    unsafe {
        enter(thread, pc, |caller| {
            let pointer = cluster::pointer(caller, own, rank as usize)?;
            caller.block.threads[caller.thread].result = pointer as u64;
            Ok(Flow::Continue)
        });
        result(thread) as usize
    }
}

#[allow(clippy::too_many_arguments)]
unsafe extern "C" fn atomic(
    thread: *mut Thread,
    pc: usize,
    operation: u32,
    order: u32,
    address: usize,
    bytes: u32,
    operand: u64,
    expected: u64,
) -> u64 {
    let operation = Operation::from_ffi(operation);
    // SAFETY: runtime.cpp passes the running thread's context.
    unsafe {
        if matches!(operation, Operation::Load | Operation::CompareExchange) {
            let_others_run(thread, pc);
        }
        enter(thread, pc, |caller| {
            let order = Order::from_ffi(order);
            let old = atomic::execute(caller, operation, order, address, bytes as usize, operand, expected)?;
            caller.block.threads[caller.thread].result = old;
            Ok(Flow::Continue)
        });
        result(thread)
    }
}

/// Every function, with the name that kernels know it by.
pub(crate) fn functions() -> Vec<(&'static std::ffi::CStr, *const c_void)> {
    macro_rules! table {
        ($($name:ident)*) => {
            vec![$((
                // SAFETY: the literal ends with its only nul.
                unsafe { std::ffi::CStr::from_bytes_with_nul_unchecked(concat!(stringify!($name), "\0").as_bytes()) },
                $name as *const c_void,
            )),*]
        };
    }
    table![
        memory_access barrier_sync barrier_arrive sync_warp shuffle vote active_mask atomic fence misaligned outside_array pause trap shared_address mma
        ldmatrix stmatrix cp_async cp_async_commit cp_async_wait mbarrier_init mbarrier_arrive mbarrier_wait
        cluster_arrive cluster_wait cluster_pointer tma_load tma_store tma_store_commit tma_store_wait wgmma_fence
        wgmma_commit wgmma_wait wgmma wgmma_registers set_max_registers registers_wait grid_dependency_wait
    ]
}
