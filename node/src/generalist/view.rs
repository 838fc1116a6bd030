//! What a generalist sees of a scan: a cube of fixed size at its own spacing and normalisation (spec/semisam.md, section 7.6),
//! or all of it.
//!
//! For SAM-Med3D the scan is resampled to 1.5 mm, cut or padded with zeros to the network's image about a centre, and brought to mean 0
//! and deviation 1 over the voxels above zero that the cube holds, padding included in what is shifted and scaled. "Above
//! zero" means "not air" where air is zero, so where air lies is told from the scan ([`Intensities`]) and recorded. The
//! published preparation centres on the true label; here it is the prompts, or the middle of the scan.

use serde::Serialize;
use thiserror::Error;

use crate::data::{
    grid::Grid,
    normalise::normalise,
    patch::crop,
    resample::{ResampleError, grid_at, image_onto, image_to_spacing},
    volume::{Image, LabelMap},
};

/// Spacing that SAM-Med3D was trained at, in millimetres.
pub const SPACING_MM: f64 = 1.5;

/// Part of the name of everything that is kept of a view: raised whenever a scan is shown otherwise than before.
pub const VERSION: u32 = 1;

/// Below this a scan holds Hounsfield units: air is -1000, and nothing that was standardised reaches so far.
const CT_MOST_MINIMUM: f32 = -200.0;

/// Hounsfield units beyond these say nothing about soft tissue; the published training clamps them.
const CT_RANGE: [f32; 2] = [-1000.0, 1000.0];

/// What a scan's intensities are taken for: where air lies on its scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Intensities {
    /// Anything: brought to mean 0 and deviation 1 over the whole scan, as a student's are.
    Standardised,
    /// Nothing is negative: air is zero already, as in magnitude images of MRI and in PET.
    Magnitude,
    /// CT: clamped to ±1000; above zero is what is denser than water, as in the published training.
    Hounsfield,
    /// Somebody standardised the scan: shifted so that its least value, which is air, becomes zero.
    Shifted,
}

/// The image that the network sees.
#[derive(Clone, Debug)]
pub struct View {
    /// Normalised, with the place of its voxels.
    pub image: Image,
    /// What the scan's intensities were taken for.
    pub intensities: Intensities,
    /// Of the voxels above zero; of all, where nobody asks for air.
    pub mean: f64,
    /// Of the same voxels.
    pub deviation: f64,
}

/// Why a scan cannot be shown to a generalist.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ViewError {
    /// The spacing.
    #[error(transparent)]
    Resample(#[from] ResampleError),
    /// Nothing to see.
    #[error(
        "the {side_mm:.0} mm around the centre hold no two different intensities above air: choose points within the body"
    )]
    Flat {
        /// Side of the cube.
        side_mm: f64,
    },
}

impl Intensities {
    /// Told by the least value of a scan.
    pub fn of(scan: &Image) -> Self {
        match least(scan) {
            least if least < CT_MOST_MINIMUM => Self::Hounsfield,
            least if least < 0.0 => Self::Shifted,
            _ => Self::Magnitude,
        }
    }

    fn apply(self, image: &mut Image, least: f32) {
        let [low, high] = CT_RANGE;
        match self {
            Self::Magnitude | Self::Standardised => {}
            Self::Hounsfield => image.values.iter_mut().for_each(|value| *value = value.clamp(low, high)),
            Self::Shifted => image.values.iter_mut().for_each(|value| *value -= least),
        }
    }
}

fn least(scan: &Image) -> f32 {
    scan.values.iter().copied().fold(f32::INFINITY, f32::min)
}

