//! A generalist ready for use on scans: a frozen SAM-Med3D that embeds a scan and draws masks where points say.
//!
//! In reading order: [`view`] (what the network sees of a scan), [`point`] (prompts), [`reference`] (comparison with the
//! original implementation).

pub mod point;
pub mod reference;
pub mod view;

use std::path::Path;

use burn::tensor::{Tensor, TensorData, backend::Backend};
use semisam_shared::weights::{self, Weights};

use crate::{
    data::{
        grid::Grid,
        nifti::StoredGrid,
        resample::ResampleError,
        volume::{Image, LabelMap},
    },
    device::{Device, TrainBackend, Work},
    model::{
        checkpoint::{self, CheckpointError},
        sam::{
            Click, Prompt, Sam, SamError, config::SamConfig, layout, operator::TransformerBackend, resize::trilinear,
        },
        vnet::to_host,
    },
};
use point::{Point, PointError, centre};
use view::{View, ViewError};

/// A generalist and where it computes.
#[derive(Debug)]
pub struct Generalist {
    weights: Weights,
    config: SamConfig,
    device: Device,
}

/// A mask that points led to.
#[derive(Clone, Debug)]
pub struct Segmentation {
    /// On the scan's grid.
    pub mask: LabelMap,
    /// Intersection over union with the object, as the network itself guesses it.
    pub score: f32,
    /// What the network saw.
    pub view: View,
}

/// What the network makes of a scan before it is asked anything.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// [1, channels, grid].
    pub values: weights::Tensor,
    /// What the network saw.
    pub view: View,
}

/// Why a generalist cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GeneralistError {
    /// The file of weights.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Weights that are not the network's.
    #[error("`{path}` holds no generalist that this program knows")]
    Weights {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with them.
        source: SamError,
    },
    /// An input that does not fit.
    #[error(transparent)]
    Sam(#[from] SamError),
    /// The scan.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A prompt.
    #[error(transparent)]
    Point(#[from] PointError),
    /// No prompts.
    #[error("there is no point to start from: give at least one with --point i,j,k")]
    NoPoint,
    /// The way back to the scan's grid.
    #[error(transparent)]
    Resample(#[from] ResampleError),
}

impl Generalist {
    /// Reads a checkpoint, .pth or .safetensors, and checks that it is a whole SAM-Med3D.
    ///
    /// # Errors
    /// If the file cannot be read; names the tensors that are missing, superfluous or of another shape.
    pub fn open(path: &Path, device: Device) -> Result<Self, GeneralistError> {
        let weights = checkpoint::read(path)?;
        let config = SamConfig::of(&weights).and_then(|config| layout::check(&config, &weights).map(|()| config));
        let config = config.map_err(|source| GeneralistError::Weights { path: path.to_path_buf(), source })?;
        if config.image_channels != 1 {
            let source =
                SamError::Sizes(format!("it takes images of {} channels, but a scan has one", config.image_channels));
            return Err(GeneralistError::Weights { path: path.to_path_buf(), source });
        }
        Ok(Self { weights, config, device })
    }

    /// Its sizes.
    pub fn config(&self) -> &SamConfig {
        &self.config
    }

    /// The embedding of what lies around the points, or in the middle of the scan where there are none.
    ///
    /// # Errors
    /// If a point lies outside, or the scan shows nothing.
    pub fn embed(self, image: &Image, stored: &StoredGrid, points: &[Point]) -> Result<Embedding, GeneralistError> {
        let view = View::of(image, self.config.image(), centre(points, stored)?)?;
        let values = self.device.run(Embed { weights: self.weights, image: &view.image })?;
        Ok(Embedding { values, view })
    }

    /// The object that points lead to: they are given one after another, all earlier ones again, each time with the
    /// network's own last mask.
    ///
    /// # Errors
    /// If there is no point, a point lies outside, or the scan shows nothing.
    pub fn segment(
        self,
        image: &Image,
        stored: &StoredGrid,
        points: &[Point],
    ) -> Result<Segmentation, GeneralistError> {
        let centre = centre(points, stored)?.ok_or(GeneralistError::NoPoint)?;
        let view = View::of(image, self.config.image(), Some(centre))?;
        let clicks = points.iter().map(|point| point.click(stored, &view)).collect::<Result<Vec<_>, _>>()?;
        let drawing = Draw { weights: self.weights, image: &view.image, clicks: &clicks };
        let (logits, score) = self.device.run(drawing)?;
        let mask = view.mask(logits, &Grid::from(image))?;
        Ok(Segmentation { mask, score, view })
    }
}

struct Embed<'a> {
    weights: Weights,
    image: &'a Image,
}

impl Work for Embed<'_> {
    type Output = Result<weights::Tensor, SamError>;

    fn run<B: TrainBackend>(self, device: &B::Device) -> Self::Output {
        let sam = Sam::<B::InnerBackend>::new(self.weights, device)?;
        let embedding = sam.encode(to_device(self.image, device))?;
        let shape = embedding.dims().to_vec();
        Ok(weights::Tensor { shape, values: to_host(embedding.into_data()) })
    }
}

struct Draw<'a> {
    weights: Weights,
    image: &'a Image,
    clicks: &'a [Click],
}

impl Work for Draw<'_> {
    type Output = Result<(Vec<f32>, f32), SamError>;

    fn run<B: TrainBackend>(self, device: &B::Device) -> Self::Output {
        let sam = Sam::<B::InnerBackend>::new(self.weights, device)?;
        let embedding = sam.encode(to_device(self.image, device))?;
        let (logits, score) = draw(&sam, embedding, self.clicks)?;
        let logits = trilinear(logits, sam.config().image());
        Ok((to_host(logits.into_data()), score))
    }
}

/// The single mask's low-resolution logits after `clicks` were given one by one, and its score. A click comes with all
/// earlier ones and the last mask, zeros for the first, as in the published training.
///
/// # Errors
/// If the embedding is not this network's.
pub fn draw<B: TransformerBackend>(
    sam: &Sam<B>,
    embedding: Tensor<B, 5>,
    clicks: &[Click],
) -> Result<(Tensor<B, 5>, f32), SamError> {
    let [d, h, w] = sam.config().low_resolution();
    let mut mask = Tensor::zeros([1, 1, d, h, w], &embedding.device());
    let mut score = 0.0;
    for count in 1..=clicks.len() {
        let prompt = Prompt { clicks: clicks[..count].to_vec(), mask: Some(mask) };
        let answer = sam.decode(embedding.clone(), &prompt)?;
        mask = answer.single();
        score = to_host(answer.scores.narrow(1, 0, 1).into_data())[0];
    }
    Ok((mask, score))
}

/// An image as a batch of one, one channel.
pub fn to_device<B: Backend>(image: &Image, device: &B::Device) -> Tensor<B, 5> {
    let [x, y, z] = image.shape;
    Tensor::from_data(TensorData::new(image.values.clone(), [1, 1, x, y, z]), device)
}
