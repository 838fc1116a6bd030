//! Pooling composed of stock operations: for backends without kernels of their own, and to compare kernels with.

use burn::tensor::{Int, Tensor, backend::Backend, ops::FloatTensor};

use crate::model::recorded::{primitive, tensor};

pub(super) fn max_pool<B: Backend>(x: FloatTensor<B>, kernel: [usize; 3]) -> FloatTensor<B> {
    primitive(as_image(blocks(tensor::<B, 5>(x), kernel).max_dim(5)))
}

pub(super) fn max_pool_gradient<B: Backend>(
    x: FloatTensor<B>,
    kernel: [usize; 3],
    gradient: FloatTensor<B>,
) -> FloatTensor<B> {
    let (x, gradient) = (tensor::<B, 5>(x), tensor::<B, 5>(gradient));
    let (shape, count) = (x.dims(), kernel.iter().product::<usize>());
    let x = blocks(x, kernel);
    let others = x.clone().max_dim(5).repeat_dim(5, count).not_equal(x);
    let places = Tensor::<B, 1, Int>::arange(0..count as i64, &gradient.device());
    let places = places.reshape([1, 1, 1, 1, 1, count]).expand(others.dims());
    let first = places.clone().mask_fill(others, count as i64).min_dim(5).repeat_dim(5, count);
    primitive(whole(as_blocks(gradient, count).mask_fill(places.not_equal(first), 0.0), shape, kernel))
}

pub(super) fn mean_pool<B: Backend>(x: FloatTensor<B>, kernel: [usize; 3]) -> FloatTensor<B> {
    primitive(as_image(blocks(tensor::<B, 5>(x), kernel).mean_dim(5)))
}

pub(super) fn mean_pool_gradient<B: Backend>(
    gradient: FloatTensor<B>,
    kernel: [usize; 3],
    shape: [usize; 5],
) -> FloatTensor<B> {
    let count = kernel.iter().product::<usize>();
    primitive(whole(as_blocks(tensor::<B, 5>(gradient), count).div_scalar(count as f32), shape, kernel))
}

/// [batch, channels, d, h, w] -> [batch, channels, blocks along d, h, w, voxels of a block].
fn blocks<B: Backend>(x: Tensor<B, 5>, [kd, kh, kw]: [usize; 3]) -> Tensor<B, 6> {
    let [batch, channels, d, h, w] = x.dims();
    let (d, h, w) = (d / kd, h / kh, w / kw);
    let x = x.slice([0..batch, 0..channels, 0..d * kd, 0..h * kh, 0..w * kw]);
    let x: Tensor<B, 8> = x.reshape([batch, channels, d, kd, h, kh, w, kw]).permute([0, 1, 2, 4, 6, 3, 5, 7]);
    x.reshape([batch, channels, d, h, w, kd * kh * kw])
}

/// The way back from [`blocks`]; zero behind the last whole block.
fn whole<B: Backend>(blocks: Tensor<B, 6>, shape: [usize; 5], [kd, kh, kw]: [usize; 3]) -> Tensor<B, 5> {
    let [batch, channels, d, h, w, _] = blocks.dims();
    let x: Tensor<B, 8> = blocks.reshape([batch, channels, d, h, w, kd, kh, kw]).permute([0, 1, 2, 5, 3, 6, 4, 7]);
    let x: Tensor<B, 5> = x.reshape([batch, channels, d * kd, h * kh, w * kw]);
    let zeros = Tensor::zeros(shape, &x.device());
    zeros.slice_assign([0..batch, 0..channels, 0..d * kd, 0..h * kh, 0..w * kw], x)
}

fn as_image<B: Backend>(x: Tensor<B, 6>) -> Tensor<B, 5> {
    let [batch, channels, d, h, w, _] = x.dims();
    x.reshape([batch, channels, d, h, w])
}

fn as_blocks<B: Backend>(x: Tensor<B, 5>, count: usize) -> Tensor<B, 6> {
    let [batch, channels, d, h, w] = x.dims();
    x.reshape([batch, channels, d, h, w, 1]).repeat_dim(5, count)
}
