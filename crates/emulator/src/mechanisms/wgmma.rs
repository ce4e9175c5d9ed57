//! `wgmma`: asynchronous products of a warpgroup.
//!
//! Layouts as in the PTX manual, "Asynchronous warpgroup level matrix instructions". Sums go from k = 0 upwards, as in
//! [`mma`](crate::mechanisms::mma). Shared memory counts as being read from the instruction to the wait for its group, whenever the
//! product is computed. The warpgroup acts as one: its 128 threads meet in every instruction, which hardware does not
//! promise.

use crate::fault::{FaultKind, RawFault};
use crate::machine::block::Waiting;
use crate::machine::caller::{Caller, Flow};
use crate::machine::schedule::Completion;
use crate::mechanisms::mma::Operands;
use crate::mechanisms::register_operands::{Array, ThreadRegisters};
use crate::mechanisms::tensor_map::Swizzle;
use crate::memory::access::{Request, check_for, check_proxy_fence};
use crate::memory::clock::{IN_FLIGHT, Reach};
use crate::memory::shadow::{Access, AccessKind, Site};
use std::collections::VecDeque;

/// Threads of a warpgroup.
pub(crate) const WARPGROUP: usize = 128;
const ROWS: usize = 64;
const K: usize = 16;
const MAX_N: usize = 256;
/// Shared memory is read in pieces of eight 16-bit elements.
const PIECE: usize = 16;
/// Registers of a thread that hold A.
const A_REGISTERS: usize = 4;
/// Asynchronous engines up to this one belong to mbarriers.
const FIRST_ENGINE: usize = 48;

/// A product, but for the threads' registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub operands: Operands,
    pub n: usize,
    pub accumulate: bool,
    pub a_transposed: bool,
    pub b_transposed: bool,
    /// Descriptor; `None` if A is in registers.
    pub a: Option<u64>,
    pub b: u64,
}

/// What the threads of a warpgroup do together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instruction {
    Fence,
    Commit,
    Wait(u32),
    Product(Shape),
}

impl std::fmt::Display for Instruction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Instruction::Fence => write!(f, "wgmma.fence"),
            Instruction::Commit => write!(f, "wgmma.commit_group"),
            Instruction::Wait(pending) => write!(f, "wgmma.wait_group {pending}"),
            Instruction::Product(shape) => write!(f, "wgmma.mma_async m64n{}k16", shape.n),
        }
    }
}

/// Addresses of a thread's registers: D, A.
type Registers = (u64, u64);

#[derive(Debug)]
struct Product {
    shape: Shape,
    registers: Box<[Registers; WARPGROUP]>,
    computed: bool,
    /// Window addresses of the pieces that it reads.
    pieces: Vec<u32>,
    site: Site,
}

/// A warpgroup's gathering, and its products in flight.
#[derive(Debug)]
pub(crate) struct Warpgroup {
    gathering: Option<Instruction>,
    arrived: Vec<usize>,
    registers: Box<[Registers; WARPGROUP]>,
    /// What each thread may hand to products.
    pub named: Vec<ThreadRegisters>,
    open: Vec<Product>,
    groups: VecDeque<Vec<Product>>,
}

impl Default for Warpgroup {
    fn default() -> Self {
        Warpgroup {
            gathering: None,
            arrived: Vec::new(),
            registers: Box::new([(0, 0); WARPGROUP]),
            named: std::iter::repeat_with(ThreadRegisters::default).take(WARPGROUP).collect(),
            open: Vec::new(),
            groups: VecDeque::new(),
        }
    }
}

impl Warpgroup {
    /// How many products nobody has waited for.
    pub fn in_flight(&self) -> usize {
        self.open.len() + self.groups.iter().map(Vec::len).sum::<usize>()
    }

    /// In words, for a deadlock's report.
    pub fn describe(&self, number: usize) -> Option<String> {
        let instruction = self.gathering?;
        Some(format!("warpgroup {number}: {} of 128 threads arrived at {instruction}", self.arrived.len()))
    }
}

