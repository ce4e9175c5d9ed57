//! The executor.

use crate::error::{Error, Result};
use crate::fault::{Fault, FaultKind, Place, RawFault};
use crate::library::kernel_library::KernelLibrary;
use crate::machine::launch::{Launch, Pool, Setup, Work};
use crate::machine::product;
use crate::machine::request;
use crate::machine::run;
use crate::machine::schedule::Schedule;
use crate::memory::clock::Actor;
use crate::memory::global::{GlobalMemory, OutOfBounds};
use crate::memory::shadow::Fresh;
use crate::memory::traffic::{StepRecord, Traffic};
use lora_kernels::cuda::executor::Executor;
use lora_kernels::cuda::step::{self, Step};
use lora_kernels::cuda::target::Target;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Multiprocessors of an H100.
const RESIDENT_LIMIT: usize = 132;

/// The name of the buffer that [`Executor::workspace`] gives out.
pub const WORKSPACE: &str = "workspace";

/// A device that exists in this process only.
///
/// Kernels run one after the other here, but one that is launched programmatically may start before the kernels before it have
/// ended: until a thread, or one it has met in a barrier, has waited for them, what it does must not conflict with what they
/// did. Fills and copies end such a chain. Library products do not: nobody knows when their kernels let others start.
#[derive(Debug)]
pub struct Emulator {
    library: Arc<KernelLibrary>,
    memory: GlobalMemory,
    pool: Pool,
    schedule: Schedule,
    target: Target,
    workspace: Option<(u64, usize)>,
    resident_limit: usize,
    /// Blocks of the kernels, since the last time that everything before had ended, that a programmatic launch may overlap.
    overlapping_blocks: u64,
    records: Vec<StepRecord>,
    last_fault: Option<Box<Fault>>,
}

impl Emulator {
    /// A device with the crate's kernels.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) if there was no C++ compiler when this crate was built.
    pub fn new() -> Result<Emulator> {
        Ok(Emulator::with_library(KernelLibrary::standard()?))
    }

    /// A device with other kernels.
    pub fn with_library(library: Arc<KernelLibrary>) -> Emulator {
        Emulator {
            library,
            memory: GlobalMemory::default(),
            pool: Pool::default(),
            schedule: Schedule::default(),
            target: Target { compute_capability: (9, 0), shared_bytes_per_block: 227 << 10 },
            workspace: None,
            resident_limit: RESIDENT_LIMIT,
            overlapping_blocks: 0,
            records: Vec::new(),
            last_fault: None,
        }
    }

    /// A device with the crate's kernels for a test, or `None` after a loud message that the test is skipped.
    ///
    /// # Panics
    /// The emulator is unavailable and the environment says `LORA_KERNELS_REQUIRE_EMULATOR=1`.
    pub fn for_test(test: &str) -> Option<Emulator> {
        available(test, Emulator::new())
    }

    /// Changes the schedule of later launches.
    pub fn set_schedule(&mut self, schedule: Schedule) {
        self.schedule = schedule;
    }

    /// The schedule of later launches.
    pub fn schedule(&self) -> Schedule {
        self.schedule
    }

    /// Changes what the planner is told of the device, and the limit on a block's shared memory.
    pub fn set_target(&mut self, target: Target) {
        self.target = target;
    }

    /// Changes how many blocks the device holds at a time: blocks that wait for later ones than these wait for ever. At first
    /// 132, one for each multiprocessor of an H100.
    pub fn set_resident_limit(&mut self, blocks: usize) {
        self.resident_limit = blocks;
    }

    /// The kernels.
    pub fn library(&self) -> &KernelLibrary {
        &self.library
    }

    /// A new buffer that nobody has written: reading it is a fault. The address is a multiple of 256.
    pub fn allocate(&mut self, name: &str, bytes: usize) -> u64 {
        self.memory.allocate(name, bytes)
    }

    /// A new buffer of which only touched pages cost memory, however large it is. It holds zeros, but reading what nobody
    /// has written is a fault as anywhere.
    pub fn reserve(&mut self, name: &str, bytes: usize) -> u64 {
        self.memory.reserve(name, bytes)
    }

    /// Runs some blocks of a launch, counted through its grid, as if the others had nothing to do: what they do must not
    /// matter to these. The grid may have more blocks than could be run.
    ///
    /// # Errors
    /// As for [`Executor::run`]; blocks that are not in the grid, or cut a cluster.
    pub fn run_blocks(&mut self, launch: &step::Launch, blocks: Range<u64>) -> lora_kernels::Result<()> {
        let result = self.launch(launch, blocks.clone());
        self.finish(launch.kernel.symbol(), blocks.end.saturating_sub(blocks.start), result)
    }

    /// Frees the buffer that starts at an address; false if there is none.
    pub fn free(&mut self, address: u64) -> bool {
        self.memory.free(address)
    }

