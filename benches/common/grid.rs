//! What is timed, and on what.

use lora_kernels::DType;
use lora_measure::Problem;

/// What a benchmark runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Cpu,
    Cuda,
}

impl Target {
    /// The one that `LORA_BENCH_DEVICE=cpu|cuda` names.
    pub fn from_environment() -> Option<Self> {
        match std::env::var("LORA_BENCH_DEVICE").as_deref() {
            Ok("cpu") => Some(Target::Cpu),
            Ok("cuda") => Some(Target::Cuda),
            Ok(other) => panic!("LORA_BENCH_DEVICE: {other} is none of cpu, cuda"),
            Err(_) => None,
        }
    }

    /// Whether to run on this one: both run unless one is named.
    pub fn is_wanted(self) -> bool {
        Self::from_environment().is_none_or(|named| named == self)
    }
}

/// How much to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Tiny shapes, once each: does it still run?
    Smoke,
    /// What takes minutes.
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
    pub fn problems(self, target: Target) -> Vec<Problem> {
        match self {
            // As in benches/peers/peers.py; what settles most comes first, because time may run out.
            Size::Default if target == Target::Cuda => vec![
                Problem { m: 8192, k: 4096, n: 4096, r: 16 },
                Problem { m: 2048, k: 4096, n: 4096, r: 16 },
                Problem { m: 8192, k: 4096, n: 4096, r: 64 },
                Problem { m: 8192, k: 4096, n: 14336, r: 16 },
                Problem { m: 16, k: 4096, n: 4096, r: 16 },
                Problem { m: 8192, k: 4096, n: 1024, r: 16 },
                Problem { m: 8192, k: 14336, n: 4096, r: 16 },
                Problem { m: 512, k: 4096, n: 4096, r: 16 },
                Problem { m: 1, k: 4096, n: 4096, r: 16 },
            ],
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

    /// The problems for which variants of kernels are compared: of ranks that variants are compiled for.
    pub fn sweep_problems(self) -> Vec<Problem> {
        match self {
            Size::Smoke => vec![Problem { m: 70, k: 136, n: 200, r: 16 }],
            Size::Default | Size::Full => vec![
                Problem { m: 8192, k: 4096, n: 4096, r: 16 },
                Problem { m: 2048, k: 4096, n: 4096, r: 16 },
                Problem { m: 8192, k: 4096, n: 4096, r: 64 },
                Problem { m: 8192, k: 4096, n: 14336, r: 16 },
                Problem { m: 8192, k: 4096, n: 1024, r: 16 },
                Problem { m: 512, k: 4096, n: 4096, r: 16 },
                Problem { m: 2048, k: 4096, n: 4096, r: 64 },
                Problem { m: 16, k: 4096, n: 4096, r: 16 },
            ],
        }
    }
}

/// The layers and ranks among the problems, once each: M plays no part when an adapter is merged.
pub fn layers(problems: Vec<Problem>) -> Vec<Problem> {
    let mut layers = Vec::new();
    for problem in problems {
        let layer = Problem { m: 0, ..problem };
        if !layers.contains(&layer) {
            layers.push(layer);
        }
    }
    layers
}

/// Element types: those that `LORA_BENCH_DTYPE=f32,f16,bf16` lists, else `usual`.
pub fn dtypes(usual: &[DType]) -> Vec<DType> {
    let Ok(listed) = std::env::var("LORA_BENCH_DTYPE") else { return usual.to_vec() };
    let known = [DType::F32, DType::F16, DType::Bf16];
    let parse = |name| {
        let found = known.into_iter().find(|dtype| dtype.to_string() == name);
        found.unwrap_or_else(|| panic!("LORA_BENCH_DTYPE: {name} is none of f32, f16, bf16"))
    };
    listed.split(',').map(parse).collect()
}
