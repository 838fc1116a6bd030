//! From a scan to a mask: sliding windows whose probabilities are averaged (spec/semisam.md, section 8).

use semisam_shared::weights::Weights;

use super::{
    TrainError,
    step::{Batch, probabilities},
};
use crate::{
    data::{
        patch::{crop, pad, window_starts},
        volume::{Image, LabelMap, Volume},
    },
    device::{Device, TrainBackend, Work},
    model::{VNetConfig, vnet::VNet},
};

/// How a scan is cut into windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Sides of a window, multiples of 16; best those of the crops in training, because GroupNorm sees whole windows.
    pub size: [usize; 3],
    /// Distance between neighbouring windows along each axis; half the size overlaps enough.
    pub stride: [usize; 3],
}

impl Windows {
    /// Windows that overlap by half.
    pub fn half_overlapping(size: [usize; 3]) -> Self {
        Self { size, stride: size.map(|side| (side / 2).max(1)) }
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
    Windows { size, stride }: Windows,
    device: &B::Device,
) -> Result<Vec<f32>, TrainError> {
    let classes = network.config().classes;
    let (padded, first) = pad(image, size);
    let mut sums = vec![0.0; classes * padded.count()];
    let mut visits = vec![0.0; padded.count()];
    for start in window_starts(padded.shape, size, stride) {
        let window = crop(&padded, start.map(|at| at as i64), size);
        let batch = Batch { images: window.values, samples: 1, patch: size };
        let found = probabilities::<B>(network, &batch, None, device)?;
        add(&found, &rows(padded.shape, size, start), (&mut sums, &mut visits), classes);
    }
    let mut averages = Vec::with_capacity(classes * image.count());
    for class in sums.chunks_exact(padded.count()) {
        let values = class.iter().zip(&visits).map(|(sum, visits)| sum / visits).collect();
        let average = Volume { values, ..padded.clone() };
        averages.extend(crop(&average, first.map(|at| at as i64), image.shape).values);
    }
    Ok(averages)
}

/// Adds a window's probabilities, row by row, to the sums and counts of the voxels that it covers.
fn add(window: &[f32], rows: &[usize], (sums, visits): (&mut [f32], &mut [f32]), classes: usize) {
    let (voxels, of_window) = (visits.len(), window.len() / classes);
    let length = of_window / rows.len();
    for (row, &to) in rows.iter().enumerate() {
        visits[to..to + length].iter_mut().for_each(|visits| *visits += 1.0);
        for class in 0..classes {
            let sums = &mut sums[class * voxels + to..class * voxels + to + length];
            let window = &window[class * of_window + row * length..][..length];
            sums.iter_mut().zip(window).for_each(|(sum, p)| *sum += p);
        }
    }
}

/// Where the rows of a window start in a volume that contains it.
fn rows(shape: [usize; 3], size: [usize; 3], [x, y, z]: [usize; 3]) -> Vec<usize> {
    let columns = (x..x + size[0]).flat_map(|x| (y..y + size[1]).map(move |y| (x, y)));
    columns.map(|(x, y)| (x * shape[1] + y) * shape[2] + z).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::layout;

    #[test]
    fn probabilities_add_up_to_one_on_the_grid_of_the_image() {
        let config = VNetConfig::binary(2);
        let shape = [20, 17, 9];
        let affine = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
        let image = Image { shape, affine, values: (0..20 * 17 * 9).map(|v| (v % 7) as f32 - 3.0).collect() };
        let windows = Windows::half_overlapping([16, 16, 16]);
        let weights = layout::initial(&config, 3);
        let found = class_probabilities(Device::Cpu, config, &weights, &image, windows).expect("they fit");
        let (background, foreground) = found.split_at(image.count());
        assert!(background.iter().zip(foreground).all(|(b, f)| (b + f - 1.0).abs() < 1e-5));
        let mask = segment(Device::Cpu, config, &weights, &image, windows).expect("they fit");
        assert_eq!(mask.shape, shape);
        assert!(mask.values.iter().zip(foreground).all(|(class, p)| (*class == 1) == (*p > 0.5)));
    }
}