impl View {
    /// The cube of `size` voxels about `centre`, in scanner millimetres, or about the middle of the scan.
    ///
    /// # Errors
    /// If the scan cannot be resampled, or shows one intensity only.
    pub fn of(scan: &Image, size: [usize; 3], centre: Option<[f64; 3]>) -> Result<Self, ViewError> {
        let intensities = Intensities::of(scan);
        let mut image = image_to_spacing(scan, [SPACING_MM; 3])?;
        intensities.apply(&mut image, least(scan));
        let grid = Grid::from(&image);
        let middle = grid.shape.map(|extent| (extent as f64 - 1.0) / 2.0);
        let centre = centre.map_or(middle, |centre| grid.voxel(centre));
        let start = std::array::from_fn(|axis| (centre[axis] - (size[axis] as f64 - 1.0) / 2.0).round() as i64);
        let mut image = crop(&image, start, size);
        let (mean, deviation) =
            above_zero(&image.values).ok_or(ViewError::Flat { side_mm: size[0] as f64 * SPACING_MM })?;
        image.values.iter_mut().for_each(|value| *value = ((f64::from(*value) - mean) / deviation) as f32);
        Ok(Self { image, intensities, mean, deviation })
    }

    /// The whole scan at `spacing_mm`, prepared as students' scans are, with zeros around it so that its sides are
    /// multiples of `sides`; a scan of more than `most` voxels along an axis is cut to these about `centre`, or about its
    /// middle.
    ///
    /// # Errors
    /// If the scan cannot be resampled, or shows one intensity only.
    pub fn whole(
        scan: &Image,
        spacing_mm: f64,
        (sides, most): (usize, usize),
        centre: Option<[f64; 3]>,
    ) -> Result<Self, ViewError> {
        // of the scan itself: resampling leaves traces of rounding where all is equal
        let (mean, deviation) = moments(scan.values.iter().map(|value| f64::from(*value)))
            .ok_or(ViewError::Flat { side_mm: scan.shape[0] as f64 * scan.spacing()[0] })?;
        let mut image = image_to_spacing(scan, [spacing_mm; 3])?;
        normalise(&mut image);
        let grid = Grid::from(&image);
        let centre = centre.map(|centre| grid.voxel(centre));
        let size = grid.shape.map(|extent| extent.next_multiple_of(sides).min(most));
        let start = std::array::from_fn(|axis| {
            let spare = grid.shape[axis] as i64 - size[axis] as i64;
            if spare <= 0 {
                return spare.div_euclid(2);
            }
            let about = centre.map_or(spare as f64 / 2.0, |centre| centre[axis] - (size[axis] as f64 - 1.0) / 2.0);
            (about.round() as i64).clamp(0, spare)
        });
        let image = crop(&image, start, size);
        Ok(Self { image, intensities: Intensities::Standardised, mean, deviation })
    }

    /// Whether a place in scanner millimetres lies within the cube.
    pub fn holds(&self, world: [f64; 3]) -> bool {
        let at = Grid::from(&self.image).voxel(world);
        (0..3).all(|axis| within(at[axis], self.image.shape[axis]))
    }

    /// The voxels of `scan` whose logit is above zero (probability above one half), given `logits` of this view.
    /// What lies beyond the cube is background.
    ///
    /// # Errors
    /// If the scan's axes are not those of the scan that this is a view of.
    pub fn mask(&self, logits: Vec<f32>, scan: &Grid) -> Result<LabelMap, ResampleError> {
        let own = Grid::from(&self.image);
        let logits = image_onto(&Image { shape: own.shape, affine: own.affine, values: logits }, scan)?;
        let seen = seen(&own, scan);
        let values = logits.values.iter().zip(seen).map(|(logit, seen)| u8::from(seen && *logit > 0.0)).collect();
        Ok(LabelMap { shape: scan.shape, affine: scan.affine, values })
    }
}

/// Which voxels of `scan` lie within the grid `view`, whose axes are the same.
pub fn seen(view: &Grid, scan: &Grid) -> Vec<bool> {
    let [xs, ys, zs]: [Vec<bool>; 3] = std::array::from_fn(|axis| {
        let place = |index: usize| {
            let mut at = [0.0; 3];
            at[axis] = index as f64;
            within(view.voxel(scan.world(at))[axis], view.shape[axis])
        };
        (0..scan.shape[axis]).map(place).collect()
    });
    let mut seen = Vec::with_capacity(scan.count());
    for x in xs {
        ys.iter().for_each(|y| seen.extend(zs.iter().map(|z| x && *y && *z)));
    }
    seen
}

