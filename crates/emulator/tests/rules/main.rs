//! Rules of sm_90 that hardware does not enforce: a kernel that breaks one may be right for years, on some cards. For each,
//! kernels that keep it, which pass under every schedule, and kernels that break it, which are reported.

#[path = "../support/mod.rs"]
mod support;

mod cluster_life;
mod convergence;
mod programmatic_launch;
mod proxy_fences;
mod register_fences;
mod registers;
mod residency;
mod shared_limits;
mod swizzle_patterns;

use lora_emulator::{Emulator, Fault, FaultKind, KernelLibrary, Schedule, available};
use lora_kernels::DType;
use lora_kernels::cuda::executor::Executor;
use lora_kernels::cuda::kernel::Kernel;
use lora_kernels::cuda::step::{Launch, Step};
use lora_kernels::cuda::tensor_map::{Swizzle, TensorMap};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use support::{arguments, schedules};

/// Words of x, which holds 0, 1, 2, …, and of y, which holds zeros.
const WORDS: usize = 4096;

/// A device with the kernels of this folder; `None` after a loud message if they cannot be compiled here.
fn device() -> Option<Emulator> {
    static LIBRARY: OnceLock<lora_emulator::Result<Arc<KernelLibrary>>> = OnceLock::new();
    let build = || {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/rules/kernels");
        KernelLibrary::builder().directory(directory).build()
    };
    available("rules", LIBRARY.get_or_init(build).clone()).map(Emulator::with_library)
}

/// A launch of one of the kernels.
#[derive(Clone, Copy)]
struct Case {
    kernel: &'static str,
    blocks: u32,
    threads: u32,
    shared_bytes: u32,
    n: u32,
    swizzle: Swizzle,
    cluster: u32,
    programmatic: bool,
}

const fn case(kernel: &'static str, blocks: u32, threads: u32) -> Case {
    Case {
        kernel,
        blocks,
        threads,
        shared_bytes: 2048,
        n: 0,
        swizzle: Swizzle::None,
        cluster: 1,
        programmatic: false,
    }
}

impl Case {
    /// Words in a row of a box.
    fn box_columns(&self) -> u32 {
        match self.swizzle {
            Swizzle::None | Swizzle::Bytes128 => 32,
            Swizzle::Bytes64 => 16,
            Swizzle::Bytes32 => 8,
        }
    }

    /// Runs it on a device where x and y are at these addresses.
    fn launch(&self, emulator: &mut Emulator, x: u64, y: u64) -> lora_kernels::Result<()> {
        let map = |address| TensorMap {
            swizzle: self.swizzle,
            ..TensorMap::matrix(DType::F32, address, [WORDS as u64 / 32, 32], 128, [8, self.box_columns()])
        };
        let mut bytes = vec![0; 256];
        bytes.extend(arguments(&[x, y], &[self.n, 32 * self.box_columns()]));
        bytes.resize(320, 0);
        let kernel = Kernel::new("a test's", self.kernel, self.threads);
        emulator.run(&Step::Launch(Launch {
            cluster: [self.cluster, 1, 1],
            programmatic: self.programmatic,
            tensor_maps: vec![(0, map(x)), (128, map(y))],
            ..Launch::new(kernel, [self.blocks, 1, 1], self.shared_bytes, bytes)
        }))
    }
}

/// Runs the cases one after the other under every schedule. What y holds in the end, or what the last one did wrong.
fn run(cases: &[Case], set_up: impl Fn(&mut Emulator)) -> Vec<Result<Vec<u32>, Box<Fault>>> {
    run_under(&schedules(), cases, set_up)
}

/// The same under these schedules.
fn run_under(
    schedules: &[Schedule],
    cases: &[Case],
    set_up: impl Fn(&mut Emulator),
) -> Vec<Result<Vec<u32>, Box<Fault>>> {
    let Some(mut emulator) = device() else { return Vec::new() };
    set_up(&mut emulator);
    let x: Vec<u32> = (0..WORDS as u32).collect();
    let each = |schedule| {
        emulator.set_schedule(schedule);
        let x = support::upload(&mut emulator, "x", &x);
        let y = support::upload(&mut emulator, "y", &[0u32; WORDS]);
        let (last, earlier) = cases.split_last().expect("a case");
        for case in earlier {
            case.launch(&mut emulator, x, y).unwrap_or_else(|error| panic!("{error}"));
        }
        let result = last.launch(&mut emulator, x, y);
        let found = match result {
            Ok(()) => Ok(support::download(&mut emulator, y, WORDS)),
            Err(_) => Err(Box::new(emulator.last_fault().expect("a failed launch leaves a fault").clone())),
        };
        assert!(emulator.free(x) && emulator.free(y));
        found
    };
    schedules.iter().copied().map(each).collect()
}

/// The cases pass under every schedule, and leave these words at the start of y.
fn keeps(cases: &[Case], expected: &[u32]) {
    for found in run(cases, |_| ()) {
        let y = found.unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(y[..expected.len()], *expected, "{}", cases[cases.len() - 1].kernel);
    }
}

/// The last case is reported as one of these under every schedule; returns what it was.
fn breaks(cases: &[Case], kinds: &[FaultKind]) -> Vec<Fault> {
    let fault = |found: Result<Vec<u32>, Box<Fault>>| {
        let fault = found.expect_err(cases[cases.len() - 1].kernel);
        assert!(kinds.contains(&fault.kind), "{fault}");
        *fault
    };
    run(cases, |_| ()).into_iter().map(fault).collect()
}

/// The same, under some schedule: which ones depends on who comes first.
fn breaks_under_some_schedule(cases: &[Case], kinds: &[FaultKind]) {
    let found = run(cases, |_| ());
    let faults: Vec<_> = found.iter().filter_map(|found| found.as_ref().err()).collect();
    assert!(found.is_empty() || !faults.is_empty(), "{}", cases[cases.len() - 1].kernel);
    faults.iter().for_each(|fault| assert!(kinds.contains(&fault.kind), "{fault}"));
}

/// 0, 1, 2, …
fn counted(words: std::ops::Range<u32>) -> Vec<u32> {
    words.collect()
}
