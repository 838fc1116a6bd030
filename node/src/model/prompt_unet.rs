//! A small promptable segmentation network (spec/semisam.md, section 13): a U-Net whose image part is computed once for a
//! scan, and whose prompt part is cheap.
//!
//! Interactive networks that take image and prompts as channels of one input compute everything anew for each click.
//! Here the image alone goes through a V-Net, whose features of every level are kept; points and a mask are drawn as maps
//! ([`prompt`]) and go through a second, lighter V-Net that adds those features on its way ("late fusion"; InterFormer,
//! arXiv 2304.02942). All sums are of linear maps or of one of them and a rectified one, so that a convolution reads them
//! without a copy ([`super::conv`]). Two maps come out: the mask's logits, and a quality whose mean over the predicted mask
//! is the score ([`score`]).

pub mod layout;
pub mod prompt;

use burn::tensor::{Tensor, TensorData, backend::AutodiffBackend, backend::Backend};
use semisam_shared::weights::{self, Weights, WeightsError};

use super::{
    conv::{Image, operator::ConvBackend},
    layout::Sampling,
    leaves::{Leaves, to_host},
};
use layout::{IMAGE_UNITS, LEVELS, MAPS, PROMPT_MAPS, PROMPT_UNITS};

/// Sides of an image are multiples of this.
pub const SIDES: usize = 1 << (LEVELS - 1);

/// No level is wider.
const WIDEST: usize = 512;

/// The architecture of a promptable network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptUNetConfig {
    /// Channels of each level, multiples of the first level's. That is also the number of groups of every GroupNorm.
    pub widths: [usize; LEVELS],
}

/// Why weights are no promptable network, or an input does not fit it.
#[derive(Debug, thiserror::Error)]
pub enum PromptUNetError {
    /// Numbers that no network can have.
    #[error(
        "no such prompted U-Net: levels of {0:?} channels; each must be a multiple of the first, which is not 0, and at most {WIDEST}"
    )]
    Widths([usize; LEVELS]),
    /// The tensors that tell the sizes are absent.
    #[error("the weights are not those of a promptable network: tensor `{0}` is missing or of another shape")]
    Foreign(String),
    /// The names or shapes do not fit.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A value that would spread to every voxel.
    #[error("tensor `{0}` holds values that are not finite; the file is damaged, fetch or train it again")]
    NotFinite(String),
    /// A side that cannot be halved three times.
    #[error(
        "a promptable network takes images whose sides are multiples of {SIDES}, but this one is {0:?} voxels; pad it"
    )]
    Side([usize; 3]),
    /// An image, features or maps of another shape.
    #[error("this promptable network takes {what} of shape {expected:?}, but this one has {found:?}")]
    Shape {
        /// What was given.
        what: String,
        /// The shape that it must have.
        expected: Vec<usize>,
        /// The shape that it has.
        found: Vec<usize>,
    },
}

impl Default for PromptUNetConfig {
    /// 1.7 million values: 3.4 MB in half precision.
    fn default() -> Self {
        Self { widths: [8, 16, 48, 96] }
    }
}

impl PromptUNetConfig {
    /// Refuses sizes that no network can have.
    ///
    /// # Errors
    /// If a width is no multiple of the first.
    pub fn check(&self) -> Result<(), PromptUNetError> {
        let first = self.widths[0];
        let fits = |width: &usize| (1..=WIDEST).contains(width) && width.is_multiple_of(first);
        let possible = first > 0 && self.widths.iter().all(fits);
        if possible { Ok(()) } else { Err(PromptUNetError::Widths(self.widths)) }
    }

    /// Whether `weights` mean to be a promptable network, be they complete or not.
    pub fn recognises(weights: &Weights) -> bool {
        weights.get("prompt.in.weight").is_some()
    }

    /// Reads the sizes off the shapes of `weights` and checks that every tensor is there and finite.
    ///
    /// # Errors
    /// Names what is missing, superfluous, of another shape, or not finite.
    pub fn of(weights: &Weights) -> Result<Self, PromptUNetError> {
        let mut widths = [0; LEVELS];
        for (level, width) in widths.iter_mut().enumerate() {
            let name = format!("image.feature_{level}.weight");
            let shape = weights.get(&name).map(|tensor| tensor.shape.as_slice());
            *width = match shape {
                // its values are there, so what is allocated below is in proportion to the file
                Some([outputs, inputs, 1, 1, 1]) if outputs == inputs => *outputs,
                _ => return Err(PromptUNetError::Foreign(name)),
            };
        }
        let config = Self { widths };
        config.check()?;
        layout::blank(&config).same_architecture(weights)?;
        match weights.iter().find(|(_, tensor)| tensor.values.iter().any(|value| !value.is_finite())) {
            Some((name, _)) => Err(PromptUNetError::NotFinite(name.to_owned())),
            None => Ok(config),
        }
    }

    /// Shape of the features of `level` of one image with these sides.
    pub fn feature(&self, level: usize, sides: [usize; 3]) -> [usize; 5] {
        let [d, h, w] = sides.map(|side| side >> level);
        [1, self.widths[level], d, h, w]
    }

