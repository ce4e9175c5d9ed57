//! An adapter among several.

use super::Adapter;

/// An adapter, what to call it, and a factor on it.
#[derive(Clone, Debug)]
pub struct Weighted<'a> {
    /// For reports and records.
    pub name: String,
    /// The adapter.
    pub adapter: &'a Adapter,
    /// The factor on its s·B·A and on its `lora_bias`; 1 for the adapter as it was trained.
    pub weight: f64,
}