/// The calling thread joins an instruction of its warpgroup.
pub(crate) fn join(
    caller: &mut Caller<'_>,
    instruction: Instruction,
    registers: Registers,
) -> Result<Flow, RawFault> {
    let number = caller.thread / WARPGROUP;
    let divergence = |message: String| RawFault::new(FaultKind::Divergence, message);
    let Some(warpgroup) = caller.block.warpgroups.get_mut(number) else {
        return Err(divergence(format!("{instruction} in a warpgroup of fewer than 128 threads")));
    };
    match warpgroup.gathering {
        Some(other) if other != instruction => {
            return Err(divergence(format!(
                "{instruction}, while {} threads of the warpgroup wait in {other}{}",
                warpgroup.arrived.len(),
                if matches!((other, instruction), (Instruction::Product(_), Instruction::Product(_))) {
                    " with other operands"
                } else {
                    ""
                }
            )));
        }
        _ => warpgroup.gathering = Some(instruction),
    }
    warpgroup.arrived.push(caller.thread);
    warpgroup.registers[caller.thread % WARPGROUP] = registers;
    if warpgroup.arrived.len() < WARPGROUP {
        caller.wait(Waiting::Warpgroup { instruction });
        return Ok(Flow::Suspend);
    }
    warpgroup.gathering = None;
    let arrived = std::mem::take(&mut warpgroup.arrived);
    execute(caller, number, instruction)?;
    for thread in arrived {
        if thread != caller.thread {
            caller.block.wake(thread);
        }
    }
    Ok(Flow::Continue)
}

fn execute(caller: &mut Caller<'_>, number: usize, instruction: Instruction) -> Result<(), RawFault> {
    let warpgroup = &mut caller.block.warpgroups[number];
    match instruction {
        Instruction::Fence => fence(warpgroup)?,
        Instruction::Commit => {
            let group = std::mem::take(&mut warpgroup.open);
            warpgroup.groups.push_back(group);
        }
        Instruction::Wait(pending) => wait(caller, number, pending as usize)?,
        Instruction::Product(shape) => issue(caller, number, shape)?,
    }
    Ok(())
}

/// Address in the shared window of the piece that starts at row or column `outer` of a factor and step `k`.
fn piece(descriptor: u64, transposed: bool, outer: usize, k: usize) -> u32 {
    let field = |shift: u32| ((descriptor >> shift & 0x3fff) << 4) as usize;
    let (start, leading, stride) = (field(0), field(16), field(32));
    let swizzle = swizzle(descriptor);
    let offset = match (swizzle.row_bytes(), transposed) {
        // Matrices of 8 rows of 16 bytes, one after the other.
        (None, false) => outer / 8 * stride + k / 8 * leading + outer % 8 * PIECE,
        (None, true) => outer / 8 * stride + k / 8 * leading + k % 8 * PIECE,
        (Some(row), false) => outer / 8 * stride + outer % 8 * row + k * 2,
        (Some(row), true) => {
            let chunk = row / 2;
            outer / chunk * leading + k / 8 * stride + k % 8 * row + outer % chunk * 2
        }
    };
    swizzle.apply((start + offset) as u32)
}

fn swizzle(descriptor: u64) -> Swizzle {
    match descriptor >> 62 {
        0 => Swizzle::None,
        1 => Swizzle::Bytes128,
        2 => Swizzle::Bytes64,
        _ => Swizzle::Bytes32,
    }
}

/// The pieces of a factor with `extent` rows (A) or columns (B): (outer, k, window address).
fn pieces(descriptor: u64, transposed: bool, extent: usize) -> Vec<(usize, usize, u32)> {
    let (outer_step, k_step) = if transposed { (8, 1) } else { (1, 8) };
    (0..extent)
        .step_by(outer_step)
        .flat_map(|outer| (0..K).step_by(k_step).map(move |k| (outer, k)))
        .map(|(outer, k)| (outer, k, piece(descriptor, transposed, outer, k)))
        .collect()
}

