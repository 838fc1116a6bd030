//! A picture to judge a mask by: three slices through its middle, with the mask's outline drawn in.

use std::path::{Path, PathBuf};

use image::{ImageError, Rgb, RgbImage};

use crate::data::volume::{Image, LabelMap};

/// Sides of the picture's panels, in pixels.
const PANEL: u32 = 384;

/// Outline of the prediction.
const PREDICTION: Rgb<u8> = Rgb([255, 80, 40]);

/// Outline of the truth.
const TRUTH: Rgb<u8> = Rgb([60, 220, 90]);

/// The share of voxels that is shown as plain black, and as plain white.
const SATURATED: f64 = 0.01;

/// The picture cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the picture `{path}`; check that the folder exists and has room")]
pub struct PreviewError {
    path: PathBuf,
    #[source]
    source: ImageError,
}

/// Writes axial, coronal and sagittal slices of `image` side by side as PNG: `prediction` outlined in orange, `truth`, if
/// there is one, in green. All are on one grid.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, image: &Image, prediction: &LabelMap, truth: Option<&LabelMap>) -> Result<(), PreviewError> {
    let picture = draw(image, prediction, truth);
    picture.save(path).map_err(|source| PreviewError { path: path.to_path_buf(), source })
}

fn draw(image: &Image, prediction: &LabelMap, truth: Option<&LabelMap>) -> RgbImage {
    let middle = middle(truth.unwrap_or(prediction));
    let (black, white) = window(&image.values);
    let mut picture = RgbImage::new(3 * PANEL, PANEL);
    for (panel, normal) in [2, 1, 0].into_iter().enumerate() {
        let slice = Slice::new(image, normal, middle[normal]);
        for row in 0..PANEL {
            for column in 0..PANEL {
                let Some(at) = slice.voxel(column, row) else { continue };
                let grey = ((image.values[image.index(at[0], at[1], at[2])] - black) / (white - black) * 255.0) as u8;
                let mut colour = Rgb([grey; 3]);
                for (map, outline) in [(truth, TRUTH), (Some(prediction), PREDICTION)] {
                    if map.is_some_and(|map| slice.outlines(map, column, row)) {
                        colour = outline;
                    }
                }
                picture.put_pixel(panel as u32 * PANEL + column, row, colour);
            }
        }
    }
    picture
}

/// Intensities that become black and white.
fn window(values: &[f32]) -> (f32, f32) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    let at = |share: f64| sorted.get(((sorted.len() - 1) as f64 * share) as usize).copied().unwrap_or_default();
    let (black, white) = (at(SATURATED), at(1.0 - SATURATED));
    (black, white.max(black + f32::EPSILON))
}

/// The middle of the foreground, or of the volume without any.
fn middle(map: &LabelMap) -> [usize; 3] {
    let [_, ny, nz] = map.shape;
    let (mut sums, mut count) = ([0; 3], 0);
    for (at, _) in map.values.iter().enumerate().filter(|(_, label)| **label > 0) {
        let voxel = [at / (ny * nz), at / nz % ny, at % nz];
        sums.iter_mut().zip(voxel).for_each(|(sum, index)| *sum += index);
        count += 1;
    }
    if count == 0 { map.shape.map(|side| side / 2) } else { sums.map(|sum| sum / count) }
}

/// A slice across one axis, shown upright (anterior or superior up) in true proportions in the middle of a panel.
struct Slice {
    normal: usize,
    depth: usize,
    /// Axes shown to the right and up.
    axes: [usize; 2],
    shape: [usize; 3],
    /// Voxels per pixel along each axis shown.
    step: [f64; 2],
}

impl Slice {
    fn new(image: &Image, normal: usize, depth: usize) -> Self {
        let axes = [[1, 2], [0, 2], [0, 1]][normal];
        let spacing = image.spacing();
        let longest = axes.map(|axis| image.shape[axis] as f64 * spacing[axis]).into_iter().fold(0.0, f64::max);
        let step = axes.map(|axis| longest / f64::from(PANEL) / spacing[axis]);
        Self { normal, depth, axes, shape: image.shape, step }
    }

    fn voxel(&self, column: u32, row: u32) -> Option<[usize; 3]> {
        let centre = f64::from(PANEL) / 2.0;
        let offset = [f64::from(column) + 0.5 - centre, centre - f64::from(row) - 0.5];
        let mut voxel = [0; 3];
        voxel[self.normal] = self.depth;
        for ((axis, step), offset) in self.axes.into_iter().zip(self.step).zip(offset) {
            let index = (self.shape[axis] as f64 / 2.0 + offset * step).floor();
            if index < 0.0 || index >= self.shape[axis] as f64 {
                return None;
            }
            voxel[axis] = index as usize;
        }
        Some(voxel)
    }

    /// Whether a pixel is inside the mask and one of its neighbours, two pixels on, is not.
    fn outlines(&self, map: &LabelMap, column: u32, row: u32) -> bool {
        let inside =
            |column: u32, row: u32| self.voxel(column, row).is_some_and(|[x, y, z]| map.values[map.index(x, y, z)] > 0);
        let neighbours =
            [(column + 2, row), (column.wrapping_sub(2), row), (column, row + 2), (column, row.wrapping_sub(2))];
        inside(column, row) && neighbours.iter().any(|(column, row)| !inside(*column, *row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::volume::Volume;

    #[test]
    fn a_mask_is_outlined_in_all_three_slices() {
        let (shape, affine) =
            ([8, 12, 6], [[2.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 3.0, 0.0], [0.0, 0.0, 0.0, 1.0]]);
        let image = Volume { shape, affine, values: (0..576).map(|v| (v % 13) as f32).collect() };
        let inside = |at: usize| (2..6).contains(&(at / 72)) && (3..9).contains(&(at / 6 % 12)) && at % 6 > 1;
        let mask = Volume { shape, affine, values: (0..576).map(|at| u8::from(inside(at))).collect() };
        let picture = draw(&image, &mask, None);
        for panel in 0..3 {
            let panel = (panel * PANEL..(panel + 1) * PANEL).flat_map(|x| (0..PANEL).map(move |y| (x, y)));
            let outlined = panel.filter(|(x, y)| *picture.get_pixel(*x, *y) == PREDICTION).count();
            assert!(outlined > 500, "{outlined}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        write(&folder.path().join("p.png"), &image, &mask, Some(&mask)).expect("written");
        let error = write(&folder.path().join("no/p.png"), &image, &mask, None).expect_err("no such folder");
        assert!(error.to_string().contains("no/p.png"));
    }
}