/// Centres, in scanner millimetres, of boxes of `size` voxels of `spacing_mm` that together show all of `scan`: its middle where one is
/// enough; else they overlap by half or more.
///
/// # Errors
/// If the scan is too large to be resampled.
pub fn stations(scan: &Grid, spacing_mm: f64, size: [usize; 3]) -> Result<Vec<[f64; 3]>, ResampleError> {
    let grid = grid_at(scan, [spacing_mm; 3])?;
    let [xs, ys, zs]: [Vec<f64>; 3] = std::array::from_fn(|axis| {
        let (extent, side) = (grid.shape[axis], size[axis]);
        let steps = extent.saturating_sub(side).div_ceil((side / 2).max(1));
        let middle = (extent as f64 - 1.0) / 2.0;
        let reach = extent.saturating_sub(side) as f64;
        let place = |step: usize| if steps == 0 { 0.0 } else { reach * (step as f64 / steps as f64 - 0.5) };
        (0..=steps).map(|step| middle + place(step)).collect()
    });
    let mut centres = Vec::with_capacity(xs.len() * ys.len() * zs.len());
    for x in &xs {
        ys.iter().for_each(|y| centres.extend(zs.iter().map(|z| grid.world([*x, *y, *z]))));
    }
    Ok(centres)
}

/// Whether an index lies in one of `extent` voxels.
fn within(at: f64, extent: usize) -> bool {
    (-0.5..=extent as f64 - 0.5).contains(&at)
}

/// Mean and deviation of the values above zero, where they differ.
fn above_zero(values: &[f32]) -> Option<(f64, f64)> {
    moments(values.iter().filter(|value| **value > 0.0).map(|value| f64::from(*value)))
}

