//! Patches of fixed size out of scans of any: drawn at random and augmented for training, in a sliding window for
//! inference.
//!
//! Everything random takes its generator as an argument. A patch that sticks out is padded with zeros, the mean of a
//! normalised scan, as the reference implementation does (UA-MT, spec section 8); labels are padded with background.
//! Affines follow the crop and are dropped by flips and turns: augmented patches have no place.

use std::f32::consts::TAU;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::data::grid::Grid;
use crate::data::volume::{Image, LabelMap, Volume};

/// How patches are varied. All shares are probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Augmentation {
    /// Of a flip along x, and of one along y.
    pub flip: f64,
    /// Of a turn by a multiple of 90 degrees in the x-y plane, where the patch is square there.
    pub turn: f64,
    /// Of a change of gamma, brightness and contrast.
    pub intensity: f64,
    /// Of additional noise.
    pub noise: f64,
}

impl Default for Augmentation {
    fn default() -> Self {
        Self { flip: 0.5, turn: 0.5, intensity: 0.5, noise: 0.3 }
    }
}

/// The block of `size` voxels that starts at voxel `start` (which may be negative), padded where it sticks out.
pub fn crop<T: Copy + Default>(volume: &Volume<T>, start: [i64; 3], size: [usize; 3]) -> Volume<T> {
    let mut values = vec![T::default(); size.iter().product()];
    // Per axis: first voxel within the patch that exists, and past the last one.
    let inner: [(usize, usize); 3] = std::array::from_fn(|axis| {
        let extent = volume.shape[axis] as i64;
        let bound = |at: i64| (at - start[axis]).clamp(0, size[axis] as i64) as usize;
        (bound(0), bound(extent))
    });
    let [_, _, (z0, z1)] = inner;
    for i in inner[0].0..inner[0].1 {
        for j in inner[1].0..inner[1].1 {
            if z0 < z1 {
                let source = volume.index(
                    (start[0] + i as i64) as usize,
                    (start[1] + j as i64) as usize,
                    (start[2] + z0 as i64) as usize,
                );
                let row = (i * size[1] + j) * size[2];
                values[row + z0..row + z1].copy_from_slice(&volume.values[source..source + z1 - z0]);
            }
        }
    }
    let grid = Grid::from(volume).rebased(start.map(|at| at as f64), [1.0; 3], size);
    Volume { shape: grid.shape, affine: grid.affine, values }
}

/// Where a volume must start so that it is padded to at least `size`: symmetrically, the smaller half first.
pub fn pad_start(shape: [usize; 3], size: [usize; 3]) -> [i64; 3] {
    std::array::from_fn(|axis| -((size[axis].saturating_sub(shape[axis]) / 2) as i64))
}

/// A volume padded to at least `size`, and where it starts now.
pub fn pad<T: Copy + Default>(volume: &Volume<T>, size: [usize; 3]) -> (Volume<T>, [usize; 3]) {
    let start = pad_start(volume.shape, size);
    let padded = std::array::from_fn(|axis| size[axis].max(volume.shape[axis]));
    (crop(volume, start, padded), start.map(|at| (-at) as usize))
}

/// A patch at a random place. With probability `foreground`, where there are labels of something, a random voxel of it
/// is within the patch, of a random class where there are several.
pub fn random_patch(
    image: &Image,
    labels: Option<&LabelMap>,
    size: [usize; 3],
    foreground: f64,
    rng: &mut ChaCha8Rng,
) -> (Image, Option<LabelMap>) {
    let start = random_start(image.shape, labels, size, foreground, rng);
    (crop(image, start, size), labels.map(|labels| crop(labels, start, size)))
}

