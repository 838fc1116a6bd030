//! A student ready for use: weights, architecture, device, and the grid that it was trained on.

use std::path::Path;

use semisam_shared::weights::Weights;

use crate::{
    data::{
        components::keep_largest,
        grid::Grid,
        resample::{ResampleError, planes::ClassesOnto},
        volume::{Image, LabelMap},
    },
    device::{Device, TrainBackend, Work},
    model::{ModelError, VNetConfig, checkpoint, checkpoint::CheckpointError, vnet::VNet},
    train::{
        TrainError,
        infer::{Windows, planes::by_planes},
        prepare::prepare,
    },
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
    /// Whether of each class the largest connected part alone is kept ([`crate::data::components`]).
    pub largest_component: bool,
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
        Ok(Self { weights, config, device, spacing_mm: [spacing_mm; 3], windows, largest_component: false })
    }

    /// The likeliest class of each voxel of `image`, on its own grid; and if so asked, no more than the largest part of each.
    ///
    /// Beside the scan, this holds the scan at the spacing of training (up to three times while it is prepared), one byte
    /// per voxel of the result, and as many planes of probabilities as a window is thick: 4 bytes per class and voxel of
    /// these.
    ///
    /// # Errors
    /// If the spacing or the windows do not fit.
    pub fn segment(&self, image: &Image) -> Result<LabelMap, StudentError> {
        let prepared = prepare(image, None, self.spacing_mm)?.image;
        let mut mask = self.device.run(Onto { student: self, image: &prepared, grid: Grid::from(image) })?;
        if self.largest_component {
            keep_largest(&mut mask);
        }
        Ok(mask)
    }
}

/// A prepared scan, segmented onto the grid that it came from.
struct Onto<'a> {
    student: &'a Student,
    image: &'a Image,
    grid: Grid,
}

impl Work for Onto<'_> {
    type Output = Result<LabelMap, StudentError>;

    fn run<B: TrainBackend>(self, device: &B::Device) -> Self::Output {
        let Self { student: Student { config, weights, windows, .. }, image, grid } = self;
        let network = VNet::<B::InnerBackend>::new(*config, weights, device).map_err(TrainError::from)?;
        let axis = windows.shortest_along(image.shape);
        let mut onto = ClassesOnto::new(&Grid::from(image), &grid, config.classes, axis)?;
        by_planes::<B>(&network, image, (*windows, axis), device, &mut |plane| onto.push(plane))?;
        Ok(onto.finish())
    }
}
