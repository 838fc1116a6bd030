//! Named tensors on a device: what a network of convolutions is a function of.
//!
//! A network is a copy of weights for one use: of the host's [`Weights`], or of a flat vector in the host's memory or
//! on the device ([`crate::train::resident`]). Optimiser, teacher and clip work on flat vectors, so nothing of a run hides in a
//! framework's module.

use std::{collections::BTreeMap, ops::Range};

use burn::tensor::{Tensor, TensorData, backend::AutodiffBackend, backend::Backend};
use semisam_shared::weights::Weights;

use super::{
    conv::{Convolved, Image, convolve, operator::ConvBackend},
    layout::Sampling,
};

/// Shape and flat values of each tensor, by its name.
#[derive(Clone, Debug)]
pub struct Leaves<B: Backend>(BTreeMap<String, Leaf<B>>);

/// Shape and flat values.
type Leaf<B> = (Vec<usize>, Tensor<B, 1>);

impl<B: ConvBackend> Leaves<B> {
    /// Copies `weights` to `device`.
    pub fn new(weights: &Weights, device: &B::Device) -> Self {
        let leaves = weights.iter().map(|(name, tensor)| {
            let values = TensorData::new(tensor.values.clone(), [tensor.values.len()]);
            (name.to_owned(), (tensor.shape.clone(), Tensor::from_data(values, device)))
        });
        Self(leaves.collect())
    }

    /// Copies `values`, one tensor after another, to `device`.
    ///
    /// # Panics
    /// If there are fewer values than `shapes` have.
    pub fn of_values(shapes: &[(String, Vec<usize>)], values: &[f32], device: &B::Device) -> Self {
        let leaves = ranges(shapes).map(|(name, shape, range)| {
            let values = TensorData::new(values[range.clone()].to_vec(), [range.len()]);
            (name.clone(), (shape.clone(), Tensor::from_data(values, device)))
        });
        Self(leaves.collect())
    }

    /// Tensors whose values lie one after another in `flat`.
    pub fn from_flat(shapes: &[(String, Vec<usize>)], flat: &Tensor<B, 1>) -> Self {
        let leaf = |range: Range<usize>| flat.clone().slice([range]);
        Self(ranges(shapes).map(|(name, shape, range)| (name.clone(), (shape.clone(), leaf(range)))).collect())
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
    /// The same tensors, which record what is computed from them; nothing is copied.
    pub fn tracked(plain: &Leaves<B::InnerBackend>) -> Self {
        let tracked = |(name, (shape, values)): (&String, &Leaf<B::InnerBackend>)| {
            (name.clone(), (shape.clone(), Tensor::from_inner(values.clone()).require_grad()))
        };
        Self(plain.0.iter().map(tracked).collect())
    }

    /// The gradient of every tensor, one after another, on the device; zero where nothing depends on it.
    pub fn flat_gradient(&self, gradients: &B::Gradients) -> Tensor<B::InnerBackend, 1> {
        let of_leaf = |leaf: &Tensor<B, 1>| leaf.grad(gradients).unwrap_or_else(|| leaf.clone().inner().zeros_like());
        Tensor::cat(self.0.values().map(|(_, leaf)| of_leaf(leaf)).collect(), 0)
    }

    /// The gradient of every tensor, one after another, on the host; zero where nothing depends on it. Each leaves the
    /// device as it is copied, so that there are never two of all.
    pub fn gradient(&self, mut gradients: B::Gradients) -> Vec<f32> {
        let count = self.0.values().map(|(shape, _)| shape.iter().product::<usize>()).sum();
        let mut all = Vec::with_capacity(count);
        for (shape, leaf) in self.0.values() {
            match leaf.grad_remove(&mut gradients) {
                Some(gradient) => all.extend(to_host(gradient.into_data())),
                None => all.resize(all.len() + shape.iter().product::<usize>(), 0.0),
            }
        }
        all
    }
}

/// Name and shape of each tensor, and where its values lie in a flat vector.
fn ranges(shapes: &[(String, Vec<usize>)]) -> impl Iterator<Item = (&String, &Vec<usize>, Range<usize>)> {
    let mut start = 0;
    shapes.iter().map(move |(name, shape)| {
        let range = start..start + shape.iter().product::<usize>();
        start = range.end;
        (name, shape, range)
    })
}

/// The values of a tensor that left its device.
pub fn to_host(data: TensorData) -> Vec<f32> {
    data.convert::<f32>().into_vec().expect("converted to f32 in the line above")
}