/// Swizzled tiles start where the pattern does; only steps along k, within the rows of a K-major tile, start elsewhere.
fn check_pattern(descriptor: u64, transposed: bool, extent: usize) -> Result<(), RawFault> {
    let swizzle = swizzle(descriptor);
    let (Some(row), Some(pattern)) = (swizzle.row_bytes(), swizzle.pattern_bytes()) else { return Ok(()) };
    let field = |shift: u32| ((descriptor >> shift & 0x3fff) << 4) as usize;
    let (start, leading, stride) = (field(0), field(16), field(32));
    let rules = [
        (start % pattern < if transposed { PIECE } else { row }, "start"),
        (extent <= row / 2 || !transposed || leading.is_multiple_of(pattern), "leading offset"),
        (stride.is_multiple_of(pattern), "stride offset"),
    ];
    match rules.into_iter().find(|(holds, _)| !holds) {
        None => Ok(()),
        Some((_, field)) => Err(RawFault::new(
            FaultKind::Misaligned,
            format!(
                "the {field} of matrix descriptor {descriptor:#018x} is off the pattern of {swizzle:?}, which repeats \
                 every {pattern} bytes"
            ),
        )),
    }
}

const READ: AccessKind = AccessKind { write: false, atomic: false, asynchronous_proxy: true };

fn issue(caller: &mut Caller<'_>, number: usize, shape: Shape) -> Result<(), RawFault> {
    let operand = |message: String| RawFault::new(FaultKind::InvalidOperand, message);
    if shape.n == 0 || shape.n > MAX_N || !shape.n.is_multiple_of(8) {
        return Err(operand(format!("wgmma with n = {}", shape.n)));
    }
    for descriptor in shape.a.into_iter().chain([shape.b]) {
        if descriptor >> 49 & 7 != 0 {
            return Err(operand(format!("a matrix descriptor {descriptor:#018x} with a base offset")));
        }
    }
    let a = shape.a.map(|a| (a, shape.a_transposed, ROWS));
    for (descriptor, transposed, extent) in a.into_iter().chain([(shape.b, shape.b_transposed, shape.n)]) {
        check_pattern(descriptor, transposed, extent)?;
    }
    check_registers(
        &caller.block.warpgroups[number],
        &caller.block.warpgroups[number].registers,
        &shape,
        "which no wgmma.fence has named since they were last used",
    )?;
    let mut addresses = Vec::new();
    let factors = shape.a.map(|a| (a, shape.a_transposed, ROWS)).into_iter();
    for (descriptor, transposed, extent) in factors.chain([(shape.b, shape.b_transposed, shape.n)]) {
        for (_, _, window) in pieces(descriptor, transposed, extent) {
            let address = caller.block.shared.window_pointer(window).unwrap_or(0);
            let request = Request { in_flight: true, ..Request::new(address, PIECE, READ) };
            check_proxy_fence(caller, &request)?;
            read_by_engine(caller, number, &request)?;
            addresses.push(window);
        }
    }
    let now = match caller.launch.schedule.completion {
        Completion::Eager => true,
        Completion::Late => false,
        Completion::Random => caller.launch.random.coin(),
    };
    let site = caller.launch.site(caller.pc);
    let warpgroup = &mut caller.block.warpgroups[number];
    let registers = warpgroup.registers.clone();
    // Products happen in order: one that waits holds up those after it.
    let blocked = warpgroup.open.iter().chain(warpgroup.groups.iter().flatten()).any(|other| !other.computed);
    let mut product = Product { shape, registers, computed: false, pieces: addresses, site };
    if now && !blocked {
        compute(caller, number, &mut product)?;
    }
    caller.block.warpgroups[number].open.push(product);
    Ok(())
}

/// Checks the read as the calling thread's, and records it as the warpgroup's own engine's.
fn read_by_engine(caller: &mut Caller<'_>, number: usize, request: &Request) -> Result<(), RawFault> {
    let actor = caller.block.clocks.asynchronous_actor(FIRST_ENGINE + number);
    check_for(caller, actor, request)
}

