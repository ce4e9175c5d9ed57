//! Where an adapter acts in a checkpoint: which modules and parameters its configuration means, what they are called there,
//! and whether everything fits.

mod absent;
mod bind;
mod expert_names;
mod naming;
pub(crate) mod parameters;
mod regrouped;
mod separate_experts;
mod site;
mod targets;

pub use bind::{Binding, bind, fit, lost_biases};
pub use naming::{Naming, RenamedTensors};
pub use separate_experts::apart;
pub use site::Site;
pub use targets::{Target, TargetReport, default_targets, find_targets};
