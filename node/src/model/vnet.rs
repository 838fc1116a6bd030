//! The V-Net as a function of its weights (spec/semisam.md, section 3).
//!
//! A [`VNet`] is a copy of weights for one use ([`Leaves`]).

use burn::tensor::{Tensor, TensorData, backend::AutodiffBackend, backend::Backend};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use semisam_shared::weights::Weights;

pub use super::leaves::to_host;
use super::{
    ModelError, VNetConfig,
    conv::{Image, operator::ConvBackend},
    layout,
    layout::{STAGES, Sampling},
    leaves::Leaves,
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
    leaves: Leaves<B>,
}

impl<B: ConvBackend> VNet<B> {
    /// Copies `weights` to `device`.
    ///
    /// # Errors
    /// If a tensor is missing, superfluous or of another shape than `config` asks for.
    pub fn new(config: VNetConfig, weights: &Weights, device: &B::Device) -> Result<Self, ModelError> {
        config.check()?;
        layout::blank(&config).same_architecture(weights)?;
        Ok(Self { config, leaves: Leaves::new(weights, device) })
    }

    /// Copies `values`, one tensor after another, to `device`; `shapes` are [`layout::shapes`] of `config`.
    ///
    /// # Panics
    /// If there are fewer values.
    pub fn of_values(config: VNetConfig, shapes: &[(String, Vec<usize>)], values: &[f32], device: &B::Device) -> Self {
        Self { config, leaves: Leaves::of_values(shapes, values, device) }
    }

    /// A network whose values lie one tensor after another in `flat`; `shapes` are [`layout::shapes`] of `config`.
    pub fn from_flat(config: VNetConfig, shapes: &[(String, Vec<usize>)], flat: &Tensor<B, 1>) -> Self {
        Self { config, leaves: Leaves::from_flat(shapes, flat) }
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
                x = self.leaves.unit(stage.name, stage.sampling, unit, self.config.groups, x);
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
        Ok(self.leaves.convolution("out_conv", Sampling::Same, x).values)
    }
}

impl<B: ConvBackend + AutodiffBackend> VNet<B> {
    /// The same network, whose tensors record what is computed from them; nothing is copied.
    pub fn tracked(plain: &VNet<B::InnerBackend>) -> Self {
        Self { config: plain.config, leaves: Leaves::tracked(&plain.leaves) }
    }

    /// The gradient of every tensor, one after another, on the device; zero where nothing depends on it.
    pub fn flat_gradient(&self, gradients: &B::Gradients) -> Tensor<B::InnerBackend, 1> {
        self.leaves.flat_gradient(gradients)
    }

    /// The gradient of every tensor, one after another, on the host; zero where nothing depends on it
    /// ([`Leaves::gradient`]).
    pub fn gradient(&self, gradients: B::Gradients) -> Vec<f32> {
        self.leaves.gradient(gradients)
    }
}