fn wait(caller: &mut Caller<'_>, number: usize, pending: usize) -> Result<(), RawFault> {
    let groups = &mut caller.block.warpgroups[number].groups;
    let finished = groups.len().saturating_sub(pending);
    let mut products: Vec<Product> = groups.drain(..finished).flatten().collect();
    for product in &mut products {
        compute(caller, number, product)?;
    }
    let warpgroup = &mut caller.block.warpgroups[number];
    for product in &products {
        check_registers(warpgroup, &product.registers, &product.shape, CHANGED_IN_FLIGHT)?;
    }
    for product in &products {
        give_back(warpgroup, product);
    }
    let engine = FIRST_ENGINE + number;
    let actor = caller.block.clocks.asynchronous_actor(engine);
    let count = caller.block.clocks.complete_asynchronous(engine);
    for product in &products {
        let before = Access { actor, count: IN_FLIGHT, site: product.site, kind: READ };
        for &window in &product.pieces {
            if let Some(offset) = caller.block.shared.dynamic_offset(window, PIECE) {
                caller.block.shared.dynamic.complete(offset, PIECE, before, Access { count, ..before });
            }
        }
    }
    let released = caller.block.clocks.release_asynchronous(engine);
    for thread in number * WARPGROUP..(number + 1) * WARPGROUP {
        caller.block.clocks.acquire_released(thread, &released, Reach::NoStores);
    }
    Ok(())
}

/// The registers of D, and of A if it is in registers.
fn arrays(shape: &Shape, (d, a): Registers) -> impl Iterator<Item = Array> {
    let a = shape.a.is_none().then_some(Array { address: a, words: A_REGISTERS });
    std::iter::once(Array { address: d, words: shape.n / 2 }).chain(a)
}

fn unfenced(thread: usize, what: &str) -> RawFault {
    RawFault::new(
        FaultKind::UnfencedRegisters,
        format!("wgmma.mma_async takes registers of thread {thread} of the warpgroup {what}"),
    )
}

const CHANGED_IN_FLIGHT: &str = "that changed while it was in flight";

/// Products may take registers that were named at a fence and hold what they did then, or what products left.
fn check_registers(
    warpgroup: &Warpgroup,
    registers: &[Registers; WARPGROUP],
    shape: &Shape,
    problem: &str,
) -> Result<(), RawFault> {
    for (thread, registers) in registers.iter().enumerate() {
        for array in arrays(shape, *registers) {
            // SAFETY: the threads of the warpgroup wait in the emulator; their arrays are on their stacks.
            if !unsafe { warpgroup.named[thread].is_fenced(array) } {
                return Err(unfenced(thread, problem));
            }
        }
    }
    Ok(())
}

/// The threads may use a finished product's registers, but for those of products in flight.
fn give_back(warpgroup: &mut Warpgroup, finished: &Product) {
    for thread in 0..WARPGROUP {
        for array in arrays(&finished.shape, finished.registers[thread]) {
            let others = warpgroup.open.iter().chain(warpgroup.groups.iter().flatten());
            let in_use = others
                .flat_map(|other| arrays(&other.shape, other.registers[thread]))
                .any(|other| other.overlaps(array));
            if !in_use {
                warpgroup.named[thread].give_back(array);
            }
        }
    }
}

/// Named registers may be taken from now on. Those of products in flight must not have changed.
fn fence(warpgroup: &mut Warpgroup) -> Result<(), RawFault> {
    for thread in 0..WARPGROUP {
        let named = &warpgroup.named[thread];
        let in_flight = warpgroup.open.iter().chain(warpgroup.groups.iter().flatten());
        for array in in_flight.flat_map(|product| arrays(&product.shape, product.registers[thread])) {
            let renamed = named.naming().iter().any(|other| other.overlaps(array));
            // SAFETY: as in `check_registers`.
            if renamed && !unsafe { named.is_fenced(array) } {
                return Err(unfenced(thread, CHANGED_IN_FLIGHT));
            }
        }
        // SAFETY: as in `check_registers`.
        unsafe { warpgroup.named[thread].fence() }
    }
    Ok(())
}

/// Row and column of D that register `index` of a thread holds.
fn place(thread: usize, index: usize) -> (usize, usize) {
    let (warp, lane) = (thread / 32, thread % 32);
    (warp * 16 + lane / 4 + index / 2 % 2 * 8, index / 4 * 8 + lane % 4 * 2 + index % 2)
}