/// Where [`random_patch`] starts in a volume of `shape`, with the same draws.
pub fn random_start(
    shape: [usize; 3],
    labels: Option<&LabelMap>,
    size: [usize; 3],
    foreground: f64,
    rng: &mut ChaCha8Rng,
) -> [i64; 3] {
    // Drawn in any case, so that the stream of random numbers does not depend on the labels.
    let (centred, pick) = (rng.random_bool(foreground.clamp(0.0, 1.0)), rng.random::<f64>());
    let shares: [f64; 3] = std::array::from_fn(|_| rng.random());
    let wanted = labels.filter(|_| centred).and_then(|labels| foreground_voxel(labels, pick));
    std::array::from_fn(|axis| {
        let (extent, side) = (shape[axis] as i64, size[axis] as i64);
        if extent <= side {
            return -((side - extent) / 2);
        }
        let (mut low, mut high) = (0, extent - side);
        if let Some(voxel) = wanted {
            (low, high) = (low.max(voxel[axis] as i64 - side + 1), high.min(voxel[axis] as i64));
        }
        low + ((high - low + 1) as f64 * shares[axis]) as i64
    })
}

/// The voxel a share `pick` of the way through all voxels that are not background: of several classes each is as likely as
/// another, so that small organs are seen too.
fn foreground_voxel(labels: &LabelMap, pick: f64) -> Option<[usize; 3]> {
    let mut counts = [0_usize; 256];
    labels.values.iter().for_each(|&class| counts[usize::from(class)] += 1);
    let classes: Vec<u8> = (1..=255).filter(|&class| counts[usize::from(class)] > 0).collect();
    let share = pick * classes.len() as f64;
    let class = *classes.get(share as usize)?;
    let chosen = (share.fract() * counts[usize::from(class)] as f64) as usize;
    let at = (0..labels.values.len()).filter(|&at| labels.values[at] == class).nth(chosen)?;
    let [_, ny, nz] = labels.shape;
    Some([at / nz / ny, at / nz % ny, at % nz])
}

/// Varies a patch in place: geometry of image and labels alike, then intensities of the image.
pub fn augment(image: &mut Image, labels: Option<&mut LabelMap>, how: &Augmentation, rng: &mut ChaCha8Rng) {
    let (flips, turns) = moves(image.shape, how, rng);
    rearrange(image, flips, turns);
    if let Some(labels) = labels {
        rearrange(labels, flips, turns);
    }
    let jitter = rng.random_bool(how.intensity).then(|| {
        [rng.random_range(0.8..1.25_f32), rng.random_range(-0.15..0.15_f32), rng.random_range(0.85..1.15_f32)]
    });
    if let Some([gamma, brightness, contrast]) = jitter {
        vary_intensity(image, gamma, brightness, contrast);
    }
    if rng.random_bool(how.noise) {
        let deviation = rng.random_range(0.0..0.1_f32);
        image.values.iter_mut().for_each(|value| *value += deviation * normal(rng));
    }
}

/// Moves a patch as [`augment`] moves an image of its shape with the same draws.
pub fn augment_place<T: Copy>(volume: &mut Volume<T>, how: &Augmentation, rng: &mut ChaCha8Rng) {
    let (flips, turns) = moves(volume.shape, how, rng);
    rearrange(volume, flips, turns);
}

/// Flips along x and y, and quarter turns.
fn moves(shape: [usize; 3], how: &Augmentation, rng: &mut ChaCha8Rng) -> ([bool; 2], usize) {
    let flips = [rng.random_bool(how.flip), rng.random_bool(how.flip)];
    let quarter_turns = if rng.random_bool(how.turn) { rng.random_range(0..4) } else { 0 };
    (flips, if shape[0] == shape[1] { quarter_turns } else { 0 })
}

fn rearrange<T: Copy>(volume: &mut Volume<T>, flips: [bool; 2], turns: usize) {
    if flips == [false; 2] && turns == 0 {
        return;
    }
    let [nx, ny, nz] = volume.shape;
    let mut values = Vec::with_capacity(volume.values.len());
    for i in 0..nx {
        for j in 0..ny {
            let (mut x, mut y) = (i, j);
            for _ in 0..turns {
                (x, y) = (y, nx - 1 - x);
            }
            x = if flips[0] { nx - 1 - x } else { x };
            y = if flips[1] { ny - 1 - y } else { y };
            let row = volume.index(x, y, 0);
            values.extend_from_slice(&volume.values[row..row + nz]);
        }
    }
    volume.values = values;
}

