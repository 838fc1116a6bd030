//! Named tensors on a device: what a network of convolutions is a function of.
//!
//! A network is a copy of weights for one use: of the host's [`Weights`], or of a flat vector that lives on the device
//! ([`crate::train::resident`]). Optimiser, teacher and clip work on flat vectors, so nothing of a run hides in a
//! framework's module.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData, backend::AutodiffBackend, backend::Backend};
use semisam_shared::weights::{self, Weights};

use super::{
    conv::{Convolved, Image, convolve, operator::ConvBackend},
    layout::Sampling,
};

/// Shape and flat values of each tensor, by its name.
#[derive(Clone, Debug)]
pub struct Leaves<B: Backend>(BTreeMap<String, (Vec<usize>, Tensor<B, 1>)>);

impl<B: ConvBackend> Leaves<B> {
    /// Copies `weights` to `device`.
    pub fn new(weights: &Weights, device: &B::Device) -> Self {
        let leaves = weights.iter().map(|(name, tensor)| {
            let values = TensorData::new(tensor.values.clone(), [tensor.values.len()]);
            (name.to_owned(), (tensor.shape.clone(), Tensor::from_data(values, device)))
        });
        Self(leaves.collect())
    }

    /// Tensors whose values lie one after another in `flat`.
    pub fn from_flat(shapes: &[(String, Vec<usize>)], flat: &Tensor<B, 1>) -> Self {
        let mut start = 0;
        let leaves = shapes.iter().map(|(name, shape)| {
            let range = start..start + shape.iter().product::<usize>();
            start = range.end;
            (name.clone(), (shape.clone(), flat.clone().slice([range])))
        });
        Self(leaves.collect())
    }

    /// Convolution with the tensors `path.weight` and `path.bias`.
    ///
    /// # Panics
    /// If there are no such tensors: weights are checked against a layout first.
    pub fn convolution(&self, path: &str, sampling: Sampling, x: Image<B>) -> Convolved<B> {
        convolve(x, self.weight(&format!("{path}.weight")), self.vector(&format!("{path}.bias")), sampling)
    }

    /// Convolution, GroupNorm, ReLU: unit `unit` of `stage`, whose tensors are numbered as PyTorch numbers the layers of a
    /// sequence.
    pub fn unit(&self, stage: &str, sampling: Sampling, unit: usize, groups: usize, x: Image<B>) -> Image<B> {
        let y = self.convolution(&format!("{stage}.conv.{}", 3 * unit), sampling, x);
        let norm = format!("{stage}.conv.{}", 3 * unit + 1);
        Image::normalised(y, self.vector(&format!("{norm}.weight")), self.vector(&format!("{norm}.bias")), groups)
    }

    fn vector(&self, name: &str) -> Tensor<B, 1> {
        self.0.get(name).expect("the weights were checked against the layout").1.clone()
    }

    fn weight(&self, name: &str) -> Tensor<B, 5> {
        let (shape, values) = self.0.get(name).expect("the weights were checked against the layout");
        let shape: [usize; 5] = shape.as_slice().try_into().expect("a convolution's weight has five dimensions");
        values.clone().reshape(shape)
    }
}

impl<B: ConvBackend + AutodiffBackend> Leaves<B> {
    /// The same tensors, which record what is computed from them.
    pub fn tracked(mut self) -> Self {
        for (_, values) in self.0.values_mut() {
            *values = values.clone().require_grad();
        }
        self
    }

    /// Tensors of the inner backend, recording what is computed from them.
    pub fn tracking(plain: Leaves<B::InnerBackend>) -> Self {
        let tracked = |(shape, values)| (shape, Tensor::from_inner(values).require_grad());
        Self(plain.0.into_iter().map(|(name, leaf)| (name, tracked(leaf))).collect())
    }

    /// The same tensors on the inner backend, where nothing is recorded.
    pub fn inner(&self) -> Leaves<B::InnerBackend> {
        let plain = |(shape, values): &(Vec<usize>, Tensor<B, 1>)| (shape.clone(), values.clone().inner());
        Leaves(self.0.iter().map(|(name, leaf)| (name.clone(), plain(leaf))).collect())
    }

    /// The gradient of every tensor, one after another, on the device; zero where nothing depends on it.
    pub fn flat_gradient(&self, gradients: &B::Gradients) -> Tensor<B::InnerBackend, 1> {
        let of_leaf = |leaf: &Tensor<B, 1>| leaf.grad(gradients).unwrap_or_else(|| leaf.clone().inner().zeros_like());
        Tensor::cat(self.0.values().map(|(_, leaf)| of_leaf(leaf)).collect(), 0)
    }

    /// The gradient of every tensor, by the names of the weights; zero where nothing depends on it.
    pub fn gradients(&self, gradients: &B::Gradients) -> Weights {
        let tensors = self.0.iter().map(|(name, (shape, leaf))| {
            let values = match leaf.grad(gradients) {
                Some(gradient) => to_host(gradient.into_data()),
                None => vec![0.0; shape.iter().product()],
            };
            (name.clone(), weights::Tensor { shape: shape.clone(), values })
        });
        Weights::new(tensors).expect("a gradient has its tensor's shape")
    }
}

/// The values of a tensor that left its device.
pub fn to_host(data: TensorData) -> Vec<f32> {
    data.convert::<f32>().into_vec().expect("converted to f32 in the line above")
}
