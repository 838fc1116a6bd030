//! Scans at another spacing, and predictions back at the scan's own.
//!
//! Grids share their axes, so resampling is one weighted sum per axis. Alignment is half-pixel (`align_corners =
//! false`) about the centre: the centres of the old and the new volume are the same point in the scanner's space, every
//! new voxel is sampled where its affine says it is, and the outermost voxels reach to infinity. Images are
//! interpolated trilinearly; where the new spacing is coarser by a factor f, the interpolated image is averaged over a
//! box of sqrt(f^2 - 1) old voxels, so that noise and thin structures do not alias (an average over the new voxel for
//! large f, nothing for f = 1; linear functions are kept exactly). Labels take the nearest voxel; class probabilities are
//! interpolated before the likeliest is chosen ([`planes`]).

pub mod planes;

use rayon::prelude::*;
use thiserror::Error;

use crate::data::grid::Grid;
use crate::data::nifti::MAX_VOXELS;
use crate::data::volume::{Image, LabelMap, Volume};

/// Off-diagonal part, in voxels per voxel, that rounding may leave between grids that share their axes.
const AXIS_SLACK: f64 = 1e-3;

/// Why a volume cannot be resampled.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ResampleError {
    /// A spacing that is not positive and finite.
    #[error("a spacing of {0:?} mm is not possible: give three positive numbers")]
    Spacing([f64; 3]),
    /// A grid that would not fit in memory.
    #[error(
        "a spacing of {spacing_mm:?} mm would make {shape:?} voxels, more than {MAX_VOXELS}: choose a coarser spacing"
    )]
    TooManyVoxels {
        /// What was asked for.
        spacing_mm: [f64; 3],
        /// Extents that it would take.
        shape: [f64; 3],
    },
    /// Grids that do not share their axes.
    #[error("the two grids do not share their axes: bring both to the axes of the same scan first")]
    Axes,
    /// No probabilities at all.
    #[error("{0} classes are none or too many: choose the likeliest of 1 to 256")]
    Classes(usize),
}

/// The grid that covers `grid` at another spacing, about the same centre.
pub fn grid_at(grid: &Grid, spacing_mm: [f64; 3]) -> Result<Grid, ResampleError> {
    if !spacing_mm.iter().all(|&spacing| spacing.is_finite() && spacing > 0.0) {
        return Err(ResampleError::Spacing(spacing_mm));
    }
    let old = grid.spacing();
    let factor: [f64; 3] = std::array::from_fn(|axis| spacing_mm[axis] / old[axis]);
    let shape: [f64; 3] = std::array::from_fn(|axis| (grid.shape[axis] as f64 / factor[axis]).round().max(1.0));
    if shape.iter().product::<f64>() > MAX_VOXELS as f64 {
        return Err(ResampleError::TooManyVoxels { spacing_mm, shape });
    }
    let first = |axis: usize| ((grid.shape[axis] as f64 - 1.0) - (shape[axis] - 1.0) * factor[axis]) / 2.0;
    Ok(grid.rebased([first(0), first(1), first(2)], factor, shape.map(|extent| extent as usize)))
}

/// An image at another spacing.
pub fn image_to_spacing(image: &Image, spacing_mm: [f64; 3]) -> Result<Image, ResampleError> {
    image_onto(image, &grid_at(&image.into(), spacing_mm)?)
}

/// A label map at another spacing.
pub fn labels_to_spacing(labels: &LabelMap, spacing_mm: [f64; 3]) -> Result<LabelMap, ResampleError> {
    labels_onto(labels, &grid_at(&labels.into(), spacing_mm)?)
}

/// An image on another grid with the same axes.
pub fn image_onto(image: &Image, grid: &Grid) -> Result<Image, ResampleError> {
    let lines = lines(&image.into(), grid)?;
    let mut values = None;
    let mut shape = image.shape;
    for axis in 0..3 {
        let weights = lines[axis].linear(shape[axis], grid.shape[axis]);
        let source = values.as_deref().unwrap_or(image.values.as_slice());
        let outer = shape[..axis].iter().product();
        values = Some(along(source, outer, shape[axis], &weights));
        shape[axis] = grid.shape[axis];
    }
    Ok(Volume { shape, affine: grid.affine, values: values.unwrap_or_default() })
}

/// A label map on another grid with the same axes: the nearest voxel of each.
pub fn labels_onto(labels: &LabelMap, grid: &Grid) -> Result<LabelMap, ResampleError> {
    let lines = lines(&labels.into(), grid)?;
    let [xs, ys, zs] = std::array::from_fn(|axis| lines[axis].nearest(labels.shape[axis], grid.shape[axis]));
    let mut values = Vec::with_capacity(grid.count());
    for &x in &xs {
        for &y in &ys {
            values.extend(zs.iter().map(|&z| labels.values[labels.index(x, y, z)]));
        }
    }
    Ok(Volume { shape: grid.shape, affine: grid.affine, values })
}

