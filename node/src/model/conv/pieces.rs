//! Convolutions of burn's own operations as products of matrices, with gradients of our own.
//!
//! Burn has 3-D convolutions for GPUs and differentiates them, but the gradient of a weight is a sum over all voxels of which only
//! a few numbers come: burn's kernels give each of these numbers to one multiprocessor or thread, and the rest of a GPU looks
//! on. Here all that a kernel meets is laid out side by side, as much at a time as fits; what is left is a product of matrices,
//! and a sum over voxels is made in pieces, a piece for each multiprocessor, and the pieces are added.

use std::ops::Range;

use burn::{
    backend::autodiff::{
        Autodiff, NodeId,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops},
    },
    tensor::{Tensor, backend::Backend, ops::PadMode},
};

use super::operator::ConvBackend;
use crate::model::recorded::{self, primitive, tensor};

/// Voxels that one piece of a sum goes over, at least.
const PIECE: usize = 4096;
/// Numbers that are laid out at once, at most: 512 MiB of them.
pub(crate) const FITS: usize = 1 << 27;

/// What is computed of an image and a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// A convolution with an odd kernel that keeps the sides: `x` [batch, inputs, d, h, w], `weight` [outputs, inputs, kernel].
    Same,
    /// Of matrices: `x` [batch, inputs, voxels, 1, 1], `weight` [outputs, inputs, 1, 1, 1].
    Columns,
}

impl Product {
    /// [batch, outputs, sides of `x`].
    pub fn of<B: ConvBackend>(self, x: Tensor<B, 5>, weight: Tensor<B, 5>) -> Tensor<B, 5> {
        match self {
            Self::Same => B::same(x, weight),
            Self::Columns => {
                let ([batch, inputs, voxels, ..], [outputs, ..]) = (x.dims(), weight.dims());
                let y = weight.reshape([1, outputs, inputs]).matmul(x.reshape([batch, inputs, voxels]));
                y.reshape([batch, outputs, voxels, 1, 1])
            }
        }
    }

    fn gradient_of_image<B: ConvBackend>(self, slope: Tensor<B, 5>, weight: Tensor<B, 5>) -> Tensor<B, 5> {
        let weight = weight.swap_dims(0, 1);
        self.of(slope, if self == Self::Same { weight.flip([2, 3, 4]) } else { weight })
    }
}

/// A convolution with an odd kernel that keeps the sides, for GPUs that have nothing better; no more than about `fits` numbers are
/// laid out at once.
///
/// # Shapes
/// `x` [batch, inputs, d, h, w], `weight` [outputs, inputs, kernel] -> [batch, outputs, d, h, w].
#[cfg(any(feature = "cuda", test))]
pub(crate) fn same<B: Backend>(x: Tensor<B, 5>, weight: Tensor<B, 5>, fits: usize) -> Tensor<B, 5> {
    let ([batch, inputs, d, h, w], [outputs, _, kernel @ ..]) = (x.dims(), weight.dims());
    let taps: usize = kernel.iter().product();
    let (x, weight) = (padded(x, kernel), weight.reshape([1, outputs, inputs * taps]));
    let of_slab = |(samples, slices): (Range<usize>, Range<usize>)| {
        let sizes = [samples.len(), outputs, slices.len(), h, w];
        let x = part(x.clone(), samples, slices.start..slices.end + kernel[0] - 1);
        weight.clone().matmul(laid_out(x, kernel, sizes[2])).reshape(sizes)
    };
    let mut of_samples = Vec::new();
    for samples in slabs(batch, inputs * taps * d * h * w, 1, fits) {
        let of_slices = slabs(d, samples.len() * inputs * taps * h * w, 1, fits);
        of_samples.push(joined(of_slices.map(|slices| of_slab((samples.clone(), slices))).collect(), 2));
    }
    joined(of_samples, 0)
}

/// The gradient of a weight [outputs, inputs, kernel], for the gradient `slope` of the result.
fn gradient_of_weight<B: Backend>(
    x: Tensor<B, 5>,
    slope: Tensor<B, 5>,
    kernel: [usize; 3],
    (piece, fits): (usize, usize),
) -> Tensor<B, 5> {
    let ([batch, inputs, d, h, w], [_, outputs, ..]) = (x.dims(), slope.dims());
    let taps: usize = kernel.iter().product();
    let x = padded(x, kernel);
    // slices of a piece
    let step = (1..=d).find(|slices| d % slices == 0 && slices * h * w >= piece).unwrap_or(d);
    let mut sum: Option<Tensor<B, 2>> = None;
    for samples in slabs(batch, inputs * taps * d * h * w, 1, fits) {
        for slices in slabs(d, samples.len() * inputs * taps * h * w, step, fits) {
            let slope = rows(part(slope.clone(), samples.clone(), slices.clone()), step);
            let x = part(x.clone(), samples.clone(), slices.start..slices.end + kernel[0] - 1);
            let found = slope.matmul(laid_out(x, kernel, step).swap_dims(1, 2)).sum_dim(0);
            let found = found.reshape([outputs, inputs * taps]);
            sum = Some(sum.map_or(found.clone(), |sum| sum + found));
        }
    }
    let sum = sum.expect("a batch has a sample");
    sum.reshape([outputs, inputs, kernel[0], kernel[1], kernel[2]])
}