    fn groups(&self) -> usize {
        self.widths[0]
    }
}

/// What the network makes of images before it is asked anything: features of each level, finest first.
#[derive(Clone, Debug)]
pub struct Features<B: Backend>(Vec<Tensor<B, 5>>);

impl<B: Backend> Features<B> {
    /// One tensor in the host's memory: [numbers of a cell, cells], where a cell is a block of 8 x 8 x 8 voxels. The
    /// numbers are those of level after level, each in its own order.
    pub fn to_host(self) -> weights::Tensor {
        let cells = self.sides().map(|side| side / SIDES);
        let values: Vec<f32> = self.0.into_iter().flat_map(|level| to_host(level.into_data())).collect();
        let shape = [values.len() / cells.iter().product::<usize>(), cells[0], cells[1], cells[2]];
        weights::Tensor { shape: shape.to_vec(), values }
    }

    /// What [`Features::to_host`] gave, on a device.
    ///
    /// # Errors
    /// If its shape is not one that `config` gives.
    pub fn from_host(
        config: &PromptUNetConfig,
        stored: &weights::Tensor,
        device: &B::Device,
    ) -> Result<Self, PromptUNetError> {
        let cells: [usize; 3] = match stored.shape.as_slice() {
            [_, cells @ ..] => cells.try_into().unwrap_or_default(),
            [] => [0; 3],
        };
        let of_cell: usize = (0..LEVELS).map(|level| config.widths[level] << (3 * (LEVELS - 1 - level))).sum();
        let expected = [of_cell, cells[0], cells[1], cells[2]];
        fits("features", &expected, &stored.shape)?;
        if cells.contains(&0) || stored.values.len() != expected.iter().product::<usize>() {
            return Err(PromptUNetError::Side(cells.map(|cells| cells * SIDES)));
        }
        let mut rest = stored.values.as_slice();
        let levels = (0..LEVELS).map(|level| {
            let shape = config.feature(level, cells.map(|cells| cells * SIDES));
            let (values, tail) = rest.split_at(shape.iter().product());
            rest = tail;
            Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
        });
        Ok(Self(levels.collect()))
    }

    /// Those of a level, in the host's memory: [batch, width, sides halved level times].
    ///
    /// # Panics
    /// If there is no such level.
    pub fn level(&self, level: usize) -> weights::Tensor {
        let tensor = self.0[level].clone();
        weights::Tensor { shape: tensor.dims().to_vec(), values: to_host(tensor.into_data()) }
    }

    /// Sides of the image that these are features of.
    pub fn sides(&self) -> [usize; 3] {
        let [_, _, sides @ ..] = self.0[0].dims();
        sides
    }
}

impl<B: AutodiffBackend> Features<B> {
    /// The same numbers, where nothing is recorded.
    pub fn inner(&self) -> Features<B::InnerBackend> {
        Features(self.0.iter().map(|level| level.clone().inner()).collect())
    }
}

/// A network on a device.
#[derive(Clone, Debug)]
pub struct PromptUNet<B: Backend> {
    config: PromptUNetConfig,
    leaves: Leaves<B>,
}

impl<B: ConvBackend> PromptUNet<B> {
    /// Copies `weights` to `device`.
    ///
    /// # Errors
    /// If a tensor is missing, superfluous or of another shape than `config` asks for.
    pub fn new(config: PromptUNetConfig, weights: &Weights, device: &B::Device) -> Result<Self, PromptUNetError> {
        config.check()?;
        layout::blank(&config).same_architecture(weights)?;
        Ok(Self { config, leaves: Leaves::new(weights, device) })
    }

    /// Copies `values`, one tensor after another, to `device`; `shapes` are [`layout::shapes`] of `config`.
    ///
    /// # Panics
    /// If there are fewer values.
    pub fn of_values(
        config: PromptUNetConfig,
        shapes: &[(String, Vec<usize>)],
        values: &[f32],
        device: &B::Device,
    ) -> Self {
        Self { config, leaves: Leaves::of_values(shapes, values, device) }
    }

    /// Its architecture.
    pub fn config(&self) -> PromptUNetConfig {
        self.config
    }

    /// The features of images: the costly part, once per image.
    ///
    /// # Shapes
    /// [batch, 1, d, h, w], sides multiples of [`SIDES`] -> of each level [batch, width, sides halved level times].
    ///
    /// # Errors
    /// If a side cannot be halved, or there are several channels.
    pub fn embed(&self, images: Tensor<B, 5>) -> Result<Features<B>, PromptUNetError> {
        let [batch, channels, sides @ ..] = images.dims();
        if sides.iter().any(|side| !side.is_multiple_of(SIDES) || *side == 0) {
            return Err(PromptUNetError::Side(sides));
        }
        let one = [batch, 1, sides[0], sides[1], sides[2]];
        fits("an image", &one, &[batch, channels, sides[0], sides[1], sides[2]])?;
        let (mut x, mut kept) = (Image::plain(images), Vec::new());
        for (level, units) in IMAGE_UNITS.into_iter().enumerate() {
            if level > 0 {
                x = self.down("image", level, x);
            }
            x = self.units("image", level, units, x);
            kept.push(x.clone());
        }
        kept.pop();
        let mut features = vec![self.feature(LEVELS - 1, x.clone())];
        for level in (0..LEVELS - 1).rev() {
            x = self.back("image", level, x, kept.pop().expect("a level was kept on the way down"));
            features.push(self.feature(level, x.clone()));
        }
        features.reverse();
        Ok(Features(features))
    }