/// Where the voxels of a new axis lie along the old one: `first + step * i`.
#[derive(Debug, Clone, Copy)]
struct Line {
    first: f64,
    step: f64,
}

fn lines(from: &Grid, to: &Grid) -> Result<[Line; 3], ResampleError> {
    let origin = from.voxel(to.world([0.0; 3]));
    let mut lines = [Line { first: 0.0, step: 1.0 }; 3];
    for axis in 0..3 {
        let mut unit = [0.0; 3];
        unit[axis] = 1.0;
        let moved = from.voxel(to.world(unit));
        for other in 0..3 {
            let step = moved[other] - origin[other];
            if other == axis && step > 0.0 {
                lines[axis] = Line { first: origin[axis], step };
            } else if other == axis || step.abs() > AXIS_SLACK {
                return Err(ResampleError::Axes);
            }
        }
    }
    Ok(lines)
}

/// For one new voxel: the first old voxel that counts, and the weights from there on.
type Weights = (usize, Vec<f32>);

impl Line {
    fn at(self, i: usize) -> f64 {
        let position = self.first + self.step * i as f64;
        // Rounding must not turn an identity into an interpolation.
        if (position - position.round()).abs() < 1e-6 { position.round() } else { position }
    }

    fn nearest(self, old: usize, new: usize) -> Vec<usize> {
        (0..new).map(|i| (self.at(i) + 0.5).floor().clamp(0.0, old as f64 - 1.0) as usize).collect()
    }

    fn linear(self, old: usize, new: usize) -> Vec<Weights> {
        let last = old as f64 - 1.0;
        let width = (self.step.powi(2) - 1.0).max(0.0).sqrt();
        let reach = width / 2.0 + 1.0;
        let weights = |i| {
            let centre = self.at(i);
            let (low, high) = ((centre - reach).floor() as i64 + 1, (centre + reach).ceil() as i64 - 1);
            let first = (low as f64).clamp(0.0, last) as usize;
            let end = (high as f64).clamp(0.0, last) as usize;
            let mut weights = vec![0.0; end - first + 1];
            for tap in low..=high {
                // Taps beyond the border see its outermost voxel.
                let at = (tap as f64).clamp(0.0, last) as usize;
                weights[at - first] += hat_over_box(centre - tap as f64, width) as f32;
            }
            (first, weights)
        };
        (0..new).map(weights).collect()
    }
}

/// The mean of the interpolation kernel `1 - |x|` over a box about `offset`.
fn hat_over_box(offset: f64, width: f64) -> f64 {
    if width < 1e-3 {
        return (1.0 - offset.abs()).max(0.0);
    }
    let integral = |x: f64| {
        let x = x.clamp(-1.0, 1.0);
        if x < 0.0 { (x + 1.0).powi(2) / 2.0 } else { 1.0 - (1.0 - x).powi(2) / 2.0 }
    };
    (integral(offset + width / 2.0) - integral(offset - width / 2.0)) / width
}

