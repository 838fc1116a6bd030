//! Convolutions of burn's own operations, differentiable on every backend: what CUDA uses.
//!
//! A 2x2x2 convolution with stride 2 touches each voxel once, so it is a matrix product over rearranged blocks; so are
//! its transpose and the 1x1x1 convolution. That is far faster on CUDA than a general operator (spec/cpu-kernels.md, sections
//! 2.2 and 11).

use burn::tensor::{Tensor, backend::Backend, module::conv3d, ops::ConvOptions};

use super::{Image, Term};
use crate::model::{layout::Sampling, norm::group_norm_relu};

/// See [`super::convolve`].
pub fn convolve<B: Backend>(
    image: Image<B>,
    weight: Tensor<B, 5>,
    bias: Tensor<B, 1>,
    sampling: Sampling,
) -> Tensor<B, 5> {
    let x = materialised(image);
    let [_, _, kernel @ ..] = weight.dims();
    match sampling {
        Sampling::Same if kernel == [1; 3] => pointwise(x, weight, bias),
        Sampling::Same => {
            conv3d(x, weight, Some(bias), ConvOptions::new([1; 3], kernel.map(|side| side / 2), [1; 3], 1))
        }
        Sampling::Down => halve(x, weight, bias),
        Sampling::Up => double(x, weight, bias),
    }
}

/// The numbers of an image.
fn materialised<B: Backend>(image: Image<B>) -> Tensor<B, 5> {
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
pub fn halve<B: Backend>(x: Tensor<B, 5>, weight: Tensor<B, 5>, bias: Tensor<B, 1>) -> Tensor<B, 5> {
    let ([batch, inputs, d, h, w], [outputs, ..]) = (x.dims(), weight.dims());
    let (d, h, w) = (d / 2, h / 2, w / 2);
    let blocks: Tensor<B, 8> = x.reshape([batch, inputs, d, 2, h, 2, w, 2]).permute([0, 1, 3, 5, 7, 2, 4, 6]);
    let columns: Tensor<B, 3> = blocks.reshape([batch, inputs * 8, d * h * w]);
    product(weight.reshape([1, outputs, inputs * 8]), columns, bias).reshape([batch, outputs, d, h, w])
}

/// Transposed convolution 2x2x2 with stride 2.
///
/// # Shapes
/// `x` [batch, inputs, d, h, w], `weight` [inputs, outputs, 2, 2, 2] -> [batch, outputs, 2d, 2h, 2w].
pub fn double<B: Backend>(x: Tensor<B, 5>, weight: Tensor<B, 5>, bias: Tensor<B, 1>) -> Tensor<B, 5> {
    let ([batch, inputs, d, h, w], [_, outputs, ..]) = (x.dims(), weight.dims());
    let weight: Tensor<B, 3> = weight.reshape([1, inputs, outputs * 8]).swap_dims(1, 2);
    let bias = bias.reshape([outputs, 1]).repeat_dim(1, 8).reshape([outputs * 8]);
    let blocks = product(weight, x.reshape([batch, inputs, d * h * w]), bias);
    let blocks: Tensor<B, 8> = blocks.reshape([batch, outputs, 2, 2, 2, d, h, w]).permute([0, 1, 5, 2, 6, 3, 7, 4]);
    blocks.reshape([batch, outputs, 2 * d, 2 * h, 2 * w])
}

/// Convolution 1x1x1.
///
/// # Shapes
/// `x` [batch, inputs, d, h, w], `weight` [outputs, inputs, 1, 1, 1] -> [batch, outputs, d, h, w].
pub fn pointwise<B: Backend>(x: Tensor<B, 5>, weight: Tensor<B, 5>, bias: Tensor<B, 1>) -> Tensor<B, 5> {
    let ([batch, inputs, d, h, w], [outputs, ..]) = (x.dims(), weight.dims());
    let y = product(weight.reshape([1, outputs, inputs]), x.reshape([batch, inputs, d * h * w]), bias);
    y.reshape([batch, outputs, d, h, w])
}

/// `weight` [1, m, k] times `columns` [batch, k, n], plus `bias` [m] on every column.
fn product<B: Backend>(weight: Tensor<B, 3>, columns: Tensor<B, 3>, bias: Tensor<B, 1>) -> Tensor<B, 3> {
    let [_, outputs, _] = weight.dims();
    weight.matmul(columns) + bias.reshape([1, outputs, 1])
}
