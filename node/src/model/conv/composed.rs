//! Convolutions of burn's own operations, differentiable on every backend: what CUDA uses.
//!
//! A 2x2x2 convolution with stride 2 touches each voxel once, so it is a matrix product over rearranged blocks; so are
//! its transpose and the 1x1x1 convolution. That is far faster on CUDA than a general operator (spec/cpu-kernels.md, sections
//! 2.2 and 11).

use burn::tensor::Tensor;

use super::{Image, Term, operator::ConvBackend, pieces::Product};
use crate::model::{layout::Sampling, norm::group_norm_relu};

/// See [`super::convolve`].
pub fn convolve<B: ConvBackend>(
    image: Image<B>,
    weight: Tensor<B, 5>,
    bias: Tensor<B, 1>,
    sampling: Sampling,
) -> Tensor<B, 5> {
    let x = materialised(image);
    let [_, _, kernel @ ..] = weight.dims();
    match sampling {
        Sampling::Same if kernel == [1; 3] => pointwise(x, weight, bias),
        Sampling::Same => B::multiply(Product::Same, x, weight) + of_channels(bias),
        Sampling::Down => halve(x, weight, bias),
        Sampling::Up => double(x, weight, bias),
    }
}

/// The numbers of an image.
fn materialised<B: ConvBackend>(image: Image<B>) -> Tensor<B, 5> {
    let of_term = |Term { values, norm }: Term<B>| match norm {
        None => values,
        Some(norm) => {
            let y = group_norm_relu(values, norm.scale, norm.shift, norm.groups);
            norm.keep.map_or(y.clone(), |keep| y * keep)
        }
    };
    image.terms.into_iter().map(of_term).reduce(|sum, term| sum + term).expect("an image has a term")
}

/// Convolution 2x2x2 with stride 2.
///
/// # Shapes
/// `x` [batch, inputs, d, h, w], `weight` [outputs, inputs, 2, 2, 2] -> [batch, outputs, d/2, h/2, w/2].
pub fn halve<B: ConvBackend>(x: Tensor<B, 5>, weight: Tensor<B, 5>, bias: Tensor<B, 1>) -> Tensor<B, 5> {
    let ([batch, inputs, d, h, w], [outputs, ..]) = (x.dims(), weight.dims());
    let (d, h, w) = (d / 2, h / 2, w / 2);
    let blocks: Tensor<B, 8> = x.reshape([batch, inputs, d, 2, h, 2, w, 2]).permute([0, 1, 3, 5, 7, 2, 4, 6]);
    let columns: Tensor<B, 3> = blocks.reshape([batch, inputs * 8, d * h * w]);
    let y = product(weight.reshape([outputs, inputs * 8]), columns).reshape([batch, outputs, d, h, w]);
    y + of_channels(bias)
}

/// Transposed convolution 2x2x2 with stride 2.
///
/// # Shapes
/// `x` [batch, inputs, d, h, w], `weight` [inputs, outputs, 2, 2, 2] -> [batch, outputs, 2d, 2h, 2w].
pub fn double<B: ConvBackend>(x: Tensor<B, 5>, weight: Tensor<B, 5>, bias: Tensor<B, 1>) -> Tensor<B, 5> {
    let ([batch, inputs, d, h, w], [_, outputs, ..]) = (x.dims(), weight.dims());
    let weight: Tensor<B, 2> = weight.reshape([inputs, outputs * 8]).swap_dims(0, 1);
    let blocks = product(weight, x.reshape([batch, inputs, d * h * w]));
    let blocks: Tensor<B, 8> = blocks.reshape([batch, outputs, 2, 2, 2, d, h, w]).permute([0, 1, 5, 2, 6, 3, 7, 4]);
    blocks.reshape([batch, outputs, 2 * d, 2 * h, 2 * w]) + of_channels(bias)
}

/// Convolution 1x1x1.
///
/// # Shapes
/// `x` [batch, inputs, d, h, w], `weight` [outputs, inputs, 1, 1, 1] -> [batch, outputs, d, h, w].
pub fn pointwise<B: ConvBackend>(x: Tensor<B, 5>, weight: Tensor<B, 5>, bias: Tensor<B, 1>) -> Tensor<B, 5> {
    let ([batch, inputs, d, h, w], [outputs, ..]) = (x.dims(), weight.dims());
    let y = product(weight.reshape([outputs, inputs]), x.reshape([batch, inputs, d * h * w]));
    y.reshape([batch, outputs, d, h, w]) + of_channels(bias)
}

/// `weight` [m, k] times `columns` [batch, k, n].
fn product<B: ConvBackend>(weight: Tensor<B, 2>, columns: Tensor<B, 3>) -> Tensor<B, 3> {
    let ([outputs, inputs], [batch, _, voxels]) = (weight.dims(), columns.dims());
    let columns = columns.reshape([batch, inputs, voxels, 1, 1]);
    let y = B::multiply(Product::Columns, columns, weight.reshape([outputs, inputs, 1, 1, 1]));
    y.reshape([batch, outputs, voxels])
}

/// A bias [channels], to be added to an image.
fn of_channels<B: ConvBackend>(bias: Tensor<B, 1>) -> Tensor<B, 5> {
    let [channels] = bias.dims();
    bias.reshape([1, channels, 1, 1, 1])
}
