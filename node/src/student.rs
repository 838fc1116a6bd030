//! A student ready for use: weights, architecture, device, and the grid that it was trained on.

use std::path::Path;

use semisam_shared::weights::Weights;

use crate::{
    data::{
        grid::Grid,
        resample::{ResampleError, classes_onto},
        volume::{Image, LabelMap, Volume},
    },
    device::Device,
    model::{ModelError, VNetConfig, checkpoint, checkpoint::CheckpointError},
    train::{TrainError, infer::Windows, infer::class_probabilities, prepare::prepare},
};

/// A student and how to show it scans.
#[derive(Clone, Debug)]
pub struct Student {
    /// Its values.
    pub weights: Weights,
    /// Its architecture.
    pub config: VNetConfig,
    /// Where it computes.
    pub device: Device,
    /// Spacing of training, in millimetres.
    pub spacing_mm: [f64; 3],
    /// Windows that a scan is cut into.
    pub windows: Windows,
}

/// Why a student cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StudentError {
    /// The model file.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The architecture.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The computation.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The spacing.
    #[error(transparent)]
    Resample(#[from] ResampleError),
}

impl Student {
    /// Reads a model file; sizes are read off the shapes, `groups` is the number of filters unless given.
    ///
    /// # Errors
    /// If the file is no V-Net.
    pub fn open(
        path: &Path,
        groups: Option<usize>,
        device: Device,
        spacing_mm: f64,
        patch: [usize; 3],
    ) -> Result<Self, StudentError> {
        let weights = checkpoint::read(path)?;
        let config = VNetConfig::of(&weights, groups)?;
        let windows = Windows::half_overlapping(patch);
        Ok(Self { weights, config, device, spacing_mm: [spacing_mm; 3], windows })
    }

    /// The likeliest class of each voxel of `image`, on its own grid.
    ///
    /// # Errors
    /// If the spacing or the windows do not fit.
    pub fn segment(&self, image: &Image) -> Result<LabelMap, StudentError> {
        let prepared = prepare(image, None, self.spacing_mm)?.image;
        let found = class_probabilities(self.device, self.config, &self.weights, &prepared, self.windows)?;
        let Volume { shape, affine, .. } = prepared;
        let maps: Vec<Image> = found
            .chunks_exact(shape.iter().product())
            .map(|class| Volume { shape, affine, values: class.to_vec() })
            .collect();
        Ok(classes_onto(&maps, &Grid::from(image))?)
    }
}