fn compute(caller: &mut Caller<'_>, number: usize, product: &mut Product) -> Result<(), RawFault> {
    if product.computed {
        return Ok(());
    }
    let warpgroup = &caller.block.warpgroups[number];
    check_registers(warpgroup, &product.registers, &product.shape, CHANGED_IN_FLIGHT)?;
    product.computed = true;
    let Shape { operands, n, accumulate, a_transposed, b_transposed, a, b } = product.shape;
    let mut left = [[0.0f32; K]; ROWS];
    let mut right = vec![[0.0f32; MAX_N]; K];
    let load = |descriptor, transposed, extent, put: &mut dyn FnMut(usize, usize, f32)| {
        for (outer, k, window) in pieces(descriptor, transposed, extent) {
            let Some(address) = caller.block.shared.window_pointer(window) else { continue };
            // SAFETY: checked when the product was issued: 16 aligned bytes of the block's shared memory.
            let words = unsafe { *(address as *const [u32; PIECE / 4]) };
            for element in 0..8 {
                let value = operands.decode(words[element / 2], element % 2);
                if transposed { put(outer + element, k, value) } else { put(outer, k + element, value) }
            }
        }
    };
    match a {
        Some(a) => load(a, a_transposed, ROWS, &mut |row, k, value| left[row][k] = value),
        None => {
            for (thread, (_, registers)) in product.registers.iter().enumerate() {
                let (row, within) = (thread / 32 * 16 + thread % 32 / 4, thread % 4 * 2);
                // SAFETY: each thread gave an array of four registers on its stack, which lives as long as the thread.
                let registers = unsafe { *(*registers as *const [u32; 4]) };
                for (index, register) in registers.into_iter().enumerate() {
                    for part in 0..2 {
                        left[row + index % 2 * 8][within + part + index / 2 * 8] =
                            operands.decode(register, part);
                    }
                }
            }
        }
    }
    load(b, b_transposed, n, &mut |column, k, value| right[k][column] = value);
    let mut sums = vec![[0.0f32; MAX_N]; ROWS];
    if accumulate {
        for (thread, (d, _)) in product.registers.iter().enumerate() {
            for index in 0..n / 2 {
                let (row, column) = place(thread, index);
                // SAFETY: each thread gave an array of n / 2 accumulators on its stack.
                sums[row][column] = unsafe { *(*d as *const f32).add(index) };
            }
        }
    }
    for (row, sums) in left.iter().zip(&mut sums) {
        for (factor, others) in row.iter().zip(&right) {
            for (sum, other) in sums[..n].iter_mut().zip(&others[..n]) {
                *sum += factor * other;
            }
        }
    }
    for (thread, (d, _)) in product.registers.iter().enumerate() {
        for index in 0..n / 2 {
            let (row, column) = place(thread, index);
            // SAFETY: as above; nobody else uses the registers of a product in flight.
            unsafe { *(*d as *mut f32).add(index) = sums[row][column] };
        }
        // SAFETY: as in `check_registers`.
        unsafe {
            caller.block.warpgroups[number].named[thread].update(Array { address: *d, words: n / 2 });
        }
    }
    caller.launch.work.tensor_core_operations += (2 * ROWS * n * K) as u64;
    Ok(())
}

/// A thread ended: its warpgroup must have finished its products, and must not wait for it.
pub(crate) fn thread_ended(caller: &mut Caller<'_>) -> Result<(), RawFault> {
    let Some(warpgroup) = caller.block.warpgroups.get(caller.thread / WARPGROUP) else {
        return Ok(());
    };
    if let Some(instruction) = warpgroup.gathering {
        return Err(RawFault::new(
            FaultKind::Divergence,
            format!("ends while {} threads of its warpgroup wait in {instruction}", warpgroup.arrived.len()),
        ));
    }
    match warpgroup.in_flight() {
        0 => Ok(()),
        count => Err(RawFault::new(
            FaultKind::InFlightAtExit,
            format!("ends with {count} wgmma products that it never waited for"),
        )),
    }
}