    /// What the network answers to prompts about embedded images.
    ///
    /// # Shapes
    /// `prompts` [batch, 3, d, h, w] ([`prompt`]) -> [batch, 2, d, h, w]: the logits of the masks, and their quality.
    ///
    /// # Errors
    /// If the prompts have another shape than the images.
    pub fn decode(&self, features: &Features<B>, prompts: Tensor<B, 5>) -> Result<Tensor<B, 5>, PromptUNetError> {
        let ([batch, ..], [d, h, w]) = (features.0[0].dims(), features.sides());
        fits("prompts", &[batch, PROMPT_MAPS, d, h, w], &prompts.dims())?;
        let feature = |level: usize| Image::plain(features.0[level].clone());
        let drawn = self.leaves.convolution("prompt.in", Sampling::Down, Image::plain(prompts));
        let (mut x, mut kept) = (Image::plain(drawn.values), vec![feature(0)]);
        for (level, units) in PROMPT_UNITS.into_iter().enumerate().skip(1) {
            if level > 1 {
                x = self.down("prompt", level, x);
            }
            x = self.units("prompt", level, units, x.plus(feature(level)));
            kept.push(x.clone());
        }
        kept.pop();
        for level in (0..LEVELS - 1).rev() {
            x = self.back("prompt", level, x, kept.pop().expect("a level was kept on the way down"));
        }
        Ok(self.leaves.convolution("prompt.out", Sampling::Same, x).values)
    }

    fn units(&self, part: &str, level: usize, units: usize, x: Image<B>) -> Image<B> {
        let stage = format!("{part}.level_{level}");
        (0..units).fold(x, |x, unit| self.leaves.unit(&stage, Sampling::Same, unit, self.config.groups(), x))
    }

    fn down(&self, part: &str, level: usize, x: Image<B>) -> Image<B> {
        self.leaves.unit(&format!("{part}.down_{level}"), Sampling::Down, 0, self.config.groups(), x)
    }

    fn back(&self, part: &str, level: usize, x: Image<B>, kept: Image<B>) -> Image<B> {
        let groups = self.config.groups();
        let x = self.leaves.unit(&format!("{part}.up_{level}"), Sampling::Up, 0, groups, x).plus(kept);
        self.leaves.unit(&format!("{part}.back_{level}"), Sampling::Same, 0, groups, x)
    }

    fn feature(&self, level: usize, x: Image<B>) -> Tensor<B, 5> {
        self.leaves.convolution(&format!("image.feature_{level}"), Sampling::Same, x).values
    }
}

fn fits(what: &str, expected: &[usize], found: &[usize]) -> Result<(), PromptUNetError> {
    if found == expected {
        return Ok(());
    }
    Err(PromptUNetError::Shape { what: what.to_owned(), expected: expected.to_vec(), found: found.to_vec() })
}

impl<B: ConvBackend + AutodiffBackend> PromptUNet<B> {
    /// The same network, whose tensors record what is computed from them; nothing is copied.
    pub fn tracked(plain: &PromptUNet<B::InnerBackend>) -> Self {
        Self { config: plain.config, leaves: Leaves::tracked(&plain.leaves) }
    }

    /// The gradient of every tensor, one after another, on the host; zero where nothing depends on it
    /// ([`Leaves::gradient`]).
    pub fn gradient(&self, gradients: B::Gradients) -> Vec<f32> {
        self.leaves.gradient(gradients)
    }
}

/// Intersection over union with the object, as the network itself guesses it: the mean quality of what it takes for the
/// object, each voxel counted by its probability, through a sigmoid.
///
/// # Shapes
/// `maps` [2, voxels], of one image ([`PromptUNet::decode`]).
pub fn score(maps: &[f32]) -> f64 {
    let pooled = Pooled::of(maps);
    sigmoid(pooled.mean)
}

/// The pooling of [`score`].
#[derive(Clone, Copy, Debug)]
pub struct Pooled {
    /// Sum of the probabilities.
    pub total: f64,
    /// Mean quality.
    pub mean: f64,
}

impl Pooled {
    /// Of the maps [2, voxels] of one image.
    pub fn of(maps: &[f32]) -> Self {
        let (logits, quality) = maps.split_at(maps.len() / MAPS);
        let (mut total, mut sum) = (0.0, 0.0);
        for (logit, quality) in logits.iter().zip(quality) {
            let p = sigmoid(f64::from(*logit));
            total += p;
            sum += p * f64::from(*quality);
        }
        Self { total, mean: sum / total.max(f64::MIN_POSITIVE) }
    }
}

/// `1 / (1 + exp(-x))`.
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests;
