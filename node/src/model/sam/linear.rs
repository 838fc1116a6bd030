//! The layers that every part of a SAM-Med3D is made of, and how they get their tensors.
//!
//! Tokens are rows, so that a linear layer is one matrix product over all of them. Its weights, which PyTorch stores as
//! [outputs, inputs], are transposed once: a product that reads them transposed packs all of them anew each time, which took a
//! fifth of the mask decoder's time. Other tensors are moved from the weights to the device, never copied.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData, TensorPrimitive, activation, backend::Backend};
use semisam_shared::weights::{self, Weights};

use super::operator::{TransformerBackend, gelu};

/// Weights that were checked against the layout, being handed out.
pub(super) struct Parts<'a, B: Backend> {
    tensors: BTreeMap<String, weights::Tensor>,
    device: &'a B::Device,
}

impl<'a, B: Backend> Parts<'a, B> {
    pub(super) fn new(weights: Weights, device: &'a B::Device) -> Self {
        Self { tensors: weights.into_iter().collect(), device }
    }

    /// A tensor on the device.
    pub(super) fn tensor<const D: usize>(&mut self, name: &str) -> Tensor<B, D> {
        let weights::Tensor { shape, values } = self.host(name);
        Tensor::from_data(TensorData::new(values, shape), self.device)
    }

    /// A matrix on the device, transposed. Of more axes than two all but the first are one.
    fn transposed(&mut self, name: &str) -> Tensor<B, 2> {
        let weights::Tensor { shape, values } = self.host(name);
        let (rows, columns) = (shape[0], shape[1..].iter().product());
        let transposed: Vec<f32> =
            (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns).copied()).collect();
        Tensor::from_data(TensorData::new(transposed, [columns, rows]), self.device)
    }

    /// A tensor on the host.
    pub(super) fn host(&mut self, name: &str) -> weights::Tensor {
        self.tensors.remove(name).expect("the weights were checked against the layout, and each tensor is taken once")
    }

    pub(super) fn device(&self) -> &'a B::Device {
        self.device
    }
}

/// `x W^T + b`.
#[derive(Clone, Debug)]
pub(super) struct Linear<B: Backend> {
    /// `W^T`, [inputs, outputs].
    weight: Tensor<B, 2>,
    bias: Tensor<B, 2>,
}

impl<B: Backend> Linear<B> {
    /// Also of a convolution whose blocks do not overlap, and are rows.
    pub(super) fn take(parts: &mut Parts<'_, B>, path: &str) -> Self {
        let weight = parts.transposed(&format!("{path}.weight"));
        Self { weight, bias: parts.tensor::<1>(&format!("{path}.bias")).unsqueeze() }
    }

    /// [rows, inputs] -> [rows, outputs].
    pub(super) fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        x.matmul(self.weight.clone()) + self.bias.clone()
    }

    /// [1, outputs].
    pub(super) fn bias(&self) -> Tensor<B, 2> {
        self.bias.clone()
    }
}

/// Normalisation of each row to mean 0 and biased variance 1, then scale and shift.
#[derive(Clone, Debug)]
pub(super) struct LayerNorm<B: Backend> {
    scale: Tensor<B, 1>,
    shift: Tensor<B, 1>,
    epsilon: f64,
}

impl<B: Backend> LayerNorm<B> {
    pub(super) fn take(parts: &mut Parts<'_, B>, path: &str, epsilon: f64) -> Self {
        let (scale, shift) = (parts.tensor(&format!("{path}.weight")), parts.tensor(&format!("{path}.bias")));
        Self { scale, shift, epsilon }
    }

    /// Along the last axis.
    pub(super) fn forward<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        let [x, scale] = [x.into_primitive(), self.scale.clone().into_primitive()].map(TensorPrimitive::tensor);
        let shift = self.shift.clone().into_primitive().tensor();
        Tensor::from_primitive(TensorPrimitive::Float(B::layer_norm(x, scale, Some(shift), self.epsilon)))
    }

    /// Along the channels of [1, channels, d, h, w].
    ///
    /// A mask prompt has four channels that may differ far less than they are large, so the mean is taken off before
    /// anything is squared.
    pub(super) fn forward_channels(&self, x: Tensor<B, 5>) -> Tensor<B, 5> {
        let shape = x.dims();
        let [_, channels, d, h, w] = shape;
        let x: Tensor<B, 3> = x.reshape([1, channels, d * h * w]);
        let centred = x.clone() - x.mean_dim(1);
        let deviation = (centred.clone() * centred.clone()).mean_dim(1).add_scalar(self.epsilon).sqrt();
        let [scale, shift] = [&self.scale, &self.shift].map(|values| values.clone().reshape([1, channels, 1]));
        (centred / deviation * scale + shift).reshape(shape)
    }
}

/// What comes between two linear layers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Activation {
    /// With the exact error function.
    Gelu,
    /// The positive part.
    Relu,
}

/// Linear layers with an activation between each two.
#[derive(Clone, Debug)]
pub(super) struct Perceptron<B: Backend> {
    layers: Vec<Linear<B>>,
    activation: Activation,
}

impl<B: TransformerBackend> Perceptron<B> {
    pub(super) fn take(parts: &mut Parts<'_, B>, paths: &[String], activation: Activation) -> Self {
        Self { layers: paths.iter().map(|path| Linear::take(parts, path)).collect(), activation }
    }

    /// [rows, inputs] -> [rows, outputs].
    pub(super) fn forward(&self, mut x: Tensor<B, 2>) -> Tensor<B, 2> {
        for (number, layer) in self.layers.iter().enumerate() {
            if number > 0 {
                x = match self.activation {
                    Activation::Gelu => gelu(x),
                    Activation::Relu => activation::relu(x),
                };
            }
            x = layer.forward(x);
        }
        x
    }
}
