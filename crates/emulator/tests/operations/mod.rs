//! Whole operations on the emulator: planned by the CUDA backend, compared with an independent oracle, and repeated under
//! every schedule.
#![allow(dead_code, reason = "each test file uses a part")]

mod device;
pub mod products;
pub mod weights;

/// The problems, the oracle and the tolerances of the library's own tests.
#[path = "../../../../tests/operations/common"]
pub mod common {
    pub mod dense;
    #[allow(unused_imports, unused_macros, reason = "its macro makes tests for all devices")]
    pub mod device;
    pub mod expect;
    pub mod matrix;
    pub mod oracle;
    pub mod problem;
    pub mod random;
    pub mod run;
    pub mod tolerance;
}

#[path = "../weights_support/mod.rs"]
mod weights_support;

pub use device::Device;

use lora_emulator::Schedule;

/// An operation with its arguments.
#[derive(Clone, Debug)]
pub enum Case {
    Forward(products::Case),
    Backward(products::Case),
    Update(weights::Case),
    Delta(weights::Case),
}

impl Case {
    /// Runs the operation, and returns the bits of everything it wrote. Panics if it fails, writes anything else, or, where
    /// `verifies`, if a result is not what the oracle says.
    fn run(&self, device: &mut Device, verifies: bool) -> Vec<u8> {
        match self {
            Case::Forward(case) => case.forward(device, verifies),
            Case::Backward(case) => case.backward(device, verifies),
            Case::Update(case) => case.update(device, verifies),
            Case::Delta(case) => case.delta(device, verifies),
        }
    }

    /// Panics unless the operation gives the oracle's results, and the same bits under all schedules.
    pub fn check(&self, device: &mut Device, schedules: &[Schedule]) {
        let mut first: Option<Vec<u8>> = None;
        for &schedule in schedules {
            device.set_schedule(schedule);
            let bits = self.run(device, first.is_none());
            match &first {
                None => first = Some(bits),
                Some(first) => assert!(*first == bits, "{self:?}: other bits than before under {schedule}"),
            }
        }
    }
}
