//! GroupNorm followed by ReLU, the only normalisation of a federated student.
//!
//! BatchNorm would mix the patients of a batch and carry running statistics past the clip (spec/privacy.md, P2).
//! The scale, shift, mean and deviation are folded into one multiplier and one offset per channel, so that the large
//! tensor is passed over as few times as stock operations allow.

use burn::tensor::{Tensor, activation, backend::Backend};

/// PyTorch's default.
pub(crate) const EPSILON: f64 = 1e-5;

/// `relu(group_norm(x))`.
///
/// # Shapes
/// `x` [batch, channels, d, h, w], `scale` and `shift` [channels]; `groups` divides channels.
pub fn group_norm_relu<B: Backend>(
    x: Tensor<B, 5>,
    scale: Tensor<B, 1>,
    shift: Tensor<B, 1>,
    groups: usize,
) -> Tensor<B, 5> {
    let shape = x.dims();
    let [batch, channels, d, h, w] = shape;
    let (members, voxels) = (channels / groups, d * h * w);
    let grouped: Tensor<B, 3> = x.reshape([batch, groups, members * voxels]);
    let mean = grouped.clone().mean_dim(2);
    let centred = grouped - mean; // [batch, groups, members * voxels]
    let variance = (centred.clone() * centred.clone()).mean_dim(2);
    let inverse: Tensor<B, 3> = variance.add_scalar(EPSILON).sqrt().recip().reshape([batch, groups, 1]);
    let factor = (inverse * scale.reshape([1, groups, members])).reshape([batch, channels, 1]);
    let y = centred.reshape([batch, channels, voxels]) * factor + shift.reshape([1, channels, 1]);
    activation::relu(y).reshape(shape)
}
