//! The parts of build.rs that can be tested by themselves; their tests stand beside them.

#[allow(dead_code, reason = "build.rs uses the rest")]
#[path = "../build/constants.rs"]
mod constants;
#[allow(dead_code, reason = "build.rs uses the rest")]
#[path = "../build/nvcc.rs"]
mod nvcc;
#[allow(dead_code, reason = "build.rs uses the rest")]
#[path = "../build/sources.rs"]
mod sources;
