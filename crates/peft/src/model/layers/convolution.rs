//! Convolutions: X \[N, channels, …sizes\] with one, two or three spatial axes.

use super::masked::SplitInput;
use super::patches::{ConvolutionGeometry, Patches};
use super::products::Order;
use super::{Gradients, Layer};
use crate::checkpoint::LayerKind;
use crate::model::LoraModel;
use crate::tensor::Tensor;
use crate::update::{HostBackend, round_block};
use crate::{Error, Result};
use lora_kernels::Dropout;

impl LoraModel {
    /// Y \[N, out, …sizes\] of a convolution with the active adapters, in X's type, image by image.
    ///
    /// `dropout` acts on X, not on patches: it counts as \[N, everything else\]. Training with dropout takes the frozen
    /// product twice.
    ///
    /// # Errors
    /// No adapter has such a layer, it is no convolution, X or the geometry do not fit it, or DoRA meets another adapter.
    pub fn convolve(
        &self,
        backend: &HostBackend<'_>,
        module: &str,
        geometry: &ConvolutionGeometry,
        x: &Tensor,
        dropout: Option<Dropout>,
    ) -> Result<Tensor> {
        let layer = self.layer(module)?;
        let patches = layer.patches(geometry, x)?;
        let magnitudes = layer.magnitudes(backend)?;
        let factors = layer.concatenated();
        let dropout = dropout.filter(|dropout| !dropout.is_identity());
        let shape = output_shape(&patches, x, layer.features().1);
        let mut y = Tensor::zeros(x.dtype(), &shape);
        let order = Order::ByFeature;
        for image in 0..x.shape()[0] {
            let x = image_of(x, image);
            let matrix = match (dropout, &magnitudes) {
                (None, None) => {
                    let x = patches.unfold(&x);
                    layer.product(backend, &x, order, factors.as_ref(), None, layer.bias.as_deref())?
                }
                (None, Some(_)) => {
                    layer.scaled_product(backend, &patches.unfold(&x), None, order, magnitudes.as_ref())?
                }
                (Some(dropout), _) => {
                    let parts = SplitInput::split(&x, dropout, image);
                    let [dropped, rest] = [&parts.dropped, &parts.rest].map(|part| patches.unfold(part));
                    layer.scaled_product(backend, &dropped, Some(&rest), order, magnitudes.as_ref())?
                }
            };
            let bytes = matrix.bytes();
            y.bytes_mut()[image * bytes.len()..][..bytes.len()].copy_from_slice(bytes);
        }
        Ok(y)
    }

    /// Gradients of a convolution, given X and dY in the shape of Y.
    ///
    /// # Errors
    /// As [`convolve`](Self::convolve); or adapters are merged, and so cannot be trained.
    pub fn convolve_backward(
        &self,
        backend: &HostBackend<'_>,
        module: &str,
        geometry: &ConvolutionGeometry,
        x: &Tensor,
        dy: &Tensor,
        dropout: Option<Dropout>,
    ) -> Result<Gradients> {
        self.check_not_merged("training")?;
        let layer = self.layer(module)?;
        let patches = layer.patches(geometry, x)?;
        let output = layer.features().1;
        let shape = output_shape(&patches, x, output);
        if dy.shape() != shape || dy.dtype() != x.dtype() {
            return Err(Error::module(
                module,
                format!("dY is {} {:?}, but {} {shape:?} is needed", dy.dtype(), dy.shape(), x.dtype()),
            ));
        }
        let magnitudes = layer.magnitudes(backend)?;
        let mut sums = layer.no_gradients(layer.concatenated().as_ref())?;
        let dropout = dropout.filter(|dropout| !dropout.is_identity());
        let mut dx = Tensor::zeros(x.dtype(), x.shape());
        let order = Order::ByFeature;
        for image in 0..x.shape()[0] {
            let x = image_of(x, image);
            let dy = image_of(dy, image).reshape(&[output, patches.positions()])?;
            let parts = dropout.map(|dropout| SplitInput::split(&x, dropout, image));
            let seen = patches.unfold(parts.as_ref().map_or(&x, |parts| &parts.dropped));
            let dropped =
                layer.scaled_gradients(backend, &seen, &dy, order, magnitudes.as_ref(), &mut sums)?;
            let mut exact = patches.fold(&dropped);
            if let Some(dropout) = dropout {
                let rest = patches.fold(&layer.frozen_gradient(backend, &dy, order)?);
                exact = SplitInput::join(&exact, &rest, dropout, image);
            }
            round_block(&mut dx, image * exact.len(), &exact, None);
        }
        Ok(layer.finish(dx, sums))
    }
}

impl Layer<'_> {
    fn patches(&self, geometry: &ConvolutionGeometry, x: &Tensor) -> Result<Patches> {
        if self.site.kind != LayerKind::Convolution {
            return Err(Error::module(self.name, "not a convolution"));
        }
        let (outputs, channels) = (self.weight.shape()[0], self.weight.shape()[1]);
        let kernel = &self.weight.shape()[2..];
        let axes = kernel.len();
        if x.shape().len() != axes + 2 || x.shape()[1] != channels || x.dtype() != self.weight.dtype() {
            return Err(Error::module(
                self.name,
                format!(
                    "X is {} {:?}, but {} [N, {channels}] with {axes} more sizes is needed",
                    x.dtype(),
                    x.shape(),
                    self.weight.dtype()
                ),
            ));
        }
        Patches::new(geometry, [outputs, channels], kernel, &x.shape()[2..])
            .map_err(|reason| Error::module(self.name, reason))
    }
}

fn output_shape(patches: &Patches, x: &Tensor, output: usize) -> Vec<usize> {
    [&[x.shape()[0], output], patches.sizes.as_slice()].concat()
}

/// One image of a batch, as a row.
fn image_of(batch: &Tensor, image: usize) -> Tensor {
    let (_, elements) = batch.rows_and_columns();
    let bytes = elements * batch.dtype().size();
    Tensor::from_bytes(batch.dtype(), &[1, elements], &batch.bytes()[image * bytes..][..bytes])
}