/// Mean and deviation of values, where they differ.
fn moments(values: impl Iterator<Item = f64> + Clone) -> Option<(f64, f64)> {
    let count = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / count;
    let deviation = (values.map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt();
    (count > 1.0 && deviation > mean.abs() * 1e-9).then_some((mean, deviation))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Body of intensities 10 to 19 within air of `air`, oblique, so that axes and world differ.
    fn scan(air: f32, gain: f32) -> Image {
        let (sin, cos) = 0.2_f64.sin_cos();
        let affine =
            [[2.0 * cos, -sin, 0.0, 5.0], [2.0 * sin, cos, 0.0, -9.0], [0.0, 0.0, 3.0, 40.0], [0.0, 0.0, 0.0, 1.0]];
        let shape = [20, 30, 10];
        let values = (0..6000).map(|at| match (at / 300, at / 10 % 30) {
            (5..15, 8..22) => (10.0 + (at % 10) as f32) * gain,
            _ => air,
        });
        Image { shape, affine, values: values.collect() }
    }

    /// spec/semisam.md, E6.
    #[test]
    fn e06_the_body_has_mean_zero_and_deviation_one_and_padding_is_air() {
        for (air, gain, expected) in [
            (0.0, 1.0, Intensities::Magnitude),
            (-1000.0, 10.0, Intensities::Hounsfield),
            (-1.0, 0.1, Intensities::Shifted),
        ] {
            let view = View::of(&scan(air, gain), [48; 3], None).expect("a view");
            assert_eq!((view.intensities, view.image.shape), (expected, [48; 3]));
            let air = (-view.mean / view.deviation) as f32;
            let body: Vec<f64> =
                view.image.values.iter().filter(|value| **value > air + 1e-6).map(|value| f64::from(*value)).collect();
            let mean = body.iter().sum::<f64>() / body.len() as f64;
            let variance = body.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / body.len() as f64;
            assert!(mean.abs() < 1e-3 && (variance - 1.0).abs() < 1e-2, "{expected:?}: {mean} {variance}");
            assert!((view.image.values[0] - air).abs() < 1e-6, "the corner is padding");
        }
    }

    #[test]
    fn gain_and_offset_of_a_standardised_scan_do_not_matter() {
        let plain = View::of(&scan(0.0, 1.0), [48; 3], None).expect("a view").image;
        let mut other = scan(0.0, 1.0);
        other.values.iter_mut().for_each(|value| *value = (*value - 12.0) / 7.0);
        let other = View::of(&other, [48; 3], None).expect("a view").image;
        assert!(plain.values.iter().zip(&other.values).all(|(a, b)| (a - b).abs() < 1e-3));
    }

    #[test]
    fn stations_show_every_voxel_of_a_scan() {
        // 2 x 1 x 3 mm seen in cubes of 48 mm
        for (shape, count) in [([20, 30, 10], 1), ([80, 30, 10], 6), ([44, 44, 10], 3), ([44, 60, 10], 3 * 2)] {
            let grid = Grid { shape, ..Grid::from(&scan(0.0, 1.0)) };
            let size = [32; 3];
            let centres = stations(&grid, SPACING_MM, size).expect("small");
            let mut shown = vec![false; grid.count()];
            for centre in &centres {
                let resampled = grid_at(&grid, [SPACING_MM; 3]).expect("small");
                let at = resampled.voxel(*centre);
                let start = std::array::from_fn(|axis| (at[axis] - 15.5).round());
                let view = resampled.rebased(start, [1.0; 3], size);
                shown.iter_mut().zip(seen(&view, &grid)).for_each(|(shown, seen)| *shown |= seen);
            }
            assert!(shown.iter().all(|shown| *shown), "{shape:?}");
            assert_eq!(centres.len(), count, "{shape:?}");
        }
    }

    #[test]
    fn a_whole_scan_is_padded_to_multiples_and_a_large_one_is_cut() {
        let scan = scan(0.0, 1.0);
        let view = View::whole(&scan, 2.5, (8, 96), None).expect("a view");
        // 40 x 30 x 30 mm
        assert_eq!((view.image.shape, view.intensities), ([16, 16, 16], Intensities::Standardised));
        let (own, grid) = (Grid::from(&view.image), Grid::from(&scan));
        assert!(seen(&own, &grid).iter().all(|seen| *seen), "nothing of the scan is left out");
        assert_eq!(view.image.values.iter().filter(|value| **value == 0.0).count(), 4096 - 16 * 12 * 12);
        let centre = grid.world([2.0, 28.0, 5.0]);
        let part = View::whole(&scan, 1.0, (8, 16), Some(centre)).expect("a view");
        assert!(part.image.shape == [16; 3] && part.holds(centre), "{:?}", part.image.shape);
        assert!(!part.image.values.contains(&0.0), "it is cut within the scan");
        let constant = Image { values: vec![7.0; 6000], ..scan };
        assert!(View::whole(&constant, 2.5, (8, 96), None).is_err());
    }

    #[test]
    fn a_constant_scan_is_refused() {
        let mut constant = scan(0.0, 1.0);
        constant.values.fill(3.0);
        assert_eq!(View::of(&constant, [48; 3], None).expect_err("flat"), ViewError::Flat { side_mm: 72.0 });
        constant.values.fill(0.0);
        assert!(View::of(&constant, [48; 3], None).is_err());
    }

    #[test]
    fn a_logit_of_zero_is_background_and_so_is_what_was_not_seen() {
        let scan = scan(0.0, 1.0);
        let view = View::of(&scan, [16; 3], None).expect("a view");
        let mask = |logit: f32| view.mask(vec![logit; 4096], &Grid::from(&scan)).expect("its own axes").values;
        assert!(mask(0.0).iter().all(|class| *class == 0));
        let (seen, grid) = (mask(f32::MIN_POSITIVE), Grid::from(&scan));
        let [_, ny, nz] = scan.shape;
        for (at, class) in seen.iter().enumerate() {
            let world = grid.world([at / nz / ny, at / nz % ny, at % nz].map(|index| index as f64));
            assert_eq!(*class == 1, view.holds(world));
        }
        assert!(seen.contains(&0) && seen.contains(&1));
    }

    #[test]
    fn the_cube_lies_about_the_given_centre() {
        let scan = scan(0.0, 1.0);
        let centre = Grid::from(&scan).world([7.0, 12.0, 4.0]);
        let view = View::of(&scan, [16; 3], Some(centre)).expect("a view");
        let at = Grid::from(&view.image).voxel(centre);
        assert!(at.iter().all(|at| (at - 7.5).abs() <= 0.5 + 1e-9), "{at:?}");
    }
}
