//! The problems that are timed and the systems that are compared.

/// X [m, k] · W [k, n] with an adapter of rank r.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    pub m: usize,
    pub k: usize,
    pub n: usize,
    pub r: usize,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Problem { m, k, n, r } = self;
        write!(f, "{m}x{k}x{n}-r{r}")
    }
}

/// Ways to compute the same layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// The library's product called directly, without adapter: the GEMM crate, cuBLAS.
    Library,
    /// The frozen layer through this crate, without adapter.
    Frozen,
    /// PEFT's sequence: dropout, x·A, ·B, scale and add as separate passes.
    Unfused,
    /// Unsloth's way: rank-r products accumulated onto the frozen ones with β = 1.
    Accumulated,
    /// This crate.
    Fused,
}

impl System {
    pub fn name(self) -> &'static str {
        match self {
            System::Library => "library",
            System::Frozen => "frozen",
            System::Unfused => "unfused",
            System::Accumulated => "accumulated",
            System::Fused => "fused",
        }
    }
}

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Y, with S saved where there is an adapter.
    Forward,
    /// dX, dA and dB from the saved S; without adapter dX only.
    Backward,
    /// Both.
    Step,
}

impl Pass {
    pub fn name(self) -> &'static str {
        match self {
            Pass::Forward => "forward",
            Pass::Backward => "backward",
            Pass::Step => "step",
        }
    }
}

/// How much to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Tiny shapes, once each: does it still run?
    Smoke,
    /// What a CPU does in minutes.
    Default,
    /// Everything: hours on a CPU.
    Full,
}

impl Size {
    /// Smoke with `LORA_BENCH_SMOKE=1` or `--test`; full with `LORA_BENCH_GRID=full`.
    pub fn from_environment() -> Self {
        let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
        if is("LORA_BENCH_SMOKE", "1") || std::env::args().any(|argument| argument == "--test") {
            Size::Smoke
        } else if is("LORA_BENCH_GRID", "full") {
            Size::Full
        } else {
            Size::Default
        }
    }

    /// The problems: the full grid is M × Llama-like layers × ranks.
    pub fn problems(self) -> Vec<Problem> {
        match self {
            Size::Smoke => vec![Problem { m: 5, k: 48, n: 40, r: 3 }, Problem { m: 1, k: 16, n: 24, r: 8 }],
            Size::Default => vec![
                Problem { m: 512, k: 4096, n: 4096, r: 16 },
                Problem { m: 512, k: 4096, n: 4096, r: 64 },
                Problem { m: 512, k: 4096, n: 1024, r: 16 },
                Problem { m: 16, k: 4096, n: 4096, r: 16 },
                Problem { m: 1, k: 4096, n: 4096, r: 16 },
            ],
            Size::Full => {
                let mut problems = Vec::new();
                for m in [1, 16, 512, 2048, 8192] {
                    for (k, n) in [(4096, 4096), (4096, 14336), (14336, 4096), (4096, 1024)] {
                        for r in [8, 16, 64] {
                            problems.push(Problem { m, k, n, r });
                        }
                    }
                }
                problems
            }
        }
    }
}
