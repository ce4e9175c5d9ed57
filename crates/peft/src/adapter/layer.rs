//! The trained matrices of one module.

use crate::tensor::Tensor;
use crate::{Error, Result};

/// What PEFT puts before the base model's own names.
pub(crate) const PREFIX: &str = "base_model.model.";

/// Key of the file's metadata: a JSON list of the tensors that replace the base model's own although no key of the
/// configuration asks for them. PEFT loads such tensors, which it finds in the model, without asking.
pub(super) const IN_PLACE: &str = "lora_kernels.in_place";

/// How the file calls A and B.
pub(super) fn names(embedding: bool) -> (&'static str, &'static str) {
    if embedding { ("lora_embedding_A", "lora_embedding_B") } else { ("lora_A.weight", "lora_B.weight") }
}

/// The trained matrices of one module.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterLayer {
    /// A: \[r, in\]; of convolutions \[r, in, …kernel\]; of embeddings \[r, vocabulary\]; of stacked experts
    /// \[experts·r, in\].
    pub a: Tensor,
    /// B: \[out, r\]; of convolutions \[out, r, 1, …\]; of stacked experts \[out, r·experts\].
    pub b: Tensor,
    /// The bias of B \[out\], with `lora_bias`.
    pub bias: Option<Tensor>,
    /// DoRA's magnitudes \[out\]; of convolutions \[1, out, 1, …\].
    pub magnitude: Option<Tensor>,
    /// Whether the file calls A and B `lora_embedding_A` and `lora_embedding_B`.
    pub embedding: bool,
}

impl AdapterLayer {
    /// Whether the tensors fit each other.
    ///
    /// # Errors
    /// [`Error::Tensor`] naming the tensor of `module` that does not fit.
    pub fn check(&self, module: &str) -> Result<()> {
        let (a_name, b_name) = names(self.embedding);
        let (a, b) = (&self.a, &self.b);
        let wrong = |ending: &str, tensor: &Tensor, expected: String| {
            Err(Error::tensor(
                format!("{PREFIX}{module}.{ending}"),
                format!("has shape {:?}, but {expected} is needed", tensor.shape()),
            ))
        };
        if a.shape().len() < 2 || a.is_empty() {
            return wrong(a_name, a, "a matrix or the kernel of a convolution".into());
        }
        if b.shape().len() != a.shape().len() || b.shape()[2..].iter().any(|&size| size != 1) || b.is_empty()
        {
            return wrong(b_name, b, format!("[out, r] with as many dimensions as A {:?}", a.shape()));
        }
        if a.shape().len() > 2 && b.shape()[1] < a.shape()[0] && a.shape()[0].is_multiple_of(b.shape()[1]) {
            return Err(Error::module(
                module,
                format!(
                    "a grouped convolution, as B {:?} has the rank of one of {} groups of A {:?}; its adapter cannot be merged, \
                     by PEFT neither",
                    b.shape(),
                    a.shape()[0] / b.shape()[1],
                    a.shape()
                ),
            ));
        }
        if b.shape()[1] != a.shape()[0] {
            return wrong(b_name, b, format!("[out, {}] to fit A {:?}", a.shape()[0], a.shape()));
        }
        let out = b.shape()[0];
        if let Some(bias) = &self.bias
            && bias.shape() != [out]
        {
            return wrong("lora_B.bias", bias, format!("[{out}]"));
        }
        if let Some(magnitude) = &self.magnitude
            && magnitude.shape() != self.magnitude_shape()
        {
            return wrong("lora_magnitude_vector", magnitude, format!("{:?}", self.magnitude_shape()));
        }
        Ok(())
    }

    /// \[out\], and for convolutions \[1, out, 1, …\].
    pub(crate) fn magnitude_shape(&self) -> Vec<usize> {
        let out = self.b.shape()[0];
        match self.a.shape().len() {
            2 => vec![out],
            dimensions => {
                let mut shape = vec![1; dimensions];
                shape[1] = out;
                shape
            }
        }
    }
}
