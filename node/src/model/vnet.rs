//! The V-Net as a function of its weights (spec/semisam.md, section 3).
//!
//! A [`VNet`] is a copy of weights for one use: of the host's [`Weights`], or of a flat vector that lives on the device
//! ([`crate::train::resident`]). Optimiser, teacher and clip work on flat vectors, so nothing of a run hides in a
//! framework's module.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData, backend::AutodiffBackend, backend::Backend};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use semisam_shared::weights::Weights;

use super::{
    ModelError, VNetConfig,
    conv::{Image, convolve, operator::ConvBackend},
    layout,
    layout::{STAGES, Sampling},
};

/// Share of channels that dropout silences.
const DROPOUT: f64 = 0.5;

/// Factors of the channels at each dropout of the network, in the order of its stages: 0 or 2 for each channel of each
/// sample. They are drawn on the host, before the computation.
#[derive(Debug)]
pub struct DropoutMasks<B: Backend>(Vec<Tensor<B, 5>>);

impl<B: Backend> DropoutMasks<B> {
    /// Draws the masks of each sample from its own generator, so that they do not depend on which samples are computed
    /// together.
    pub fn draw(config: &VNetConfig, samples: &mut [ChaCha8Rng], device: &B::Device) -> Self {
        let keep = 1.0 / (1.0 - DROPOUT) as f32;
        let of_stage = |stage: &layout::Stage| {
            let shape = [samples.len(), stage.channels(config), 1, 1, 1];
            let mut values = Vec::with_capacity(shape[0] * shape[1]);
            for random in samples.iter_mut() {
                values.extend((0..shape[1]).map(|_| if random.random_bool(DROPOUT) { 0.0 } else { keep }));
            }
            Tensor::from_data(TensorData::new(values, shape), device)
        };
        Self(STAGES.iter().filter(|stage| stage.dropout).map(of_stage).collect())
    }
}

/// A network on a device.
#[derive(Clone, Debug)]
pub struct VNet<B: Backend> {
    config: VNetConfig,
    /// Shape and flat values of each tensor, by its name.
    leaves: BTreeMap<String, (Vec<usize>, Tensor<B, 1>)>,
}

impl<B: ConvBackend> VNet<B> {
    /// Copies `weights` to `device`.
    ///
    /// # Errors
    /// If a tensor is missing, superfluous or of another shape than `config` asks for.
    pub fn new(config: VNetConfig, weights: &Weights, device: &B::Device) -> Result<Self, ModelError> {
        config.check()?;
        layout::blank(&config).same_architecture(weights)?;
        let leaves = weights.iter().map(|(name, tensor)| {
            let values = TensorData::new(tensor.values.clone(), [tensor.values.len()]);
            (name.to_owned(), (tensor.shape.clone(), Tensor::from_data(values, device)))
        });
        Ok(Self { config, leaves: leaves.collect() })
    }

    /// Copies `values`, one tensor after another, to `device`; `shapes` are [`layout::shapes`] of `config`.
    ///
    /// # Panics
    /// If there are fewer values.
    pub fn of_values(config: VNetConfig, shapes: &[(String, Vec<usize>)], values: &[f32], device: &B::Device) -> Self {
        let mut start = 0;
        let leaves = shapes.iter().map(|(name, shape)| {
            let range = start..start + shape.iter().product::<usize>();
            start = range.end;
            let values = TensorData::new(values[range].to_vec(), [shape.iter().product::<usize>()]);
            (name.clone(), (shape.clone(), Tensor::from_data(values, device)))
        });
        Self { config, leaves: leaves.collect() }
    }

    /// A network whose values lie one tensor after another in `flat`; `shapes` are [`layout::shapes`] of `config`.
    pub fn from_flat(config: VNetConfig, shapes: &[(String, Vec<usize>)], flat: &Tensor<B, 1>) -> Self {
        let mut start = 0;
        let leaves = shapes.iter().map(|(name, shape)| {
            let range = start..start + shape.iter().product::<usize>();
            start = range.end;
            (name.clone(), (shape.clone(), flat.clone().slice([range])))
        });
        Self { config, leaves: leaves.collect() }
    }

    /// Its architecture.
    pub fn config(&self) -> VNetConfig {
        self.config
    }

