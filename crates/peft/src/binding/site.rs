//! Where one layer of an adapter acts.

use crate::checkpoint::LayerKind;

/// One weight of the base model that an adapter's layer changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Key of the layer in [`Adapter::layers`].
    pub layer: String,
    /// Name of the weight in the checkpoint.
    pub weight: String,
    /// Name of the module's bias in the checkpoint, if it has one.
    pub bias: Option<String>,
    /// How A and B act on the weight.
    pub kind: LayerKind,
    /// The rank r; of stacked experts that of one expert.
    pub rank: usize,
    /// The factor s on B·A.
    pub scale: f64,
}