    /// What the last failed step did wrong.
    pub fn last_fault(&self) -> Option<&Fault> {
        self.last_fault.as_deref()
    }

    /// The steps run since the start, or since [`Emulator::clear_records`].
    pub fn records(&self) -> &[StepRecord] {
        &self.records
    }

    /// Forgets what was recorded.
    pub fn clear_records(&mut self) {
        self.records.clear();
    }

    /// Traffic of all buffers of a name, over all recorded steps.
    pub fn traffic(&self, buffer: &str) -> Traffic {
        let mut total = Traffic::default();
        for traffic in self.records.iter().filter_map(|record| record.buffers.get(buffer)) {
            total += *traffic;
        }
        total
    }

    fn fail(&mut self, kernel: &str, fault: RawFault, place: Option<Place>) -> lora_kernels::Error {
        let lines = |site| self.library.lines(site).to_vec();
        let fault = Fault {
            kind: fault.kind,
            message: fault.message,
            kernel: kernel.to_owned(),
            block: place.map(|place| place.block),
            thread: place.map(|place| place.thread),
            lines: place.map(|place| lines(place.site)).unwrap_or_default(),
            other_lines: fault.other.map(lines).unwrap_or_default(),
            schedule: self.schedule,
        };
        let error = lora_kernels::Error::Cuda { call: "the emulated kernel", message: fault.to_string() };
        self.last_fault = Some(Box::new(fault));
        error
    }

    fn launch(
        &mut self,
        step: &step::Launch,
        run: Range<u64>,
    ) -> std::result::Result<Work, (RawFault, Option<Place>)> {
        let invalid = |message: String| (RawFault::new(FaultKind::InvalidLaunch, message), None);
        let Some(mut kernel) = self.library.kernel(step.kernel.symbol()) else {
            return Err(invalid("there is no such kernel".into()));
        };
        if step.arguments.len() != kernel.argument_bytes {
            return Err(invalid(format!(
                "{} bytes of arguments for a struct of {}",
                step.arguments.len(),
                kernel.argument_bytes
            )));
        }
        let threads = step.kernel.threads();
        if threads != kernel.threads || threads == 0 || threads > 1024 {
            return Err(invalid(format!(
                "{threads} threads in a block, where the kernel declares {}",
                kernel.threads
            )));
        }
        step.check(self.target).map_err(|error| invalid(error.to_string()))?;
        kernel.cluster = request::cluster(step, kernel.cluster).map_err(invalid)?;
        let arguments = request::arguments(step).map_err(invalid)?;
        let [x, y, z] = step.grid;
        let all = request::blocks(step);
        if all == 0 || y > 65535 || z > 65535 || x > i32::MAX as u32 {
            return Err(invalid(format!("a grid of {:?}", step.grid)));
        }
        if !x.is_multiple_of(kernel.cluster) {
            return Err(invalid(format!(
                "a grid of {:?} for clusters of {} blocks",
                step.grid, kernel.cluster
            )));
        }
        let cuts = |block: u64| !block.is_multiple_of(u64::from(kernel.cluster.max(1)));
        if run.is_empty() || run.end > all || cuts(run.start) || cuts(run.end) {
            return Err(invalid(format!("blocks {run:?} of a grid of {:?}", step.grid)));
        }
        let blocks = run.end - run.start;
        if blocks > Actor::MAX_BLOCKS {
            return Err(invalid(format!("{blocks} blocks, where the emulator takes {}", Actor::MAX_BLOCKS)));
        }
        if kernel.cluster as usize > self.resident_limit {
            return Err(invalid(format!(
                "a cluster of {} blocks, where the device holds {} at a time",
                kernel.cluster, self.resident_limit
            )));
        }
        let first_block = if step.programmatic { self.overlapping_blocks } else { 0 };
        if first_block + blocks > Actor::MAX_BLOCKS {
            return Err(invalid(format!(
                "{} blocks of kernels that may overlap, where the emulator takes {}",
                first_block + blocks,
                Actor::MAX_BLOCKS
            )));
        }
        self.overlapping_blocks = first_block + blocks;
        self.memory.next_launch(blocks as u32, step.programmatic && first_block > 0);
        let setup = Setup {
            library: self.library.clone(),
            kernel,
            grid: step.grid,
            blocks: run,
            dimensions: [threads, 1, 1],
            shared_bytes: step.shared_bytes as usize,
            shared_limit: self.target.shared_bytes_per_block as usize,
            resident_limit: self.resident_limit,
            first_block: first_block as u32,
            programmatic: step.programmatic,
            arguments: &arguments,
            schedule: self.schedule,
        };
        let (memory, pool) = (std::mem::take(&mut self.memory), std::mem::take(&mut self.pool));
        let mut launch = Launch::new(setup, memory, pool);
        let result = run::run(&mut launch);
        let (work, mut fault) = (launch.work, launch.fault.take());
        if step.programmatic && !launch.waited_for_earlier && fault.is_none() {
            let message = "no thread of it waits for the kernels before";
            fault = Some((RawFault::new(FaultKind::MissingGridWait, message), None));
        }
        (self.memory, self.pool) = launch.into_parts();
        if let Err(error) = result {
            return Err(invalid(format!("the emulator is out of memory: {error}")));
        }
        match fault {
            None => Ok(work),
            Some(fault) => Err(fault),
        }
    }

