//! Linear layers: X \[M, in\], one row a position.

use super::masked::SplitInput;
use super::products::Order;
use super::{Gradients, Layer};
use crate::checkpoint::LayerKind;
use crate::model::LoraModel;
use crate::tensor::Tensor;
use crate::update::HostBackend;
use crate::{Error, Result};
use lora_kernels::Dropout;

impl LoraModel {
    /// Y \[M, out\] of a linear layer with the active adapters, in X's type. Merged adapters are in the weight already.
    ///
    /// `dropout` is the mask on the adapters' input in training; `None` for inference. With DoRA the frozen product
    /// sees the dropped-out input too, scaled by f − 1, as in PEFT.
    ///
    /// # Errors
    /// No adapter has such a layer, X does not fit it, it is no linear layer (see [`embed`](Self::embed),
    /// [`convolve`](Self::convolve) and [`forward_experts`](Self::forward_experts)), or DoRA meets another adapter.
    pub fn forward(
        &self,
        backend: &HostBackend<'_>,
        module: &str,
        x: &Tensor,
        dropout: Option<Dropout>,
    ) -> Result<Tensor> {
        let layer = self.layer(module)?;
        layer.check_input(x)?;
        let order = Order::ByPosition;
        let Some(magnitudes) = layer.magnitudes(backend)? else {
            return layer.product(
                backend,
                x,
                order,
                layer.concatenated().as_ref(),
                dropout,
                layer.bias.as_deref(),
            );
        };
        match dropout.filter(|dropout| !dropout.is_identity()) {
            Some(dropout) => {
                let SplitInput { dropped, rest } = SplitInput::split(x, dropout, 0);
                layer.scaled_product(backend, &dropped, Some(&rest), order, Some(&magnitudes))
            }
            None => layer.scaled_product(backend, x, None, order, Some(&magnitudes)),
        }
    }

    /// Gradients of a linear layer, given X and dY \[M, out\].
    ///
    /// # Errors
    /// As [`forward`](Self::forward); or adapters are merged, and so cannot be trained.
    pub fn backward(
        &self,
        backend: &HostBackend<'_>,
        module: &str,
        x: &Tensor,
        dy: &Tensor,
        dropout: Option<Dropout>,
    ) -> Result<Gradients> {
        self.check_not_merged("training")?;
        let layer = self.layer(module)?;
        layer.check_input(x)?;
        layer.check_rows(x.shape()[0], dy)?;
        let order = Order::ByPosition;
        let factors = layer.concatenated();
        let mut sums = layer.no_gradients(factors.as_ref())?;
        let magnitudes = layer.magnitudes(backend)?;
        if magnitudes.is_none() {
            let dx = layer.gradients(backend, x, [dy, dy], order, factors.as_ref(), dropout, &mut sums)?;
            return Ok(layer.finish(dx, sums));
        }
        let dx = match dropout.filter(|dropout| !dropout.is_identity()) {
            Some(dropout) => {
                let SplitInput { dropped, .. } = SplitInput::split(x, dropout, 0);
                let dropped =
                    layer.scaled_gradients(backend, &dropped, dy, order, magnitudes.as_ref(), &mut sums)?;
                let rest = layer.frozen_gradient(backend, dy, order)?;
                SplitInput::join_rows(&dropped, &rest, dropout)
            }
            None => layer.scaled_gradients(backend, x, dy, order, magnitudes.as_ref(), &mut sums)?,
        };
        Ok(layer.finish(dx, sums))
    }
}

impl Layer<'_> {
    fn check_input(&self, x: &Tensor) -> Result<()> {
        match self.site.kind {
            LayerKind::Embedding => return Err(Error::module(self.name, "an embedding takes indices")),
            LayerKind::Convolution => {
                return Err(Error::module(self.name, "a convolution takes images and its geometry"));
            }
            _ => {}
        }
        let (input, _) = self.features();
        if x.shape().len() != 2 || x.shape()[1] != input || x.dtype() != self.weight.dtype() {
            return Err(Error::module(
                self.name,
                format!(
                    "X is {} {:?}, but {} [M, {input}] is needed",
                    x.dtype(),
                    x.shape(),
                    self.weight.dtype()
                ),
            ));
        }
        Ok(())
    }

    pub(super) fn check_rows(&self, rows: usize, dy: &Tensor) -> Result<()> {
        let (_, output) = self.features();
        if dy.shape() != [rows, output] || dy.dtype() != self.weight.dtype() {
            return Err(Error::module(
                self.name,
                format!(
                    "dY is {} {:?}, but {} [{rows}, {output}] is needed",
                    dy.dtype(),
                    dy.shape(),
                    self.weight.dtype()
                ),
            ));
        }
        Ok(())
    }
}
