//! The launches that are swept, as the planner makes them.

use super::super::matrices::Addresses;
use super::table::variants_of;
use lora_kernels::cuda::plan::{Plan, Settings, backward::backward, forward::forward, weights};
use lora_kernels::cuda::step::{F32Math, Launch, Step};
use lora_kernels::cuda::target::Target;
use lora_kernels::{Dropout, Result};

/// The planner's kernels run on every card; what is planned here is bf16.
const SETTINGS: Settings = Settings {
    target: Target { compute_capability: (8, 6), shared_bytes_per_block: 99 << 10 },
    f32_math: F32Math::Exact,
};

/// Of dropout, where there is some.
pub const PROBABILITY: f32 = 0.1;

/// A kernel in one of its uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Use {
    /// As in [`Kernel::operation`](lora_kernels::cuda::kernel::Kernel::operation).
    pub operation: &'static str,
    pub pass: &'static str,
    pub probability: f32,
}

const fn used(operation: &'static str, pass: &'static str, probability: f32) -> Use {
    Use { operation, pass, probability }
}

/// What is swept, in order.
pub const USES: [Use; 8] = [
    used("expand", "forward", 0.0),
    used("shrink", "forward", 0.0),
    used("backward_dy", "backward", 0.0),
    used("expand", "backward", PROBABILITY),
    used("backward_a", "backward", 0.0),
    used("shrink", "forward", PROBABILITY),
    used("backward_a", "backward", PROBABILITY),
    used("weight_update", "merge", 0.0),
];

impl Use {
    /// Scratch memory that the plan with this launch takes.
    ///
    /// # Errors
    /// The planner's.
    pub fn workspace_bytes(self, layer: &Addresses) -> Result<usize> {
        Ok(self.plan(layer, 0)?.workspace_bytes)
    }

    /// The planner's steps that come before this launch, and the launch.
    ///
    /// # Errors
    /// The planner's.
    pub fn steps(self, layer: &Addresses, workspace: u64) -> Result<(Vec<Step>, Launch)> {
        let mut before = self.plan(layer, workspace)?.steps;
        let position = before.iter().position(|step| match step {
            Step::Launch(launch) => launch.kernel.operation() == self.operation,
            Step::Product(_) | Step::Zero(_) => false,
        });
        let position = position.expect("every operation is in the plan of its pass");
        let Step::Launch(launch) = before.swap_remove(position) else { unreachable!("found as a launch") };
        before.truncate(position);
        assert!(!variants_of(launch.kernel).is_empty(), "{:?} has no variants", launch.kernel);
        Ok((before, launch))
    }

    fn plan(self, layer: &Addresses, workspace: u64) -> Result<Plan> {
        let dropout = (self.probability > 0.0).then(|| Dropout::new(self.probability, 7, 0)).transpose()?;
        match self.pass {
            "forward" => forward(&layer.forward(dropout).into(), SETTINGS, workspace),
            "backward" => backward(&layer.backward(dropout).into(), SETTINGS, workspace),
            _ => {
                let step = weights::update(&layer.merge(), None, &weights::UpdateMemory::default(), false)?;
                Ok(Plan { steps: vec![step], workspace_bytes: 0 })
            }
        }
    }
}
