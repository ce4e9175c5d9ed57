//! Convolutions: X \[N, channels, …sizes\] with one, two or three spatial axes.

use super::masked::Parts;
use super::products::Order;
use super::{Gradients, Layer};
use crate::model::LoraModel;
use crate::module::LayerKind;
use crate::tensor::{Tensor, each_type};
use crate::update::{HostBackend, round_into};
use crate::{Error, Result};
use lora_kernels::{Dropout, Element};

/// How a convolution's kernel moves over its input, one value an axis, with PyTorch's names and meaning. Checkpoints do
/// not hold these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvolutionGeometry {
    /// Distance between neighbouring outputs.
    pub stride: Vec<usize>,
    /// Zeros that are added on both sides.
    pub padding: Vec<usize>,
    /// Distance between neighbouring elements of the kernel.
    pub dilation: Vec<usize>,
}

impl ConvolutionGeometry {
    /// PyTorch's defaults: every position, no padding, a dense kernel.
    pub fn new(axes: usize) -> Self {
        ConvolutionGeometry { stride: vec![1; axes], padding: vec![0; axes], dilation: vec![1; axes] }
    }
}

/// Elements of the patches and of the output of one image, at most.
const MAX_ELEMENTS: usize = 1 << 31;

/// Where the patches of an image come from.
struct Patches {
    /// Sizes of the output.
    sizes: Vec<usize>,
    /// For each element of the kernel and each output position, the input position; `None` in the padding.
    sources: Vec<Option<usize>>,
    channels: usize,
    /// Input positions of a channel.
    input: usize,
}

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
        backend: &mut HostBackend<'_>,
        module: &str,
        geometry: &ConvolutionGeometry,
        x: &Tensor,
        dropout: Option<Dropout>,
    ) -> Result<Tensor> {
        let layer = self.layer(module)?;
        let patches = layer.patches(geometry, x)?;
        let magnitudes = layer.magnitudes(backend)?;
        let factors = layer.stacked();
        let parts = dropout.filter(|dropout| !dropout.is_identity()).map(|dropout| Parts::split(x, dropout));
        let mut y = Tensor::zeros(x.dtype(), &patches.output_shape(x.shape()[0], layer.features().1));
        for image in 0..x.shape()[0] {
            let order = Order::ByFeature;
            let matrix = match (&parts, &magnitudes) {
                (None, None) => {
                    let x = patches.unfold(x, image);
                    layer.product(backend, &x, order, &factors, None, layer.bias.as_deref())?
                }
                (None, Some(_)) => {
                    let x = patches.unfold(x, image);
                    layer.scaled_product(backend, &x, None, order, magnitudes.as_ref())?
                }
                (Some(Parts { dropped, rest }), _) => {
                    let [dropped, rest] = [dropped, rest].map(|part| patches.unfold(part, image));
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
        backend: &mut HostBackend<'_>,
        module: &str,
        geometry: &ConvolutionGeometry,
        x: &Tensor,
        dy: &Tensor,
        dropout: Option<Dropout>,
    ) -> Result<Gradients> {
        self.check_not_merged("training")?;
        let layer = self.layer(module)?;
        let patches = layer.patches(geometry, x)?;
        let (images, output) = (x.shape()[0], layer.features().1);
        let shape = patches.output_shape(images, output);
        if dy.shape() != shape || dy.dtype() != x.dtype() {
            return Err(Error::module(
                module,
                format!("dY is {} {:?}, but {} {shape:?} is needed", dy.dtype(), dy.shape(), x.dtype()),
            ));
        }
        let magnitudes = layer.magnitudes(backend)?;
        let mut sums = layer.no_gradients(&layer.stacked())?;
        let dropout = dropout.filter(|dropout| !dropout.is_identity());
        let parts = dropout.map(|dropout| Parts::split(x, dropout));
        let mut dropped = vec![0.0; x.len()];
        let mut rest = if parts.is_some() { dropped.clone() } else { Vec::new() };
        let (image_size, order) = (patches.channels * patches.input, Order::ByFeature);
        for image in 0..images {
            let dy = image_of(dy, image, &[output, patches.positions()]);
            let x = patches.unfold(parts.as_ref().map_or(x, |parts| &parts.dropped), image);
            let dx = layer.scaled_gradients(backend, &x, &dy, order, magnitudes.as_ref(), &mut sums)?;
            patches.fold(&dx, &mut dropped[image * image_size..][..image_size]);
            if parts.is_some() {
                let dx = layer.frozen_gradient(backend, &dy, order)?;
                patches.fold(&dx, &mut rest[image * image_size..][..image_size]);
            }
        }
        let rounded = |exact: &[f64]| {
            let mut tensor = Tensor::zeros(x.dtype(), x.shape());
            round_into(&mut tensor, exact);
            tensor
        };
        let dx = match dropout {
            Some(dropout) => {
                Parts::join(&Parts { dropped: rounded(&dropped), rest: rounded(&rest) }, dropout)
            }
            None => rounded(&dropped),
        };
        Ok(layer.finish(dx, sums))
    }
}

impl Layer<'_> {
    fn patches(&self, geometry: &ConvolutionGeometry, x: &Tensor) -> Result<Patches> {
        let error = |reason: String| Err(Error::module(self.name, reason));
        if self.site.kind != LayerKind::Convolution {
            return error("not a convolution".into());
        }
        let (channels, kernel) = (self.weight.shape()[1], &self.weight.shape()[2..]);
        let axes = kernel.len();
        if x.shape().len() != axes + 2 || x.shape()[1] != channels || x.dtype() != self.weight.dtype() {
            return error(format!(
                "X is {} {:?}, but {} [N, {channels}] with {axes} more sizes is needed",
                x.dtype(),
                x.shape(),
                self.weight.dtype()
            ));
        }
        let ConvolutionGeometry { stride, padding, dilation } = geometry;
        if [stride, padding, dilation].iter().any(|values| values.len() != axes) {
            return error(format!("its geometry needs {axes} values of stride, padding and dilation each"));
        }
        if stride.contains(&0) || dilation.contains(&0) {
            return error("stride and dilation must be at least 1".into());
        }
        let inputs = &x.shape()[2..];
        if inputs.contains(&0) {
            return error(format!("X is {:?}: there is nothing in its images", x.shape()));
        }
        let mut sizes = Vec::with_capacity(axes);
        for axis in 0..axes {
            let padded = padding[axis].checked_mul(2).and_then(|both| both.checked_add(inputs[axis]));
            let reach = kernel[axis].checked_sub(1).and_then(|steps| steps.checked_mul(dilation[axis]));
            let room =
                padded.zip(reach).and_then(|(padded, reach)| padded.checked_sub(reach)?.checked_sub(1));
            let Some(room) = room else {
                return error(format!(
                    "axis {axis}: the kernel of {} with dilation {} does not fit into an input of {} with padding {}",
                    kernel[axis], dilation[axis], inputs[axis], padding[axis]
                ));
            };
            sizes.push(room / stride[axis] + 1);
        }
        // A padding that nobody means would ask for more memory than there is.
        let count =
            |sizes: &[usize]| sizes.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
        let features = channels * kernel.iter().product::<usize>();
        let widest = features.max(self.features().1);
        let needed = count(&sizes).and_then(|positions| positions.checked_mul(widest));
        if needed.is_none_or(|needed| needed > MAX_ELEMENTS) {
            return error(format!("an output of {sizes:?} positions is too large for one image"));
        }
        let mut sources = Vec::new();
        for element in indices(kernel) {
            for position in indices(&sizes) {
                let mut source = Some(0);
                for axis in 0..axes {
                    let padded = position[axis] * stride[axis] + element[axis] * dilation[axis];
                    let inside = padded.checked_sub(padding[axis]).filter(|at| *at < inputs[axis]);
                    source = source.zip(inside).map(|(source, at)| source * inputs[axis] + at);
                }
                sources.push(source);
            }
        }
        Ok(Patches { sizes, sources, channels, input: inputs.iter().product() })
    }
}

/// All indices into an array of these sizes, the last axis fastest.
fn indices(sizes: &[usize]) -> impl Iterator<Item = Vec<usize>> {
    (0..sizes.iter().product()).map(move |mut flat: usize| {
        let mut index = vec![0; sizes.len()];
        for (index, size) in index.iter_mut().zip(sizes).rev() {
            (*index, flat) = (flat % size, flat / size);
        }
        index
    })
}

/// One image of a batch as a matrix.
fn image_of(batch: &Tensor, image: usize, shape: &[usize]) -> Tensor {
    let bytes = shape.iter().product::<usize>() * batch.dtype().size();
    Tensor::from_bytes(batch.dtype(), shape, &batch.bytes()[image * bytes..][..bytes])
}

impl Patches {
    fn positions(&self) -> usize {
        self.sizes.iter().product()
    }

    fn output_shape(&self, images: usize, output: usize) -> Vec<usize> {
        [&[images, output], self.sizes.as_slice()].concat()
    }

    /// The patches \[channels·kernel, positions\] of one image.
    fn unfold(&self, batch: &Tensor, image: usize) -> Tensor {
        each_type!(batch.values(), values => self.unfold_typed(values, image))
    }

    fn unfold_typed<T: Element>(&self, batch: &[T], image: usize) -> Tensor {
        let mut patches = Vec::with_capacity(self.channels * self.sources.len());
        for channel in 0..self.channels {
            let channel = &batch[(image * self.channels + channel) * self.input..][..self.input];
            patches.extend(
                self.sources.iter().map(|source| source.map_or(T::from_f32(0.0), |source| channel[source])),
            );
        }
        let rows = patches.len().checked_div(self.positions()).unwrap_or(0);
        Tensor::of(&[rows, self.positions()], patches)
    }

    /// Adds the gradients of the patches to those of the image.
    fn fold(&self, patches: &Tensor, image: &mut [f64]) {
        let patches = patches.to_f32();
        for (channel, patches) in image.chunks_mut(self.input).zip(patches.chunks(self.sources.len())) {
            for (source, value) in self.sources.iter().zip(patches) {
                if let Some(source) = source {
                    channel[*source] += f64::from(*value);
                }
            }
        }
    }
}