/// Gamma over the patch's own range, then contrast about its middle, then brightness as a share of the range.
fn vary_intensity(image: &mut Image, gamma: f32, brightness: f32, contrast: f32) {
    let (low, high) = image.values.iter().fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
    let range = high - low;
    if range.is_finite() && range > 0.0 {
        for value in &mut image.values {
            let share = libm::powf(((*value - low) / range).clamp(0.0, 1.0), gamma);
            *value = low + range * ((share - 0.5) * contrast + 0.5 + brightness);
        }
    }
}

fn normal(rng: &mut ChaCha8Rng) -> f32 {
    // Box and Muller; the logarithm's argument is never zero.
    let (a, b) = (1.0 - rng.random::<f32>(), rng.random::<f32>());
    (-2.0 * libm::logf(a)).sqrt() * libm::cosf(TAU * b)
}

/// Starts of the windows of `size` that cover `shape` (at least `size`; pad first) in steps of `stride`: the last one
/// is moved back to the border.
pub fn window_starts(shape: [usize; 3], size: [usize; 3], stride: [usize; 3]) -> Vec<[usize; 3]> {
    let [xs, ys, zs]: [Vec<usize>; 3] = std::array::from_fn(|axis| {
        let last = shape[axis].saturating_sub(size[axis]);
        let steps = last.div_ceil(stride[axis].max(1));
        (0..=steps).map(|step| (step * stride[axis].max(1)).min(last)).collect()
    });
    let mut starts = Vec::with_capacity(xs.len() * ys.len() * zs.len());
    for &x in &xs {
        for &y in &ys {
            starts.extend(zs.iter().map(|&z| [x, y, z]));
        }
    }
    starts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    fn numbered(shape: [usize; 3]) -> Image {
        let grid = Grid::centred(shape, [1.0, 2.0, 3.0]);
        Image { shape, affine: grid.affine, values: (1..=grid.count()).map(|at| at as f32).collect() }
    }

    fn rng(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
    }

    #[test]
    fn crops_stick_out_and_keep_their_place() {
        let image = numbered([3, 4, 5]);
        let patch = crop(&image, [-1, 2, 3], [3, 3, 3]);
        assert_eq!(patch.values[..9], [0.0; 9]);
        assert_eq!(patch.values[9..18], [14.0, 15.0, 0.0, 19.0, 20.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(Grid::from(&patch).world([1.0, 0.0, 0.0]), Grid::from(&image).world([0.0, 2.0, 3.0]));
        assert!(crop(&image, [90, -90, 0], [2, 2, 2]).values.iter().all(|&value| value == 0.0));
        let (padded, start) = pad(&image, [6, 2, 6]);
        assert_eq!((padded.shape, start), ([6, 4, 6], [1, 0, 0]));
        assert_eq!(crop(&padded, [1, 0, 0], [3, 4, 5]).values, image.values);
    }

    #[test]
    fn foreground_is_within_the_patch() {
        let image = numbered([20, 20, 20]);
        let mut labels = LabelMap { shape: image.shape, affine: image.affine, values: vec![0; 8000] };
        let at = labels.index(1, 18, 7);
        labels.values[at] = 1;
        for seed in 0..50 {
            let (patch, cut) = random_patch(&image, Some(&labels), [6, 6, 30], 1.0, &mut rng(seed));
            let cut = cut.unwrap();
            assert!(cut.values.contains(&1) && patch.shape == [6, 6, 30]);
            let found = patch.values[cut.values.iter().position(|&class| class == 1).unwrap()];
            assert_eq!(found, image.values[at]);
            let again = random_patch(&image, Some(&labels), [6, 6, 30], 1.0, &mut rng(seed));
            assert_eq!(again.0, patch);
        }
    }

    #[test]
    fn a_small_class_is_drawn_as_often_as_a_large_one() {
        let Grid { shape, affine } = Grid::centred([10, 10, 10], [1.0; 3]);
        let mut labels = LabelMap { shape, affine, values: vec![0; 1000] };
        labels.values[100..900].fill(3);
        labels.values[950] = 7;
        let drawn: Vec<usize> = (0..100)
            .filter_map(|share| foreground_voxel(&labels, f64::from(share) / 100.0))
            .map(|[x, y, z]| (x * 10 + y) * 10 + z)
            .collect();
        assert_eq!(drawn.iter().filter(|at| **at == 950).count(), 50);
        assert_eq!((drawn[0], drawn[49], drawn.len()), (100, 100 + 49 * 16, 100));
        labels.values.fill(0);
        assert_eq!(foreground_voxel(&labels, 0.5), None);
    }

    #[test]
    fn turns_and_flips_keep_image_and_labels_together() {
        for seed in 0..40 {
            let mut image = numbered([5, 5, 2]);
            let mut labels = Volume {
                shape: image.shape,
                affine: image.affine,
                values: image.values.iter().map(|&value| value as u8).collect(),
            };
            let how = Augmentation { flip: 0.5, turn: 1.0, intensity: 0.0, noise: 0.0 };
            augment(&mut image, Some(&mut labels), &how, &mut rng(seed));
            assert!(image.values.iter().zip(&labels.values).all(|(&value, &label)| value as u8 == label));
            let mut sorted = image.values.clone();
            sorted.sort_by(f32::total_cmp);
            assert_eq!(sorted, numbered([5, 5, 2]).values);
        }
    }

    #[test]
    fn what_lies_beside_is_moved_as_the_labels_are() {
        for seed in 0..40 {
            let mut image = numbered([5, 5, 2]);
            let values: Vec<u8> = (0..50).collect();
            let mut labels = Volume { shape: image.shape, affine: image.affine, values };
            let mut beside = labels.clone();
            augment(&mut image, Some(&mut labels), &Augmentation::default(), &mut rng(seed));
            augment_place(&mut beside, &Augmentation::default(), &mut rng(seed));
            assert_eq!(beside.values, labels.values);
        }
    }

    #[test]
    fn intensities_stay_finite_and_labels_stay() {
        let mut image = numbered([4, 3, 2]);
        let mut constant = Image { values: vec![2.0; 24], ..image.clone() };
        let how = Augmentation { flip: 0.0, turn: 0.0, intensity: 1.0, noise: 1.0 };
        augment(&mut image, None, &how, &mut rng(1));
        augment(&mut constant, None, &how, &mut rng(1));
        assert!(image.values.iter().chain(&constant.values).all(|value| value.is_finite()));
        assert_ne!(image, numbered([4, 3, 2]));
    }

    #[test]
    fn windows_of_the_reference_protocol() {
        // UA-MT: ceil((S - P) / stride) + 1 starts per axis, the last one at S - P.
        let starts = window_starts([150, 112, 88], [112, 112, 80], [18, 18, 4]);
        assert_eq!(starts.len(), 4 * 3);
        assert_eq!((starts[0], starts[11]), ([0, 0, 0], [38, 0, 8]));
    }

    proptest! {
        #[test]
        fn windows_cover_everything(
            shape in prop::array::uniform3(1_usize..20),
            size in prop::array::uniform3(1_usize..8),
            stride in prop::array::uniform3(1_usize..8),
        ) {
            let shape: [usize; 3] = std::array::from_fn(|axis| shape[axis].max(size[axis]));
            let stride: [usize; 3] = std::array::from_fn(|axis| stride[axis].min(size[axis]));
            let starts = window_starts(shape, size, stride);
            for axis in 0..3 {
                for at in 0..shape[axis] {
                    prop_assert!(starts.iter().any(|start| (start[axis]..start[axis] + size[axis]).contains(&at)));
                }
                prop_assert!(starts.iter().all(|start| start[axis] + size[axis] <= shape[axis]));
            }
        }
    }
}