/// `0..count` in ranges of as many as fit, each a multiple of `step` and at least that, where each takes `size` numbers.
fn slabs(count: usize, size: usize, step: usize, fits: usize) -> impl Iterator<Item = Range<usize>> {
    let many = (fits / size / step * step).max(step);
    (0..count).step_by(many).map(move |first| first..(first + many).min(count))
}

fn padded<B: Backend>(x: Tensor<B, 5>, kernel: [usize; 3]) -> Tensor<B, 5> {
    match kernel {
        [1, 1, 1] => x,
        _ => x.pad(kernel.map(|side| (side / 2, side / 2)), PadMode::Constant(0.0)),
    }
}

/// Some slices of some samples.
fn part<B: Backend>(x: Tensor<B, 5>, samples: Range<usize>, slices: Range<usize>) -> Tensor<B, 5> {
    let [batch, _, d, ..] = x.dims();
    let x = if samples.len() == batch { x } else { x.narrow(0, samples.start, samples.len()) };
    if slices.len() == d { x } else { x.narrow(2, slices.start, slices.len()) }
}

/// All that the kernel meets, [batch * pieces, inputs * taps, voxels of a piece], of a padded [batch, inputs, d, h, w].
fn laid_out<B: Backend>(x: Tensor<B, 5>, kernel: [usize; 3], slices: usize) -> Tensor<B, 3> {
    let ([batch, inputs, ..], [depth, height, width]) = (x.dims(), kernel);
    // each unfolding makes a dimension longer by one: [batch, inputs, pieces, h, w, slices, taps of d, of h, of w]
    let pieces: Tensor<B, 6> = x.unfold(2, slices + depth - 1, slices);
    let along_d: Tensor<B, 7> = pieces.unfold(5, depth, 1);
    let along_h: Tensor<B, 8> = along_d.unfold(3, height, 1);
    let windows: Tensor<B, 9> = along_h.unfold(4, width, 1);
    let [_, _, pieces, h, w, ..] = windows.dims();
    let windows = windows.permute([0, 2, 1, 6, 7, 8, 5, 3, 4]);
    windows.reshape([batch * pieces, inputs * depth * height * width, slices * h * w])
}

/// [batch, outputs, d, h, w] in pieces: [batch * pieces, outputs, voxels of a piece].
fn rows<B: Backend>(slope: Tensor<B, 5>, slices: usize) -> Tensor<B, 3> {
    let [batch, outputs, d, h, w] = slope.dims();
    let pieces: Tensor<B, 4> = slope.reshape([batch, outputs, d / slices, slices * h * w]).swap_dims(1, 2);
    pieces.reshape([batch * d / slices, outputs, slices * h * w])
}

#[cfg(any(feature = "cuda", test))]
fn joined<B: Backend>(mut parts: Vec<Tensor<B, 5>>, dimension: usize) -> Tensor<B, 5> {
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, dimension) }
}

impl<B: ConvBackend> Backward<B, 2> for Product {
    /// The image and the weight.
    type State = [NodeId; 2];

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let slope = tensor(gradients.consume::<B>(&ops.node));
        let [x, weight] = ops.state.map(|node| tensor::<B, 5>(checkpointer.retrieve_node_output(node)));
        let [_, _, kernel @ ..] = weight.dims();
        let [of_x, of_weight] = ops.parents;
        if let Some(node) = of_x {
            gradients.register::<B>(node.id, primitive(self.gradient_of_image(slope.clone(), weight)));
        }
        if let Some(node) = of_weight {
            gradients.register::<B>(node.id, primitive(gradient_of_weight(x, slope, kernel, (PIECE, FITS))));
        }
    }
}

/// Computes a product, and records it with the gradients of this file.
pub(super) fn record<B: ConvBackend, C: CheckpointStrategy>(
    product: Product,
    x: Tensor<Autodiff<B, C>, 5>,
    weight: Tensor<Autodiff<B, C>, 5>,
) -> Tensor<Autodiff<B, C>, 5> {
    tensor(recorded::record::<B, C, _, 2>(product, [x, weight].map(primitive), |inputs| {
        let [x, weight] = inputs.map(tensor::<B, 5>);
        primitive(product.of(x, weight))
    }))
}

#[cfg(test)]
mod tests;
