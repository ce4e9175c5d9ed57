//! The patches of an image that a convolution's kernel meets, as a matrix.

use crate::tensor::{Tensor, each_type};
use lora_kernels::Element;

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
pub(super) struct Patches {
    /// Sizes of the output.
    pub sizes: Vec<usize>,
    /// For each element of the kernel and each output position, the input position; `None` in the padding.
    sources: Vec<Option<usize>>,
    channels: usize,
    /// Input positions of a channel.
    input: usize,
}

impl Patches {
    /// For images \[channels, …inputs\] and weights \[outputs, channels, …kernel\]; what does not fit comes back in words.
    pub fn new(
        geometry: &ConvolutionGeometry,
        [outputs, channels]: [usize; 2],
        kernel: &[usize],
        inputs: &[usize],
    ) -> Result<Self, String> {
        let ConvolutionGeometry { stride, padding, dilation } = geometry;
        let axes = kernel.len();
        if [stride, padding, dilation].iter().any(|values| values.len() != axes) {
            return Err(format!("its geometry needs {axes} values of stride, padding and dilation each"));
        }
        if stride.contains(&0) || dilation.contains(&0) {
            return Err("stride and dilation must be at least 1".into());
        }
        if inputs.contains(&0) {
            return Err(format!("there is nothing in images of {inputs:?}"));
        }
        let mut sizes = Vec::with_capacity(axes);
        for axis in 0..axes {
            let padded = padding[axis].checked_mul(2).and_then(|both| both.checked_add(inputs[axis]));
            let reach = kernel[axis].checked_sub(1).and_then(|steps| steps.checked_mul(dilation[axis]));
            let room =
                padded.zip(reach).and_then(|(padded, reach)| padded.checked_sub(reach)?.checked_sub(1));
            let Some(room) = room else {
                return Err(format!(
                    "axis {axis}: the kernel of {} with dilation {} does not fit into an input of {} with padding {}",
                    kernel[axis], dilation[axis], inputs[axis], padding[axis]
                ));
            };
            sizes.push(room / stride[axis] + 1);
        }
        // A padding that nobody means would ask for more memory than there is.
        let features = channels * kernel.iter().product::<usize>();
        let needed = sizes.iter().try_fold(features.max(outputs), |product, size| product.checked_mul(*size));
        if needed.is_none_or(|needed| needed > MAX_ELEMENTS) {
            return Err(format!("an output of {sizes:?} positions is too large for one image"));
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

    pub fn positions(&self) -> usize {
        self.sizes.iter().product()
    }

    /// The patches \[channels·kernel, positions\] of an image.
    pub fn unfold(&self, image: &Tensor) -> Tensor {
        each_type!(image.values(), values => self.unfold_typed(values))
    }

    fn unfold_typed<T: Element>(&self, image: &[T]) -> Tensor {
        let mut patches = Vec::with_capacity(self.channels * self.sources.len());
        for channel in image.chunks(self.input) {
            patches.extend(
                self.sources.iter().map(|source| source.map_or(T::from_f32(0.0), |source| channel[source])),
            );
        }
        let rows = patches.len().checked_div(self.positions()).unwrap_or(0);
        Tensor::of(&[rows, self.positions()], patches)
    }

    /// The gradient of an image \[channels, inputs\], from those of its patches.
    pub fn fold(&self, patches: &Tensor) -> Vec<f64> {
        let patches = patches.to_f32();
        let mut image = vec![0.0; self.channels * self.input];
        for (channel, patches) in image.chunks_mut(self.input).zip(patches.chunks(self.sources.len())) {
            for (source, value) in self.sources.iter().zip(patches) {
                if let Some(source) = source {
                    channel[*source] += f64::from(*value);
                }
            }
        }
        image
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Loops over three axes, element by element.
    #[test]
    fn patches_of_three_axes_are_those_of_the_definition() {
        let geometry =
            ConvolutionGeometry { stride: vec![2, 1, 3], padding: vec![1, 0, 2], dilation: vec![1, 2, 2] };
        let (channels, inputs, kernel) = (2, [4, 5, 6], [3, 2, 2]);
        let patches = Patches::new(&geometry, [7, channels], &kernel, &inputs).unwrap();
        assert_eq!(patches.sizes, [2, 3, 3]);
        let image: Vec<f32> = (1..=channels * 120).map(|value| value as f32).collect();
        let unfolded = patches.unfold(&Tensor::of(&[channels, 120], image.clone()));
        assert_eq!(unfolded.shape(), [channels * 12, 18]);
        let values = unfolded.to_f32();
        let mut uses = vec![0.0f64; image.len()];
        let mut index = 0;
        for channel in 0..channels {
            for (k0, k1, k2) in (0..3).flat_map(|a| (0..2).flat_map(move |b| (0..2).map(move |c| (a, b, c))))
            {
                for (o0, o1, o2) in
                    (0..2).flat_map(|a| (0..3).flat_map(move |b| (0..3).map(move |c| (a, b, c))))
                {
                    let at = [2 * o0 + k0 - 1, o1 + 2 * k1, 3 * o2 + 2 * k2 - 2];
                    let inside = at.iter().zip([4, 5, 6]).all(|(at, size)| (0..size).contains(at));
                    let mut expected = 0.0;
                    if inside {
                        let place = channel * 120 + ((at[0] * 5 + at[1]) * 6 + at[2]) as usize;
                        expected = image[place];
                        uses[place] += 1.0;
                    }
                    assert_eq!(values[index], expected, "{channel} {k0} {k1} {k2} {o0} {o1} {o2}");
                    index += 1;
                }
            }
        }
        // Folding ones counts how often each element was used.
        let ones = Tensor::of(unfolded.shape(), vec![1.0f32; values.len()]);
        assert_eq!(patches.fold(&ones), uses);
    }
}
