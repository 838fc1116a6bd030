//! SAM-Med3D, the frozen promptable generalist (arXiv 2310.15161; spec/semisam.md, section 7), as a function of its weights.
//!
//! In reading order: [`config`] (its sizes, read off the shapes), [`layout`] (its tensors), `image_encoder` with `window`
//! and [`attention`], `prompt_encoder`, `mask_decoder` with `transformer`, [`resize`]; `linear` and [`operator`] are what
//! they are made of. For inference alone: nothing here is ever trained.

pub mod attention;
pub mod config;
mod image_encoder;
pub mod layout;
mod linear;
mod mask_decoder;
pub mod operator;
mod prompt_encoder;
pub mod resize;
#[cfg(test)]
mod tests;
mod transformer;
mod window;

use burn::tensor::{Tensor, backend::Backend};
use semisam_shared::weights::Weights;

use config::SamConfig;
use image_encoder::ImageEncoder;
use linear::Parts;
use mask_decoder::MaskDecoder;
use operator::TransformerBackend;
use prompt_encoder::PromptEncoder;

/// Why weights are no SAM-Med3D, or an input does not fit it.
#[derive(Debug, thiserror::Error)]
pub enum SamError {
    /// The tensors are not those of the network.
    #[error(
        "the weights are not those of a complete SAM-Med3D: {0}; give the file that the authors publish, or one with the same tensors"
    )]
    Tensors(String),
    /// The shapes tell sizes that no network has.
    #[error("the weights are not those of a SAM-Med3D: {0}")]
    Sizes(String),
    /// An image, an embedding or a mask prompt of another shape.
    #[error("this SAM-Med3D takes {what} of shape {expected:?}, but this one has {found:?}")]
    Shape {
        /// What was given.
        what: &'static str,
        /// The shape that it must have.
        expected: Vec<usize>,
        /// The shape that it has.
        found: Vec<usize>,
    },
}

/// What a point says about the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It lies in the object.
    Foreground,
    /// It lies outside.
    Background,
    /// Nothing: a point that only fills a list.
    NoPoint,
}

/// A point prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Click {
    /// Voxel index in the image that the network sees, along its axes; the centre of the first voxel is 0.
    pub at: [f32; 3],
    /// What it says.
    pub sign: Sign,
}

/// What is asked of the network about an image.
#[derive(Clone, Debug)]
pub struct Prompt<B: Backend> {
    /// Points.
    pub clicks: Vec<Click>,
    /// Logits of a mask, [1, 1, 4 * grid]; the published training starts from zeros, which is not the same as none.
    pub mask: Option<Tensor<B, 5>>,
    /// Whether the token of a point that is none is sent where there are no points, as it always is behind points.
    pub padded: bool,
}

/// What the network answers.
#[derive(Clone, Debug)]
pub struct Answer<B: Backend> {
    /// Logits at low resolution, [1, masks, 4 * grid]: the single mask first, then the alternatives.
    pub logits: Tensor<B, 5>,
    /// Predicted intersection over union of each, [1, masks].
    pub scores: Tensor<B, 2>,
}

impl<B: Backend> Answer<B> {
    /// The single mask's logits, [1, 1, 4 * grid]: the next prompt's mask.
    pub fn single(&self) -> Tensor<B, 5> {
        self.logits.clone().narrow(1, 0, 1)
    }
}

/// A network on a device.
#[derive(Debug)]
pub struct Sam<B: Backend> {
    config: SamConfig,
    image_encoder: ImageEncoder<B>,
    prompt_encoder: PromptEncoder<B>,
    mask_decoder: MaskDecoder<B>,
}

impl<B: TransformerBackend> Sam<B> {
    /// Moves `weights` to `device`; there is never a second copy of them all.
    ///
    /// # Errors
    /// Names the tensors that are missing, superfluous or of another shape.
    pub fn new(weights: Weights, device: &B::Device) -> Result<Self, SamError> {
        let config = SamConfig::of(&weights)?;
        layout::check(&config, &weights)?;
        let mut parts = Parts::new(weights, device);
        Ok(Self {
            image_encoder: ImageEncoder::take(&mut parts, &config),
            prompt_encoder: PromptEncoder::take(&mut parts, &config),
            mask_decoder: MaskDecoder::take(&mut parts, &config),
            config,
        })
    }

    /// Its sizes.
    pub fn config(&self) -> &SamConfig {
        &self.config
    }

    /// The embedding of an image: the costly part, once per image.
    ///
    /// # Shapes
    /// [1, image channels, d, h, w] -> [1, channels, grid].
    ///
    /// # Errors
    /// If the image has another shape.
    pub fn encode(&self, image: Tensor<B, 5>) -> Result<Tensor<B, 5>, SamError> {
        let [d, h, w] = self.config.image();
        fits("an image", [1, self.config.image_channels, d, h, w], &image)?;
        Ok(self.image_encoder.forward(image))
    }

    /// What the network makes of a prompt about an embedded image.
    ///
    /// # Errors
    /// If embedding or mask have another shape.
    pub fn decode(&self, embedding: Tensor<B, 5>, prompt: &Prompt<B>) -> Result<Answer<B>, SamError> {
        let ([d, h, w], channels, tokens) = (self.config.grid, self.config.channels, self.config.tokens());
        fits("an embedding", [1, channels, d, h, w], &embedding)?;
        let image = embedding.reshape([channels, tokens]).swap_dims(0, 1) + self.dense_rows(prompt.mask.clone())?;
        let padding = || prompt.padded.then(|| self.prompt_encoder.padding());
        let points = self.prompt_encoder.points(&prompt.clicks).or_else(padding);
        let (logits, scores) = self.mask_decoder.forward(image, self.prompt_encoder.grid(), points);
        Ok(Answer { logits, scores })
    }

    /// The positional encoding of the grid, [1, channels, grid].
    pub fn dense_encoding(&self) -> Tensor<B, 5> {
        self.channels_first(self.prompt_encoder.grid())
    }

    /// The tokens of points, [n, channels]; none where there are no points.
    pub fn sparse(&self, clicks: &[Click]) -> Option<Tensor<B, 2>> {
        self.prompt_encoder.points(clicks)
    }

    /// What a mask prompt, or its absence, adds to the embedding, [1, channels, grid].
    ///
    /// # Errors
    /// If the mask has another shape.
    pub fn dense(&self, mask: Option<Tensor<B, 5>>) -> Result<Tensor<B, 5>, SamError> {
        Ok(self.channels_first(self.dense_rows(mask)?))
    }

    fn dense_rows(&self, mask: Option<Tensor<B, 5>>) -> Result<Tensor<B, 2>, SamError> {
        let [d, h, w] = self.config.low_resolution();
        mask.as_ref().map_or(Ok(()), |mask| fits("a mask prompt", [1, 1, d, h, w], mask))?;
        Ok(self.prompt_encoder.mask(mask))
    }

    fn channels_first(&self, rows: Tensor<B, 2>) -> Tensor<B, 5> {
        let [d, h, w] = self.config.grid;
        rows.swap_dims(0, 1).reshape([1, self.config.channels, d, h, w])
    }
}

fn fits<B: Backend>(what: &'static str, expected: [usize; 5], tensor: &Tensor<B, 5>) -> Result<(), SamError> {
    let found = tensor.dims();
    if found == expected {
        return Ok(());
    }
    Err(SamError::Shape { what, expected: expected.to_vec(), found: found.to_vec() })
}
