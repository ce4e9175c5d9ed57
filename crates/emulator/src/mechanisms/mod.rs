//! What instructions do, a file for each wrapper of `kernels/arch`.

pub(crate) mod atomic;
pub(crate) mod barrier;
pub(crate) mod cluster;
pub(crate) mod convergence;
pub(crate) mod cp_async;
pub(crate) mod grid_dependency;
pub(crate) mod ldmatrix;
pub(crate) mod mbarrier;
pub(crate) mod mma;
pub(crate) mod register_operands;
pub(crate) mod registers;
pub(crate) mod tensor_map;
pub(crate) mod tma;
pub(crate) mod warp;
pub(crate) mod wgmma;
