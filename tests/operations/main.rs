//! Every operation on every device, against an independent f64 oracle.
//!
//! A test body is written once, generic over the device, and becomes one `#[test]` for the CPU, one for the CUDA
//! backend on the emulator and one for the CUDA backend on a GPU.

mod backward;
mod bad_input;
mod devices;
mod dropout;
mod forward;
mod frozen;
mod golden;
mod padded;
mod properties;
mod roundings;
mod sharing;
mod siblings;
mod views;
mod weights;
