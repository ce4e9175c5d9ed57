//! What is trained and what is frozen.

use super::LoraModel;
use crate::{Error, Result};
use std::collections::BTreeMap;

/// The tensors that training changes.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct TrainableReport {
    /// Elements of each trained tensor, by `adapter/tensor`.
    pub tensors: BTreeMap<String, u64>,
    /// Elements of all trained tensors.
    pub trainable: u64,
    /// Elements of the base and of all adapters.
    pub total: u64,
}

impl TrainableReport {
    /// Trained elements as a share of all, in percent.
    pub fn percent(&self) -> f64 {
        if self.total == 0 { 0.0 } else { 100.0 * self.trainable as f64 / self.total as f64 }
    }
}

impl LoraModel {
    /// Freezes everything but the active adapters: their A, B, biases and magnitudes, the biases that their `bias` mode
    /// names, and their saved modules.
    pub fn mark_only_lora_as_trainable(&mut self) {
        for (name, loaded) in &mut self.adapters {
            loaded.trainable = self.active.contains(name);
        }
    }

    /// Freezes an adapter or lets it be trained.
    ///
    /// # Errors
    /// [`Error::Adapter`] if there is none of that name.
    pub fn set_trainable(&mut self, name: &str, trainable: bool) -> Result<()> {
        let loaded =
            self.adapters.get_mut(name).ok_or_else(|| Error::adapter(name, "there is none of that name"))?;
        loaded.trainable = trainable;
        Ok(())
    }

    /// Which tensors are trained, and how many elements that is.
    pub fn trainable(&self) -> TrainableReport {
        let base: u64 = self.checkpoint.tensors().values().map(|info| info.elements() as u64).sum();
        let mut report = TrainableReport { total: base, ..Default::default() };
        for (name, loaded) in &self.adapters {
            report.total += loaded.adapter.parameters();
            if !loaded.trainable {
                continue;
            }
            let mut count = |tensor: String, len: usize| {
                report.trainable += len as u64;
                report.tensors.insert(format!("{name}/{tensor}"), len as u64);
            };
            for (module, layer) in &loaded.adapter.layers {
                let (a, b) = if layer.embedding {
                    ("lora_embedding_A", "lora_embedding_B")
                } else {
                    ("lora_A", "lora_B")
                };
                count(format!("{module}.{a}"), layer.a.len());
                if !loaded.adapter.config.init.freezes_b() {
                    count(format!("{module}.{b}"), layer.b.len());
                }
                if let Some(bias) = &layer.bias {
                    count(format!("{module}.lora_B.bias"), bias.len());
                }
                if let Some(magnitude) = &layer.magnitude {
                    count(format!("{module}.lora_magnitude_vector"), magnitude.len());
                }
            }
            for (tensor, values) in &loaded.adapter.replaced {
                count(tensor.clone(), values.len());
            }
        }
        report
    }
}
