//! GroupNorm followed by ReLU, the only normalisation of a federated student.
//!
//! BatchNorm would mix the patients of a batch and carry running statistics past the clip (spec/privacy.md, P2).
//! The scale, shift, mean and deviation are folded into one multiplier and one offset per channel, so that the large
//! tensor is passed over as few times as stock operations allow. The gradient is the closed form: it keeps nothing but `x`, where
//! burn's would keep each step on the way. Sums over voxels are folded: the units of a GPU add side by side, while burn's own would
//! give each sum to a single one.

use burn::{
    backend::autodiff::{
        Autodiff, NodeId,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops},
    },
    tensor::{Tensor, activation, backend::Backend, ops::FloatTensor},
};

use super::{
    conv::operator::ConvBackend,
    recorded::{self, primitive, tensor},
};

/// PyTorch's default.
pub(crate) const EPSILON: f64 = 1e-5;
/// Numbers that are added one after another, at most, where that is possible.
const RUN: usize = 128;

/// `relu(group_norm(x))`.
///
/// # Shapes
/// `x` [batch, channels, d, h, w], `scale` and `shift` [channels]; `groups` divides channels.
pub fn group_norm_relu<B: ConvBackend>(
    x: Tensor<B, 5>,
    scale: Tensor<B, 1>,
    shift: Tensor<B, 1>,
    groups: usize,
) -> Tensor<B, 5> {
    B::normalise(x, scale, shift, groups)
}

/// The same of burn's own operations.
pub(super) fn composed<B: Backend>(
    x: Tensor<B, 5>,
    scale: Tensor<B, 1>,
    shift: Tensor<B, 1>,
    groups: usize,
) -> Tensor<B, 5> {
    let shape @ [batch, channels, d, h, w] = x.dims();
    let Standard { values, inverse } = Standard::of(x, groups);
    let factor = (inverse * by_group(scale, groups)).reshape([batch, channels, 1]);
    let y = values.reshape([batch, channels, d * h * w]) * factor + shift.reshape([1, channels, 1]);
    activation::relu(y).reshape(shape)
}

/// What lies between `x` and its scale.
struct Standard<B: Backend> {
    /// `x` less the mean of its group, [batch, groups, members * voxels].
    values: Tensor<B, 3>,
    /// One over the deviation, [batch, groups, 1].
    inverse: Tensor<B, 3>,
}

impl<B: Backend> Standard<B> {
    fn of(x: Tensor<B, 5>, groups: usize) -> Self {
        let [batch, channels, d, h, w] = x.dims();
        let size = channels / groups * d * h * w;
        let grouped: Tensor<B, 3> = x.reshape([batch, groups, size]);
        let mean = folded(grouped.clone()).div_scalar(size as f32);
        let values = grouped - mean;
        let variance = folded(values.clone() * values.clone()).div_scalar(size as f32);
        Self { values, inverse: variance.add_scalar(EPSILON).sqrt().recip() }
    }
}

/// [channels] -> [1, groups, members].
fn by_group<B: Backend>(vector: Tensor<B, 1>, groups: usize) -> Tensor<B, 3> {
    let [channels] = vector.dims();
    vector.reshape([1, groups, channels / groups])
}

/// The sums over the last dimension, [a, b, n] -> [a, b, 1]: of numbers far apart first, so that neighbours are added side by side.
pub(crate) fn folded<B: Backend>(values: Tensor<B, 3>) -> Tensor<B, 3> {
    let [a, b, n] = values.dims();
    match (2..=RUN.min(n / 2)).rev().find(|run| n.is_multiple_of(*run)) {
        Some(run) if n > RUN => {
            let runs: Tensor<B, 4> = values.reshape([a, b, run, n / run]);
            folded(runs.sum_dim(2).reshape([a, b, n / run]))
        }
        _ => values.sum_dim(2),
    }
}

/// The gradients of `x`, scale and shift, for the gradient `slope` of the result.
fn gradients<B: Backend>(
    x: Tensor<B, 5>,
    (scale, shift): (Tensor<B, 1>, Tensor<B, 1>),
    groups: usize,
    slope: Tensor<B, 5>,
) -> (Tensor<B, 5>, [Tensor<B, 1>; 2]) {
    let shape @ [batch, channels, d, h, w] = x.dims();
    let (voxels, members) = (d * h * w, channels / groups);
    let of_planes = [batch, channels, voxels];
    let Standard { values, inverse } = Standard::of(x, groups);
    let standard: Tensor<B, 3> = (values * inverse.clone()).reshape(of_planes);
    let y = standard.clone() * scale.clone().reshape([1, channels, 1]) + shift.reshape([1, channels, 1]);
    let slope = slope.reshape(of_planes).mask_fill(y.lower_equal_elem(0.0), 0.0);
    // of each plane, [batch, channels, 1]
    let (sum, moment) = (folded(slope.clone()), folded(slope.clone() * standard.clone()));
    let of_parameter = |sums: &Tensor<B, 3>| sums.clone().sum_dim(0).reshape([channels]);
    let of_parameters = [of_parameter(&moment), of_parameter(&sum)];
    // the means over a group of the gradient of the standard values, and of that times these
    let mean = |sums: Tensor<B, 3>| {
        let weighed = sums.reshape([batch, groups, members]) * by_group(scale.clone(), groups);
        weighed.sum_dim(2).div_scalar((members * voxels) as f32) * inverse.clone()
    };
    let spread = |of_group: Tensor<B, 3>| {
        let all: Tensor<B, 3> = of_group.expand([batch, groups, members]);
        all.reshape([batch, channels, 1])
    };
    let factor = (inverse.clone() * by_group(scale.clone(), groups)).reshape([batch, channels, 1]);
    let of_x = slope * factor - (standard * spread(mean(moment)) + spread(mean(sum)));
    (of_x.reshape(shape), of_parameters)
}

