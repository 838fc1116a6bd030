//! The convolutions of a V-Net: 3x3x3, and the strided ones as matrix products.
//!
//! A 2x2x2 convolution with stride 2 touches each voxel once, so it is a matrix product over rearranged blocks; so are
//! its transpose and the 1x1x1 convolution. That is faster on the CPU and far faster on CUDA than a general operator
//! (spec/cpu-kernels.md, sections 2.2 and 11). The 3x3x3 convolution is an operator of its own ([`operator`]), which the CPU
//! computes directly ([`direct`]).

pub mod direct;
pub mod operator;

use burn::tensor::{Tensor, TensorPrimitive, backend::Backend};

use operator::ConvBackend;

/// Convolution 3x3x3 with stride 1 and zero padding of 1.
///
/// # Shapes
/// `x` [batch, inputs, d, h, w], `weight` [outputs, inputs, 3, 3, 3], `bias` [outputs] -> [batch, outputs, d, h, w].
pub fn same<B: ConvBackend>(x: Tensor<B, 5>, weight: Tensor<B, 5>, bias: Tensor<B, 1>) -> Tensor<B, 5> {
    let (x, weight, bias) =
        (x.into_primitive().tensor(), weight.into_primitive().tensor(), bias.into_primitive().tensor());
    Tensor::from_primitive(TensorPrimitive::Float(B::conv_same(x, weight, bias)))
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
