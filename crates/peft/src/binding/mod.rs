//! Where an adapter acts in a checkpoint: which modules and parameters its configuration means, what they are called there,
//! and whether everything fits.

mod absent;
mod bind;
mod class_names;
mod expert_names;
mod naming;
pub(crate) mod parameters;
mod regrouped;
mod separate_experts;
mod site;
mod targets;
mod tying;
mod vocabulary;

pub use bind::{Binding, TieOutcome, bind, fit, lost_biases};
pub use class_names::ClassNames;
pub(crate) use expert_names::ExpertNames;
pub use naming::{Naming, RenamedTensors};
pub(crate) use parameters::order_of_parameters;
pub use separate_experts::apart;
pub use site::Site;
pub use targets::{Target, TargetReport, default_targets, find_targets};
