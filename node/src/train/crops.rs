//! What a training step sees: crops of prepared scans.
//!
//! One crop in two of a labelled scan is centred on foreground, because an organ fills little of a scan. Where a scan is
//! smaller than the patch it is padded with zeros, the mean of a normalised image (spec/semisam.md, section 5.1). The
//! augmentation is that of the recipe: quarter turns and a flip in the axial plane.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{TrainError, normal};
use crate::data::volume::{Image, LabelMap};

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
        let Some(labels) = &self.labels else { return Ok(()) };
        if labels.shape != self.image.shape {
            return Err(TrainError::Grid { image: self.image.shape, labels: labels.shape });
        }
        match labels.values.iter().find(|label| usize::from(**label) >= classes) {
            Some(label) => Err(TrainError::Class { label: *label, classes }),
            None => Ok(()),
        }
    }

    /// Draws a crop of `patch` voxels.
    pub fn crop(&self, patch: [usize; 3], augment: bool, random: &mut ChaCha8Rng) -> Crop {
        let turn = if augment { Turn::draw(random) } else { Turn::default() };
        let before = turn.before(patch);
        let start = self.start(before, random);
        let image = turn.apply(&cut(&self.image.values, self.image.shape, start, before), before);
        let labels = self.labels.as_ref().map(|map| turn.apply(&cut(&map.values, map.shape, start, before), before));
        Crop { image, labels }
    }

    /// First voxel of a crop; negative where the scan is padded.
    fn start(&self, patch: [usize; 3], random: &mut ChaCha8Rng) -> [isize; 3] {
        let centre = if random.random_bool(0.5) { self.foreground(random) } else { None };
        std::array::from_fn(|axis| {
            let slack = self.image.shape[axis] as isize - patch[axis] as isize;
            if slack <= 0 {
                return slack / 2;
            }
            match centre {
                Some(centre) => (centre[axis] as isize - patch[axis] as isize / 2).clamp(0, slack),
                None => random.random_range(0..=slack as usize) as isize,
            }
        })
    }

    /// A voxel of the foreground, each as likely; `None` without labels or foreground.
    fn foreground(&self, random: &mut ChaCha8Rng) -> Option<[usize; 3]> {
        let map = self.labels.as_ref()?;
        let count = map.values.iter().filter(|label| **label > 0).count();
        if count == 0 {
            return None;
        }
        let chosen = random.random_range(0..count);
        let (at, _) = map.values.iter().enumerate().filter(|(_, label)| **label > 0).nth(chosen)?;
        let [_, ny, nz] = map.shape;
        Some([at / (ny * nz), at / nz % ny, at % nz])
    }
}

/// Adds the recipe's perturbation, `clamp(noise · N(0,1), ±2 · noise)`.
pub fn perturb(image: &mut [f32], noise: f64, random: &mut ChaCha8Rng) {
    if noise > 0.0 {
        for value in image {
            *value += noise as f32 * normal(random).clamp(-2.0, 2.0);
        }
    }
}

fn cut<T: Copy + Default>(values: &[T], shape: [usize; 3], start: [isize; 3], patch: [usize; 3]) -> Vec<T> {
    let mut cut = vec![T::default(); patch.iter().product()];
    let range = |axis: usize| {
        let first = (-start[axis]).max(0);
        let last = (shape[axis] as isize - start[axis]).min(patch[axis] as isize);
        (first, last)
    };
    let ((x0, x1), (y0, y1), (z0, z1)) = (range(0), range(1), range(2));
    for x in x0..x1 {
        for y in y0..y1 {
            let to = (x as usize * patch[1] + y as usize) * patch[2];
            let from = ((x + start[0]) as usize * shape[1] + (y + start[1]) as usize) * shape[2];
            let row = (z0 + start[2]) as usize..(z1 + start[2]) as usize;
            cut[to + z0 as usize..to + z1 as usize].copy_from_slice(&values[from + row.start..from + row.end]);
        }
    }
    cut
}

/// A symmetry of the axial plane: exchange of x and y, then flips.
#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    exchange: bool,
    flip_x: bool,
    flip_y: bool,
}

impl Turn {
    /// Quarter turns and flips make the eight symmetries of the square.
    fn draw(random: &mut ChaCha8Rng) -> Self {
        Self { exchange: random.random(), flip_x: random.random(), flip_y: random.random() }
    }

    /// The extents that become `patch`.
    fn before(self, patch: [usize; 3]) -> [usize; 3] {
        if self.exchange { [patch[1], patch[0], patch[2]] } else { patch }
    }

    fn apply<T: Copy>(self, values: &[T], [nx, ny, nz]: [usize; 3]) -> Vec<T> {
        let (mx, my) = if self.exchange { (ny, nx) } else { (nx, ny) };
        let mut turned = Vec::with_capacity(values.len());
        for x in 0..mx {
            for y in 0..my {
                let (x, y) = (if self.flip_x { mx - 1 - x } else { x }, if self.flip_y { my - 1 - y } else { y });
                let row = if self.exchange { (y * ny + x) * nz } else { (x * ny + y) * nz };
                turned.extend_from_slice(&values[row..row + nz]);
            }
        }
        turned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{data::volume::Volume, train::generator};
    use proptest::prelude::*;

    fn scan(shape: [usize; 3]) -> PreparedScan {
        let count = shape.iter().product::<usize>();
        let affine = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
        let image = Volume { shape, affine, values: (1..=count).map(|v| v as f32).collect() };
        let labels = Volume { shape, affine, values: (1..=count).map(|v| u8::from(v % 5 == 0)).collect() };
        PreparedScan { image, labels: Some(labels) }
    }

    proptest! {
        #[test]
        fn labels_stay_on_their_voxels(
            shape in prop::array::uniform3(1_usize..9), patch in prop::array::uniform3(1_usize..9),
            seed: u64, augment: bool,
        ) {
            let crop = scan(shape).crop(patch, augment, &mut generator(seed, "test", &[]));
            prop_assert_eq!(crop.image.len(), patch.iter().product::<usize>());
            let labels = crop.labels.expect("the scan has labels");
            for (value, label) in crop.image.iter().zip(labels) {
                prop_assert_eq!(label, u8::from(*value != 0.0 && value % 5.0 == 0.0));
            }
            let mut seen: Vec<_> = crop.image.iter().filter(|v| **v != 0.0).map(|v| *v as usize).collect();
            let inside: usize = (0..3).map(|axis| shape[axis].min(patch[axis])).product();
            if !augment || patch[0] == patch[1] {
                prop_assert_eq!(seen.len(), inside);
            }
            seen.sort_unstable();
            seen.dedup();
            prop_assert_eq!(seen.len(), crop.image.iter().filter(|v| **v != 0.0).count());
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
