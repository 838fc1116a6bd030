//! The operators of the network, one by one: value and gradients on the CPU and on another device.

use burn::tensor::{Tensor, TensorData};
use semisam_node::{
    device::{Device, TrainBackend, Work},
    model::{
        conv::{Image, convolve},
        layout::Sampling,
        norm,
        vnet::to_host,
    },
    train::{generator, normal},
};

use crate::deviation;

/// Samples of a batch.
const BATCH: usize = 2;

/// What is computed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operator {
    /// 3x3x3.
    Same,
    /// 2x2x2 with stride 2.
    Halve,
    /// The same, transposed.
    Double,
    /// 1x1x1.
    Pointwise,
    /// GroupNorm with four groups, and ReLU.
    NormRelu,
}

impl Operator {
    fn weight(self, inputs: usize, outputs: usize) -> [usize; 5] {
        match self {
            Self::Same => [outputs, inputs, 3, 3, 3],
            Self::Halve => [outputs, inputs, 2, 2, 2],
            Self::Double => [inputs, outputs, 2, 2, 2],
            Self::Pointwise => [outputs, inputs, 1, 1, 1],
            Self::NormRelu => [1, outputs, 1, 1, 1],
        }
    }

    fn apply<B: TrainBackend>(self, x: Tensor<B, 5>, weight: Tensor<B, 5>, bias: Tensor<B, 1>) -> Tensor<B, 5> {
        match self {
            Self::Same | Self::Pointwise => convolve(Image::plain(x), weight, bias, Sampling::Same).values,
            Self::Halve => convolve(Image::plain(x), weight, bias, Sampling::Down).values,
            Self::Double => convolve(Image::plain(x), weight, bias, Sampling::Up).values,
            Self::NormRelu => {
                let scale = weight.reshape([bias.dims()[0]]);
                norm::group_norm_relu(x, scale, bias, 4)
            }
        }
    }
}

struct Gradients {
    operator: Operator,
    channels: (usize, usize),
    sides: [usize; 3],
}

impl Work for Gradients {
    /// Value, and gradients with respect to image, weight and bias.
    type Output = [Vec<f32>; 4];

    fn run<B: TrainBackend>(self, device: &B::Device) -> Self::Output {
        let (inputs, outputs) = self.channels;
        let [d, h, w] = self.sides;
        let x = draw::<B, 5>([BATCH, inputs, d, h, w], "x", device).require_grad();
        let weight = draw::<B, 5>(self.operator.weight(inputs, outputs), "weight", device).require_grad();
        let bias = draw::<B, 1>([outputs], "bias", device).require_grad();
        let y = self.operator.apply(x.clone(), weight.clone(), bias.clone());
        let slope = draw::<B, 5>(y.dims(), "slope", device);
        let gradients = (y.clone() * slope).sum().backward();
        let of = |gradient: Option<TensorData>| to_host(gradient.expect("it takes part"));
        let of_weight = weight.grad(&gradients).map(Tensor::into_data);
        let of_bias = bias.grad(&gradients).map(Tensor::into_data);
        [to_host(y.into_data()), of(x.grad(&gradients).map(Tensor::into_data)), of(of_weight), of(of_bias)]
    }
}

fn draw<B: TrainBackend, const D: usize>(shape: [usize; D], purpose: &str, device: &B::Device) -> Tensor<B, D> {
    let mut random = generator(1, purpose, &shape.map(|extent| extent as u64));
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| normal(&mut random)).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Panics where `device` is further from the CPU than `tolerance`, relative to the largest value.
pub(crate) fn compare(operator: Operator, channels: (usize, usize), sides: [usize; 3], device: Device, tolerance: f64) {
    let on = |device: Device| device.run(Gradients { operator, channels, sides });
    let names = ["value", "gradient of the image", "gradient of the weight", "gradient of the bias"];
    for ((found, expected), name) in on(device).iter().zip(&on(Device::Cpu)).zip(names) {
        let off = deviation(found, expected);
        assert!(off <= tolerance, "{operator:?} {channels:?} {sides:?} on {device}: {name} is off by {off}");
    }
}
