//! What a training step sees: crops of prepared scans.
//!
//! A crop in two of a labelled scan holds foreground for certain, because an organ fills little of a scan
//! ([`crate::data::patch`] draws, pads and varies).

use rand_chacha::ChaCha8Rng;

use super::{TrainError, normal};
use crate::data::{
    patch::{Augmentation, augment, augment_place, crop, random_patch, random_start},
    volume::{Image, LabelMap, Volume},
};

/// Share of crops that are placed on foreground.
const ON_FOREGROUND: f64 = 0.5;

/// A scan at training spacing, normalised, with labels where a person drew them. Prints shapes only.
#[derive(Clone, Debug, PartialEq)]
pub struct PreparedScan {
    /// Normalised intensities.
    pub image: Image,
    /// Classes, on the image's grid.
    pub labels: Option<LabelMap>,
}

/// Voxels of a patch, z fastest, and their labels.
#[derive(Clone, PartialEq)]
pub struct Crop {
    /// Intensities.
    pub image: Vec<f32>,
    /// Classes, if the scan has labels.
    pub labels: Option<Vec<u8>>,
}

impl PreparedScan {
    /// Refuses labels on another grid or of a class that the student does not have.
    ///
    /// # Errors
    /// If image and labels do not fit each other or the student.
    pub fn check(&self, classes: usize) -> Result<(), TrainError> {
        self.check_grids()?;
        let Some(labels) = &self.labels else { return Ok(()) };
        match labels.values.iter().find(|label| usize::from(**label) >= classes) {
            Some(label) => Err(TrainError::Class { label: *label, classes }),
            None => Ok(()),
        }
    }

    /// Refuses labels on another grid.
    ///
    /// # Errors
    /// If image and labels differ in shape.
    pub fn check_grids(&self) -> Result<(), TrainError> {
        match &self.labels {
            Some(labels) if labels.shape != self.image.shape => {
                Err(TrainError::Grid { image: self.image.shape, labels: labels.shape })
            }
            _ => Ok(()),
        }
    }

    /// How much memory its voxels take.
    pub fn bytes(&self) -> u64 {
        let labels = self.labels.as_ref().map_or(0, |labels| labels.values.len());
        (4 * self.image.values.len() + labels) as u64
    }

    /// Draws a crop of `patch` voxels, and varies its place in the axial plane and its intensities if `varied`.
    pub fn crop(&self, patch: [usize; 3], varied: bool, random: &mut ChaCha8Rng) -> Crop {
        self.crop_as(patch, varied.then(Augmentation::default).as_ref(), random)
    }

    /// Draws a crop of `patch` voxels, and varies it as `how` says.
    pub fn crop_as(&self, patch: [usize; 3], how: Option<&Augmentation>, random: &mut ChaCha8Rng) -> Crop {
        let (mut image, mut labels) = random_patch(&self.image, self.labels.as_ref(), patch, ON_FOREGROUND, random);
        if let Some(how) = how {
            augment(&mut image, labels.as_mut(), how, random);
        }
        Crop { image: image.values, labels: labels.map(|labels| labels.values) }
    }
}

/// The piece that [`PreparedScan::crop`] cuts of a scan without labels, of another volume on its grid, if the draws are the
/// same.
pub fn crop_beside<T: Copy + Default>(
    beside: &Volume<T>,
    patch: [usize; 3],
    varied: bool,
    random: &mut ChaCha8Rng,
) -> Volume<T> {
    let start = random_start(beside.shape, None, patch, ON_FOREGROUND, random);
    let mut piece = crop(beside, start, patch);
    if varied {
        augment_place(&mut piece, &Augmentation::default(), random);
    }
    piece
}

/// Adds the recipe's perturbation, `clamp(noise · N(0,1), ±2 · noise)`.
pub fn perturb(image: &mut [f32], noise: f64, random: &mut ChaCha8Rng) {
    if noise > 0.0 {
        for value in image {
            *value += noise as f32 * normal(random).clamp(-2.0, 2.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{data::volume::Volume, train::generator};

    fn scan(shape: [usize; 3]) -> PreparedScan {
        let count = shape.iter().product::<usize>();
        let affine = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
        let image = Volume { shape, affine, values: (1..=count).map(|v| v as f32).collect() };
        let labels = Volume { shape, affine, values: (1..=count).map(|v| u8::from(v % 5 == 0)).collect() };
        PreparedScan { image, labels: Some(labels) }
    }

    #[test]
    fn the_same_draws_give_the_same_crop_with_its_own_labels() {
        let scan = scan([9, 12, 7]);
        for seed in 0..20 {
            let draw = |varied| scan.crop([6, 6, 10], varied, &mut generator(seed, "test", &[]));
            assert!(draw(true) == draw(true));
            let plain = draw(false);
            let labels = plain.labels.expect("the scan has labels");
            assert_eq!((plain.image.len(), labels.len()), (360, 360));
            for (value, label) in plain.image.iter().zip(labels) {
                assert_eq!(label, u8::from(*value != 0.0 && value % 5.0 == 0.0));
            }
        }
    }

    #[test]
    fn what_lies_beside_a_scan_is_cut_as_the_scan_is() {
        let plain = PreparedScan { labels: None, ..scan([11, 12, 9]) };
        let beside =
            Volume { shape: plain.image.shape, affine: plain.image.affine, values: plain.image.values.clone() };
        for seed in 0..40 {
            let cut = crop_beside(&beside, [6, 6, 12], false, &mut generator(seed, "test", &[])).values;
            assert_eq!(cut, plain.crop([6, 6, 12], false, &mut generator(seed, "test", &[])).image);
        }
    }

    #[test]
    fn foreign_labels_are_refused() {
        let mut wrong = scan([2, 2, 2]);
        assert!(wrong.check(2).is_ok());
        wrong.labels.as_mut().expect("has labels").values[3] = 7;
        assert!(wrong.check(2).expect_err("no such class").to_string().contains("class 7"));
        wrong.labels.as_mut().expect("has labels").shape = [1, 2, 4];
        assert!(matches!(wrong.check(2), Err(TrainError::Grid { .. })));
    }
}
