//! Whole operations on the emulator: planned by the CUDA backend, compared with an independent oracle, and repeated under
//! every schedule.
#![allow(dead_code, reason = "each test file uses a part")]

mod device;
pub mod edges;
pub mod far;
pub mod matrix;
pub mod products;
pub mod weights;

#[path = "../weights_support/mod.rs"]
mod weights_support;

pub use device::Device;

use lora_emulator::Schedule;
use lora_kernels::DType;
use lora_kernels::cuda::F32Math;
use lora_oracle::ordered_sums::OrderedSum;
use lora_oracle::rounded_once;

/// An operation with its arguments.
#[derive(Clone, Debug)]
pub enum Case {
    Forward(products::Case),
    Backward(products::Case),
    Update(weights::Case),
    Delta(weights::Case),
    /// A sum whose bits show the order of its parts.
    OrderedSum(OrderedSum),
    /// Weights at the edges of formats and codes.
    Edge(edges::Edge),
    /// Gradients that are added to what is there.
    RoundedOnce {
        dtype: DType,
        in_features: usize,
    },
    Far(far::Case),
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
            Case::OrderedSum(sum) => {
                device.set_f32_math(F32Math::Exact);
                sum.check(device.tested())
            }
            Case::Edge(edge) => edge.check(device),
            &Case::RoundedOnce { dtype, in_features } => {
                rounded_once::check(device.tested(), dtype, in_features)
            }
            Case::Far(case) => case.run(device),
        }
    }

    /// Whether one execution takes seconds.
    fn is_large(&self) -> bool {
        match self {
            Case::Forward(case) | Case::Backward(case) => {
                let widest = case.problem.layers.iter().map(|layer| layer.out_features).max();
                case.problem.rows * widest.unwrap_or(0) > 100_000
            }
            Case::OrderedSum(sum) => *sum == OrderedSum::ChunksOfDs,
            Case::Update(_) | Case::Delta(_) | Case::Edge(_) | Case::RoundedOnce { .. } | Case::Far(_) => {
                false
            }
        }
    }

    /// Panics unless the operation gives the oracle's results, and the same bits under all schedules; a large one under the
    /// first two.
    pub fn check(&self, device: &mut Device, schedules: &[Schedule]) {
        let schedules = if self.is_large() { &schedules[..schedules.len().min(2)] } else { schedules };
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
