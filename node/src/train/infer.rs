//! From a scan to a mask: sliding windows whose probabilities are averaged (spec/semisam.md, section 8).

use semisam_shared::weights::Weights;

use super::{
    TrainError,
    step::{Batch, probabilities},
};
use crate::{
    data::volume::{Image, LabelMap},
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
        let Windows { size, stride } = self.windows;
        let (shape, classes) = (self.image.shape, self.config.classes);
        let [xs, ys, zs] = std::array::from_fn(|axis| starts(shape[axis], size[axis], stride[axis]));
        let mut sums = vec![0.0; classes * self.image.count()];
        let mut visits = vec![0.0; self.image.count()];
        for &x in &xs {
            for &y in &ys {
                for &z in &zs {
                    let rows = rows(shape, size, [x, y, z]);
                    let mut images = vec![0.0; size.iter().product()];
                    for (from, to, length) in &rows {
                        images[*to..to + length].copy_from_slice(&self.image.values[*from..from + length]);
                    }
                    let batch = Batch { images, samples: 1, patch: size };
                    add(&probabilities::<B>(&network, &batch, None, device)?, &rows, (&mut sums, &mut visits), classes);
                }
            }
        }
        for class in sums.chunks_exact_mut(visits.len()) {
            class.iter_mut().zip(&visits).for_each(|(sum, visits)| *sum /= visits);
        }
        Ok(sums)
    }
}

fn add(window: &[f32], rows: &[(usize, usize, usize)], (sums, visits): (&mut [f32], &mut [f32]), classes: usize) {
    let (voxels, of_window) = (visits.len(), window.len() / classes);
    for &(to, from, length) in rows {
        visits[to..to + length].iter_mut().for_each(|visits| *visits += 1.0);
        for class in 0..classes {
            let sums = &mut sums[class * voxels + to..class * voxels + to + length];
            let window = &window[class * of_window + from..class * of_window + from + length];
            sums.iter_mut().zip(window).for_each(|(sum, p)| *sum += p);
        }
    }
}

/// First voxels of the windows along one axis; one, negative, window where the image is no longer than a window.
fn starts(length: usize, size: usize, stride: usize) -> Vec<isize> {
    let slack = length as isize - size as isize;
    if slack <= 0 {
        return vec![slack.div_euclid(2)];
    }
    let count = (slack as usize).div_ceil(stride) + 1;
    (0..count).map(|window| ((window * stride) as isize).min(slack)).collect()
}

/// The rows that image and window have in common: offset in the image, offset in the window, length.
fn rows(shape: [usize; 3], size: [usize; 3], start: [isize; 3]) -> Vec<(usize, usize, usize)> {
    let range = |axis: usize| {
        let first = (-start[axis]).max(0) as usize;
        first..(shape[axis] as isize - start[axis]).min(size[axis] as isize) as usize
    };
    let z = range(2);
    let mut rows = Vec::with_capacity(range(0).len() * range(1).len());
    for x in range(0) {
        for y in range(1) {
            let inside = |at: usize, axis: usize| (at as isize + start[axis]) as usize;
            let from = (inside(x, 0) * shape[1] + inside(y, 1)) * shape[2] + inside(z.start, 2);
            rows.push((from, (x * size[1] + y) * size[2] + z.start, z.len()));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::layout;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn windows_cover_every_voxel(
            shape in prop::array::uniform3(1_usize..40), size in prop::array::uniform3(1_usize..20),
            stride in prop::array::uniform3(1_usize..20),
        ) {
            let stride: [usize; 3] = std::array::from_fn(|axis| stride[axis].min(size[axis]));
            let mut covered = vec![false; shape.iter().product()];
            for x in starts(shape[0], size[0], stride[0]) {
                for y in starts(shape[1], size[1], stride[1]) {
                    for z in starts(shape[2], size[2], stride[2]) {
                        for (from, to, length) in rows(shape, size, [x, y, z]) {
                            prop_assert!(to + length <= size.iter().product());
                            covered[from..from + length].fill(true);
                        }
                    }
                }
            }
            prop_assert!(covered.iter().all(|covered| *covered));
        }
    }

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