/// Weighted sums along the middle axis of `[outer, old, inner]`.
fn along(values: &[f32], outer: usize, old: usize, weights: &[Weights]) -> Vec<f32> {
    let inner = values.len() / (outer * old);
    let mut sums = vec![0.0; outer * weights.len() * inner];
    sums.par_chunks_mut(inner).enumerate().with_min_len(64).for_each(|(row, sum)| {
        let (first, taps) = &weights[row % weights.len()];
        let start = (row / weights.len() * old + first) * inner;
        for (tap, source) in taps.iter().zip(values[start..].chunks_exact(inner)) {
            sum.iter_mut().zip(source).for_each(|(sum, value)| *sum += tap * value);
        }
    });
    sums
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ramp(grid: Grid) -> Image {
        let mut values = Vec::new();
        for i in 0..grid.shape[0] {
            for j in 0..grid.shape[1] {
                for k in 0..grid.shape[2] {
                    let [x, y, z] = grid.world([i as f64, j as f64, k as f64]);
                    values.push((x + 2.0 * y - 0.5 * z) as f32);
                }
            }
        }
        Image { shape: grid.shape, affine: grid.affine, values }
    }

    fn oblique(shape: [usize; 3], spacing: [f64; 3]) -> Grid {
        let (sin, cos) = 0.3_f64.sin_cos();
        let [x, y, z] = spacing;
        let affine =
            [[cos * x, -sin * y, 0.0, 12.0], [sin * x, cos * y, 0.0, -30.0], [0.0, 0.0, z, 4.0], [0.0, 0.0, 0.0, 1.0]];
        Grid { shape, affine }
    }

    #[test]
    fn own_spacing_is_identity() {
        let image = ramp(oblique([5, 6, 7], [0.9, 1.1, 2.5]));
        let same = image_to_spacing(&image, image.spacing()).unwrap();
        assert_eq!(same.values, image.values);
    }

    #[test]
    fn bad_spacings_and_foreign_axes_are_refused() {
        let image = ramp(oblique([5, 6, 7], [1.0; 3]));
        for spacing in [[0.0, 1.0, 1.0], [f64::NAN; 3], [-1.0; 3]] {
            assert!(matches!(image_to_spacing(&image, spacing), Err(ResampleError::Spacing(_))));
        }
        assert!(matches!(image_to_spacing(&image, [1e-4; 3]), Err(ResampleError::TooManyVoxels { .. })));
        let other = Grid::centred([5, 6, 7], [1.0; 3]);
        assert_eq!(image_onto(&image, &other), Err(ResampleError::Axes));
    }

    #[test]
    fn upsampling_by_two_is_half_pixel_linear() {
        let grid = Grid::centred([2, 1, 1], [2.0, 1.0, 1.0]);
        let image = Image { shape: grid.shape, affine: grid.affine, values: vec![0.0, 4.0] };
        let fine = image_to_spacing(&image, [1.0; 3]).unwrap();
        assert_eq!((fine.shape, fine.values), ([4, 1, 1], vec![0.0, 1.0, 3.0, 4.0]));
    }

    #[test]
    fn downsampling_averages_a_checkerboard() {
        let grid = Grid::centred([16, 16, 16], [1.0; 3]);
        let values = (0..4096).map(|at: usize| ((at / 256 + at / 16 + at) % 2) as f32).collect();
        let coarse = image_to_spacing(&Image { shape: grid.shape, affine: grid.affine, values }, [4.0; 3]).unwrap();
        assert!(coarse.values.iter().all(|value| (value - 0.5).abs() < 0.02), "{:?}", coarse.values);
    }

    #[test]
    fn labels_survive_the_way_there_and_back() {
        let grid = oblique([30, 28, 26], [1.0, 1.2, 0.8]);
        let mut values = Vec::new();
        for i in 0..30_i32 {
            for j in 0..28_i32 {
                values.extend((0..26_i32).map(|k| {
                    u8::from((i - 15).pow(2) + (j - 14).pow(2) + (k - 13).pow(2) < 100) * if j < 14 { 1 } else { 2 }
                }));
            }
        }
        let labels = LabelMap { shape: grid.shape, affine: grid.affine, values };
        let coarse = labels_to_spacing(&labels, [2.0; 3]).unwrap();
        let back = labels_onto(&coarse, &grid).unwrap();
        assert!(crate::data::metrics::score(&back, &labels).unwrap().dice > 0.9);
        let mut onto = planes::ClassesOnto::new(&(&coarse).into(), &grid, 3, 0).unwrap();
        for plane in coarse.values.chunks_exact(coarse.shape[1] * coarse.shape[2]) {
            let of_class = |class| plane.iter().map(move |&found| f32::from(found == class));
            onto.push((0..3).flat_map(of_class).collect());
        }
        let smooth = onto.finish();
        for class in [1, 2] {
            let scores =
                [&back, &smooth].map(|found| crate::data::metrics::score_class(found, &labels, class).unwrap());
            let [nearest, likeliest] = scores.map(|scores| scores.dice);
            assert!(nearest > 0.8 && likeliest > nearest, "{nearest} {likeliest}");
        }
    }

    proptest! {
        #[test]
        fn world_position_is_kept(
            shape in prop::array::uniform3(6_usize..14),
            old in prop::array::uniform3(0.5_f64..3.0),
            new in prop::array::uniform3(0.5_f64..3.0),
        ) {
            let image = ramp(oblique(shape, old));
            let found = image_to_spacing(&image, new).unwrap();
            prop_assert!(found.spacing().iter().zip(new).all(|(a, b)| (a - b).abs() < 1e-9));
            // A linear function of the position is reproduced wherever no border is touched.
            let expected = ramp((&found).into());
            let margin: [usize; 3] =
                std::array::from_fn(|axis| ((old[axis] + new[axis].max(old[axis])) / new[axis]).ceil() as usize + 1);
            for i in margin[0]..found.shape[0].saturating_sub(margin[0]) {
                for j in margin[1]..found.shape[1].saturating_sub(margin[1]) {
                    for k in margin[2]..found.shape[2].saturating_sub(margin[2]) {
                        let at = found.index(i, j, k);
                        prop_assert!((found.values[at] - expected.values[at]).abs() < 1e-3);
                    }
                }
            }
            let (low, high) = image.values.iter().fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
            prop_assert!(found.values.iter().all(|&value| value >= low - 1e-3 && value <= high + 1e-3));
        }
    }
}
