//! The layers that are timed and the systems that are compared.

/// X \[m, k\] · W \[k, n\] with an adapter of rank r.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Rows of X: tokens.
    pub m: usize,
    /// Inputs of the layer.
    pub k: usize,
    /// Outputs of the layer.
    pub n: usize,
    /// Rank of the adapter.
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
    /// The frozen layer through lora-kernels, without adapter.
    Frozen,
    /// PEFT's sequence: dropout with a stored mask, x·A, ·B, scale and add as separate passes. On a GPU without dropout
    /// only, for which cuBLAS has nothing.
    Unfused,
    /// Unsloth's way, without dropout: rank-r products accumulated onto the frozen ones with β = 1. Its backward saves X
    /// only, and so computes S again.
    Accumulated,
    /// lora-kernels.
    Fused,
}

impl System {
    /// The frozen layer first, because ratios are to it.
    pub const ALL: [System; 5] =
        [System::Frozen, System::Library, System::Fused, System::Unfused, System::Accumulated];

    /// As in records.
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
    /// Forward and backward.
    Step,
    /// W + s·A·B in place. Every other time the adapter is taken out again, so that weights stay where they are.
    Merge,
}

impl Pass {
    /// As in records.
    pub fn name(self) -> &'static str {
        match self {
            Pass::Forward => "forward",
            Pass::Backward => "backward",
            Pass::Step => "step",
            Pass::Merge => "merge",
        }
    }
}
