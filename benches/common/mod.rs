//! What the benches share: the grid, the systems they compare, how each runs on the CPU, and the JSON records.

pub mod baseline;
pub mod cpu;
pub mod criterion_cpu;
pub mod grid;
pub mod host;
pub mod record;