/// The step that autodiff records.
#[derive(Clone, Copy, Debug)]
struct GroupNormRelu {
    groups: usize,
}

impl<B: ConvBackend> Backward<B, 3> for GroupNormRelu {
    /// `x`, scale and shift.
    type State = [NodeId; 3];

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let slope = tensor(gradients.consume::<B>(&ops.node));
        let [x, scale, shift] = ops.state;
        let x = tensor(checkpointer.retrieve_node_output::<FloatTensor<B>>(x));
        let [scale, shift] =
            [scale, shift].map(|node| tensor(checkpointer.retrieve_node_output::<FloatTensor<B>>(node)));
        let (of_x, of_parameters) = self::gradients::<B>(x, (scale, shift), self.groups, slope);
        let [node, nodes @ ..] = ops.parents;
        if let Some(node) = node {
            gradients.register::<B>(node.id, primitive(of_x));
        }
        for (node, gradient) in nodes.into_iter().zip(of_parameters) {
            if let Some(node) = node {
                gradients.register::<B>(node.id, primitive(gradient));
            }
        }
    }
}

/// [`group_norm_relu`], recorded with the gradients of this file.
pub(super) fn record<B: ConvBackend, C: CheckpointStrategy>(
    x: Tensor<Autodiff<B, C>, 5>,
    scale: Tensor<Autodiff<B, C>, 1>,
    shift: Tensor<Autodiff<B, C>, 1>,
    groups: usize,
) -> Tensor<Autodiff<B, C>, 5> {
    let inputs = [primitive(x), primitive(scale), primitive(shift)];
    tensor(recorded::record::<B, C, _, 3>(GroupNormRelu { groups }, inputs, |[x, scale, shift]| {
        primitive(B::normalise(tensor::<B, 5>(x), tensor(scale), tensor(shift), groups))
    }))
}

#[cfg(test)]
mod tests {
    use burn::{backend::Flex, tensor::Distribution};

    use super::*;

    type Tracked = Autodiff<Flex>;

    fn values<const D: usize>(tensor: Tensor<Flex, D>) -> Vec<f32> {
        tensor.into_data().into_vec().expect("f32")
    }

    /// The closed form is what burn finds, for groups of one and of several channels, and sides that fold badly.
    #[test]
    fn the_gradients_are_those_that_burn_finds() {
        let device = Default::default();
        for (channels, groups, sides) in
            [(4, 4, [4, 6, 8]), (6, 2, [16, 16, 2]), (6, 3, [1, 13, 11]), (2, 1, [1, 2, 3])]
        {
            let x = Tensor::<Tracked, 5>::random(
                [2, channels, sides[0], sides[1], sides[2]],
                Distribution::Normal(0.5, 2.0),
                &device,
            );
            let x = x.require_grad();
            let drawn =
                || Tensor::<Tracked, 1>::random([channels], Distribution::Normal(0.3, 1.0), &device).require_grad();
            let (scale, shift) = (drawn(), drawn());
            let slope = Tensor::<Tracked, 5>::random(x.dims(), Distribution::Normal(0.0, 1.0), &device);
            let of = |y: Tensor<Tracked, 5>| {
                let gradients = (y.clone() * slope.clone()).sum().backward();
                let leaf = |gradient: Option<Tensor<Flex, 1>>| values(gradient.expect("it takes part"));
                let of_x = values(x.grad(&gradients).expect("it takes part"));
                [values(y.inner()), of_x, leaf(scale.grad(&gradients)), leaf(shift.grad(&gradients))]
            };
            let ours = of(group_norm_relu(x.clone(), scale.clone(), shift.clone(), groups));
            let burns = of(composed(x.clone(), scale.clone(), shift.clone(), groups));
            for (ours, burns) in ours.iter().zip(&burns) {
                let largest = burns.iter().fold(0.1_f32, |most, value| most.max(value.abs()));
                let apart = ours.iter().zip(burns).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(apart <= 2e-5 * largest, "{channels} in {groups} groups, {sides:?}: {apart} of {largest}");
            }
        }
    }

    #[test]
    fn folded_sums_are_sums() {
        for n in [1, 7, 127, 128, 129, 251, 4096, 100_352] {
            let values: Vec<f32> = (0..2 * n).map(|at| (at % 10) as f32).collect();
            let expected: Vec<f32> = values.chunks(n).map(|row| row.iter().sum()).collect();
            let tensor = Tensor::<Flex, 1>::from_floats(values.as_slice(), &Default::default()).reshape([1, 2, n]);
            assert_eq!(self::values(folded(tensor)), expected, "{n}");
        }
    }
}
