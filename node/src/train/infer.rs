//! From a scan to a mask: sliding windows whose probabilities are averaged (spec/semisam.md, section 8).
//!
//! A window may also be shown mirrored: its probabilities, mirrored back, are averaged with the plain ones. Averages are
//! done plane by plane ([`planes`]), so that whoever does not need all of a scan at once never holds it.

pub(crate) mod planes;
#[cfg(test)]
mod tests;

use semisam_shared::weights::Weights;

use self::planes::by_planes;
use super::TrainError;
use crate::{
    data::{
        flip::Axes,
        volume::{Image, LabelMap},
    },
    device::{Device, TrainBackend, Work},
    model::{VNetConfig, vnet::VNet},
};

/// How a scan is cut into windows, and how these are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Sides of a window, multiples of 16; best those of the crops in training, because GroupNorm sees whole windows.
    pub size: [usize; 3],
    /// Distance between neighbouring windows along each axis; half the size overlaps enough.
    pub stride: [usize; 3],
    /// Axes to mirror: each window is shown in every way that mirrors some of them, so up to eight times.
    pub flips: Axes,
}

impl Windows {
    /// Windows that overlap by half, and are not mirrored.
    pub fn half_overlapping(size: [usize; 3]) -> Self {
        Self { size, stride: size.map(|side| (side / 2).max(1)), flips: [false; 3] }
    }

    /// The axis along which planes of a scan of `shape` are done with the fewest of them unfinished.
    pub fn shortest_along(&self, shape: [usize; 3]) -> usize {
        let share = |axis: usize| self.size[axis] as f64 / shape[axis].max(self.size[axis]) as f64;
        (1..3).fold(0, |best, axis| if share(axis) < share(best) { axis } else { best })
    }
}

/// Class probabilities of `image`: [classes, x, y, z], z fastest, on its grid.
///
/// The image is normalised and at the spacing of training. Where it is smaller than a window it is padded with zeros.
///
/// # Errors
/// If weights, architecture and windows do not fit each other.
pub fn class_probabilities(
    device: Device,
    config: VNetConfig,
    weights: &Weights,
    image: &Image,
    windows: Windows,
) -> Result<Vec<f32>, TrainError> {
    device.run(Scan { config, weights, image, windows })
}

/// The likeliest class of each voxel of `image`.
///
/// # Errors
/// If weights, architecture and windows do not fit each other.
pub fn segment(
    device: Device,
    config: VNetConfig,
    weights: &Weights,
    image: &Image,
    windows: Windows,
) -> Result<LabelMap, TrainError> {
    let probabilities = class_probabilities(device, config, weights, image, windows)?;
    Ok(likeliest(&probabilities, image))
}

/// The likeliest class of each voxel, given [`class_probabilities`] of `image`; the lower class where two are equal.
pub fn likeliest(probabilities: &[f32], image: &Image) -> LabelMap {
    let voxels = image.count();
    let of_voxel = |voxel: usize| {
        let classes = probabilities.iter().skip(voxel).step_by(voxels);
        let start = (0, f32::NEG_INFINITY);
        classes.enumerate().fold(start, |best, (class, p)| if *p > best.1 { (class as u8, *p) } else { best }).0
    };
    LabelMap { shape: image.shape, affine: image.affine, values: (0..voxels).map(of_voxel).collect() }
}

struct Scan<'a> {
    config: VNetConfig,
    weights: &'a Weights,
    image: &'a Image,
    windows: Windows,
}

impl Work for Scan<'_> {
    type Output = Result<Vec<f32>, TrainError>;

    fn run<B: TrainBackend>(self, device: &B::Device) -> Self::Output {
        let network = VNet::<B::InnerBackend>::new(self.config, self.weights, device)?;
        by_network::<B>(&network, self.image, self.windows, device)
    }
}

/// [`class_probabilities`] by a network that is on its device.
pub(super) fn by_network<B: TrainBackend>(
    network: &VNet<B::InnerBackend>,
    image: &Image,
    windows: Windows,
    device: &B::Device,
) -> Result<Vec<f32>, TrainError> {
    let (count, size) = (image.count(), image.shape[1] * image.shape[2]);
    let mut found = vec![0.0; network.config().classes * count];
    let mut x = 0;
    by_planes::<B>(network, image, (windows, 0), device, &mut |plane| {
        for (class, values) in plane.chunks_exact(size).enumerate() {
            found[class * count + x * size..][..size].copy_from_slice(values);
        }
        x += 1;
    })?;
    Ok(found)
}