    fn zero(&mut self, zero: &step::Zero) -> std::result::Result<(), RawFault> {
        self.overlapping_blocks = 0;
        let bytes = vec![0; zero.bytes as usize];
        self.memory.write(zero.address, &bytes).map_err(|error| {
            RawFault::new(FaultKind::OutOfBounds, format!("a fill of {} bytes {}", zero.bytes, error.0))
        })?;
        if let Ok((buffer, _)) = self.memory.locate(zero.address as usize, zero.bytes as usize) {
            let fresh = Fresh { read: 0, written: zero.bytes };
            buffer.traffic.add(true, zero.bytes, fresh, zero.bytes.div_ceil(32));
        }
        Ok(())
    }

    /// Records what a step did, or reports its fault.
    fn finish(
        &mut self,
        name: &str,
        blocks: u64,
        result: std::result::Result<Work, (RawFault, Option<Place>)>,
    ) -> lora_kernels::Result<()> {
        let buffers = self.take_traffic();
        match result {
            Ok(Work { tensor_core_operations, matrix_bank_conflicts }) => {
                let name = name.to_owned();
                self.records.push(StepRecord {
                    name,
                    blocks,
                    tensor_core_operations,
                    matrix_bank_conflicts,
                    buffers,
                });
                Ok(())
            }
            Err((fault, place)) => Err(self.fail(name, fault, place)),
        }
    }

    /// Moves the traffic that a step caused into a record.
    fn take_traffic(&mut self) -> BTreeMap<String, Traffic> {
        let mut taken: BTreeMap<String, Traffic> = BTreeMap::new();
        for buffer in self.memory.buffers_mut() {
            let traffic = std::mem::take(&mut buffer.traffic);
            if traffic != Traffic::default() {
                *taken.entry(buffer.name.clone()).or_default() += traffic;
            }
        }
        taken
    }
}

/// The device, or `None` after a loud message that the test is skipped.
///
/// # Panics
/// The kernels do not compile or load; or there is no compiler and the environment says `LORA_KERNELS_REQUIRE_EMULATOR=1`.
pub fn available<T>(test: &str, device: Result<T>) -> Option<T> {
    match device {
        Ok(device) => Some(device),
        Err(error) => {
            assert!(matches!(error, Error::Unavailable(_)), "{test}: {error}");
            let required =
                std::env::var_os("LORA_KERNELS_REQUIRE_EMULATOR").is_some_and(|value| value == "1");
            assert!(!required, "{test}: LORA_KERNELS_REQUIRE_EMULATOR=1, but {error}");
            eprintln!("SKIPPED {test}: {error}");
            None
        }
    }
}

fn out_of_bounds(call: &'static str, error: OutOfBounds) -> lora_kernels::Error {
    lora_kernels::Error::Cuda { call, message: error.0 }
}

impl Executor for Emulator {
    fn target(&self) -> Target {
        self.target
    }

    /// Fresh poison for every use.
    fn workspace(&mut self, bytes: usize) -> lora_kernels::Result<u64> {
        match self.workspace {
            Some((address, available)) if available >= bytes => {
                self.memory.poison(address, available).map_err(|error| out_of_bounds("workspace", error))?;
                Ok(address)
            }
            earlier => {
                if let Some((address, _)) = earlier {
                    self.memory.free(address);
                }
                let address = self.memory.allocate(WORKSPACE, bytes);
                self.workspace = Some((address, bytes));
                Ok(address)
            }
        }
    }

    fn run(&mut self, step: &Step) -> lora_kernels::Result<()> {
        let without_place = |result: std::result::Result<(), RawFault>| {
            result.map(|()| Work::default()).map_err(|fault| (fault, None))
        };
        match step {
            Step::Launch(launch) => {
                let blocks = request::blocks(launch);
                let result = self.launch(launch, 0..blocks);
                self.finish(launch.kernel.symbol(), blocks, result)
            }
            Step::Product(product) => {
                self.overlapping_blocks = 1;
                let result = product::run(&mut self.memory, product);
                self.finish("product", 0, without_place(result))
            }
            Step::Zero(zero) => {
                let result = self.zero(zero);
                self.finish("zero", 0, without_place(result))
            }
        }
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> lora_kernels::Result<()> {
        self.overlapping_blocks = 0;
        self.memory.write(address, bytes).map_err(|error| out_of_bounds("write", error))
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> lora_kernels::Result<()> {
        self.overlapping_blocks = 0;
        self.memory.read(address, bytes).map_err(|error| out_of_bounds("read", error))
    }
}
