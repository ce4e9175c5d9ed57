//! What the operations mean, in plain `f64` loops that share no code with the library, and what tests need to compare any
//! device with them: problems, matrices anywhere in poisoned buffers, tolerances, and the running of an operation on a device.
//!
//! | module | what |
//! |---|---|
//! | [`oracle`], [`dense`] | the operations, element by element |
//! | [`expect`], [`tolerance`] | what a device may give, derived from element types and lengths of sums |
//! | [`problem`], [`shapes`], [`matrix`], [`random`] | problems and their matrices |
//! | [`device`], [`run`] | devices under test, and operations on them |
//! | [`ordered_sums`], [`rounded_once`] | sums that show their order and their roundings |

pub mod dense;
pub mod device;
pub mod expect;
pub mod matrix;
pub mod oracle;
pub mod ordered_sums;
pub mod problem;
pub mod random;
pub mod rounded_once;
pub mod run;
pub mod shapes;
pub mod tolerance;