    /// Logits of `images`, with channels silenced as `dropout` says.
    ///
    /// # Shapes
    /// [batch, image channels, d, h, w] -> [batch, classes, d, h, w]; sides are multiples of 16.
    ///
    /// # Errors
    /// If a side is no multiple of 16.
    pub fn forward(&self, images: Tensor<B, 5>, dropout: Option<&DropoutMasks<B>>) -> Result<Tensor<B, 5>, ModelError> {
        let [_, _, d, h, w] = images.dims();
        if [d, h, w].iter().any(|side| !side.is_multiple_of(16) || *side == 0) {
            return Err(ModelError::Side { found: [d, h, w] });
        }
        let (mut x, mut kept) = (Image::plain(images), Vec::new());
        let mut masks = dropout.iter().flat_map(|masks| &masks.0);
        for stage in STAGES {
            if stage.sampling == Sampling::Down {
                kept.push(x.clone());
            }
            for unit in 0..stage.units {
                x = self.unit(stage.name, stage.sampling, unit, x);
            }
            if stage.sampling == Sampling::Up {
                x = x.plus(kept.pop().expect("the table goes up as often as down"));
            }
            if stage.dropout
                && let Some(mask) = masks.next()
            {
                x = x.silenced(mask.clone());
            }
        }
        let (weight, bias) = (self.weight("out_conv.weight"), self.vector("out_conv.bias"));
        Ok(convolve(x, weight, bias, Sampling::Same).values)
    }

    /// Convolution, GroupNorm, ReLU.
    fn unit(&self, stage: &str, sampling: Sampling, unit: usize, x: Image<B>) -> Image<B> {
        let (convolution, normalisation) = (3 * unit, 3 * unit + 1);
        let weight = self.weight(&format!("{stage}.conv.{convolution}.weight"));
        let bias = self.vector(&format!("{stage}.conv.{convolution}.bias"));
        let y = convolve(x, weight, bias, sampling);
        let scale = self.vector(&format!("{stage}.conv.{normalisation}.weight"));
        let shift = self.vector(&format!("{stage}.conv.{normalisation}.bias"));
        Image::normalised(y, scale, shift, self.config.groups)
    }

    fn vector(&self, name: &str) -> Tensor<B, 1> {
        self.leaves.get(name).expect("the weights were checked against the layout").1.clone()
    }

    fn weight(&self, name: &str) -> Tensor<B, 5> {
        let (shape, values) = self.leaves.get(name).expect("the weights were checked against the layout");
        let shape: [usize; 5] = shape.as_slice().try_into().expect("a convolution's weight has five dimensions");
        values.clone().reshape(shape)
    }
}

impl<B: ConvBackend + AutodiffBackend> VNet<B> {
    /// The same network, whose tensors record what is computed from them; nothing is copied.
    pub fn tracked(plain: &VNet<B::InnerBackend>) -> Self {
        let tracked = |(name, (shape, values)): (&String, &(Vec<usize>, Tensor<B::InnerBackend, 1>))| {
            (name.clone(), (shape.clone(), Tensor::from_inner(values.clone()).require_grad()))
        };
        Self { config: plain.config, leaves: plain.leaves.iter().map(tracked).collect() }
    }

    /// The gradient of every tensor, one after another, on the device; zero where nothing depends on it.
    pub fn flat_gradient(&self, gradients: &B::Gradients) -> Tensor<B::InnerBackend, 1> {
        let of_leaf = |leaf: &Tensor<B, 1>| leaf.grad(gradients).unwrap_or_else(|| leaf.clone().inner().zeros_like());
        Tensor::cat(self.leaves.values().map(|(_, leaf)| of_leaf(leaf)).collect(), 0)
    }

    /// The gradient of every tensor, one after another, on the host; zero where nothing depends on it. Each leaves the
    /// device as it is copied, so that there are never two of all.
    pub fn gradient(&self, mut gradients: B::Gradients) -> Vec<f32> {
        let count = self.leaves.values().map(|(shape, _)| shape.iter().product::<usize>()).sum();
        let mut all = Vec::with_capacity(count);
        for (shape, leaf) in self.leaves.values() {
            match leaf.grad_remove(&mut gradients) {
                Some(gradient) => all.extend(to_host(gradient.into_data())),
                None => all.resize(all.len() + shape.iter().product::<usize>(), 0.0),
            }
        }
        all
    }
}

/// The values of a tensor that left its device.
pub fn to_host(data: TensorData) -> Vec<f32> {
    data.convert::<f32>().into_vec().expect("converted to f32 in the line above")
}
