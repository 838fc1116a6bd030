//! A picture that a person can judge: prediction and truth as outlines on three slices through the middle of what was
//! segmented.
//!
//! Axial, coronal and sagittal panels side by side at one scale, so that a millimetre is as long everywhere.
//! Radiological convention: the patient's right is on the left of the axial and the coronal panel; anterior is up on
//! the axial one and left on the sagittal one; superior is up on the others. Of one class, truth is green, prediction red,
//! yellow where their outlines meet. Of several, each has a colour ([`colour`]) that its inside is tinted with; outlines of
//! the truth are dotted. The window runs from the 1st to the 99th percentile.

use std::path::{Path, PathBuf};

use image::{ImageError, Rgb, RgbImage};
use thiserror::Error;

use crate::data::grid::{Grid, GridMismatch};
use crate::data::volume::{Image, LabelMap, Volume};

/// Pixels of the shortest side of a panel.
const LEAST_SIDE: f64 = 256.0;
/// Pixels of the longest side, whatever the shortest is.
const MOST_SIDE: f64 = 1600.0;
/// Pixels between panels.
const GAP: u32 = 6;
/// Width of an outline in pixels.
const REACH: i64 = 2;
const BETWEEN: Rgb<u8> = Rgb([40, 40, 48]);
const TRUTH: Rgb<u8> = Rgb([60, 220, 90]);
const BOTH: Rgb<u8> = Rgb([255, 225, 60]);
/// How much of a pixel is its class's colour, where there are several.
const TINT: f32 = 0.3;
/// Pixels of a dot, and between two.
const DOT: u32 = 4;

/// Why there is no picture.
#[derive(Debug, Error)]
pub enum PreviewError {
    /// A mask on another grid.
    #[error("cannot draw the mask over the scan ({0}): resample the mask to the scan")]
    Grid(#[from] GridMismatch),
    /// Nothing to draw.
    #[error("cannot draw a scan without voxels")]
    Empty,
    /// Full disk, missing folder.
    #[error("cannot write the picture `{path}` ({error}): name a .png in a folder that may be written to")]
    Write {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        error: ImageError,
    },
}

/// Writes a PNG of a scan with the outlines of a prediction and, where there is one, of the truth.
pub fn write_preview(
    path: &Path,
    scan: &Image,
    prediction: &LabelMap,
    truth: Option<&LabelMap>,
) -> Result<(), PreviewError> {
    let picture = draw(scan, prediction, truth)?;
    picture
        .save_with_format(path, image::ImageFormat::Png)
        .map_err(|error| PreviewError::Write { path: path.to_owned(), error })
}

/// The colour of a class, background excepted: neighbours on the circle of hues are far apart in number, and what comes near
/// them later differs in brightness.
pub fn colour(class: u8) -> [u8; 3] {
    /// Turns by it never come close to an earlier one soon.
    const GOLDEN_ANGLE: f32 = 137.507_77;
    let number = f32::from(class.max(1) - 1);
    let (high, low) = [(240.0, 60.0), (250.0, 150.0), (170.0, 20.0)][usize::from((class.max(1) - 1) / 8 % 3)];
    let hue = number * GOLDEN_ANGLE % 360.0 / 60.0;
    // red, green and blue peak a third of the circle apart
    [0.0_f32, 2.0, 4.0].map(|peak| {
        let apart = (hue - peak).abs().min(6.0 - (hue - peak).abs());
        (low + (high - low) * (2.0 - apart).clamp(0.0, 1.0)).round() as u8
    })
}

/// The picture itself.
pub fn draw(scan: &Image, prediction: &LabelMap, truth: Option<&LabelMap>) -> Result<RgbImage, PreviewError> {
    if scan.values.is_empty() {
        return Err(PreviewError::Empty);
    }
    let grid = Grid::from(scan);
    for mask in truth.into_iter().chain([prediction]) {
        grid.must_equal(&mask.into())?;
    }
    let middle = middle(scan.shape, truth.into_iter().chain([prediction]));
    let size = {
        let spacing = grid.spacing();
        std::array::from_fn(|axis| scan.shape[axis] as f64 * spacing[axis])
    };
    let panels = [Panel::new(0, 1, size, middle), Panel::new(0, 2, size, middle), Panel::new(1, 2, size, middle)];
    let width = panels.iter().map(|panel| panel.width + GAP).sum::<u32>() - GAP;
    let height = panels.iter().map(|panel| panel.height).max().unwrap_or(1);
    let mut picture = RgbImage::from_pixel(width, height, BETWEEN);
    let window = window(&scan.values);
    let mut left = 0;
    for panel in panels {
        let corner = (left, (height - panel.height) / 2);
        panel.draw(&mut picture, corner, scan, window, prediction, truth);
        left += panel.width + GAP;
    }
    Ok(picture)
}

/// The voxel in the middle of all masks; of the scan where they are empty.
fn middle<'a>(shape: [usize; 3], masks: impl Iterator<Item = &'a LabelMap>) -> [usize; 3] {
    let mut bounds = [(usize::MAX, 0); 3];
    let [_, ny, nz] = shape;
    for mask in masks {
        for at in (0..mask.values.len()).filter(|&at| mask.values[at] > 0) {
            for (bound, index) in bounds.iter_mut().zip([at / nz / ny, at / nz % ny, at % nz]) {
                *bound = (bound.0.min(index), bound.1.max(index));
            }
        }
    }
    std::array::from_fn(|axis| {
        let (low, high) = bounds[axis];
        if low > high { shape[axis] / 2 } else { low.midpoint(high) }
    })
}

fn window(values: &[f32]) -> (f32, f32) {
    let mut values = values.to_vec();
    let last = values.len() - 1;
    let mut at = |percent: usize| *values.select_nth_unstable_by(last * percent / 100, f32::total_cmp).1;
    (at(1), at(99))
}

/// A slice along two axes of the volume; both run against the picture's, so that right is left and superior is up.
#[derive(Debug, Clone, Copy)]
struct Panel {
    across: usize,
    up: usize,
    middle: [usize; 3],
    width: u32,
    height: u32,
}

impl Panel {
    fn new(across: usize, up: usize, size_mm: [f64; 3], middle: [usize; 3]) -> Self {
        let least = size_mm.iter().copied().fold(f64::MAX, f64::min);
        let most = size_mm.iter().copied().fold(0.0, f64::max);
        let scale = (LEAST_SIDE / least).min(MOST_SIDE / most);
        let pixels = |axis: usize| (size_mm[axis] * scale).round().max(1.0) as u32;
        Self { across, up, middle, width: pixels(across), height: pixels(up) }
    }

    /// The voxel position (half-pixel aligned) under a pixel.
    fn position(&self, shape: [usize; 3], column: i64, row: i64) -> [f64; 3] {
        let mut position = self.middle.map(|index| index as f64);
        let along = |pixel: i64, pixels: u32, extent: usize| {
            let share = (pixel as f64 + 0.5) / f64::from(pixels);
            ((1.0 - share) * extent as f64 - 0.5).clamp(0.0, extent as f64 - 1.0)
        };
        position[self.across] = along(column, self.width, shape[self.across]);
        position[self.up] = along(row, self.height, shape[self.up]);
        position
    }

    fn draw(
        &self,
        picture: &mut RgbImage,
        (left, top): (u32, u32),
        scan: &Image,
        (low, high): (f32, f32),
        prediction: &LabelMap,
        truth: Option<&LabelMap>,
    ) {
        let several = truth.into_iter().chain([prediction]).any(|mask| mask.values.iter().any(|class| *class > 1));
        let inside = self.classes(prediction);
        let prediction = self.outline(&inside);
        let truth = truth.map(|truth| self.outline(&self.classes(truth)));
        for row in 0..self.height {
            for column in 0..self.width {
                let at = (row * self.width + column) as usize;
                let of_truth = truth.as_ref().map_or(0, |truth| truth[at]);
                let dot = ((column + row) / DOT).is_multiple_of(2);
                let colour = match (prediction[at], of_truth) {
                    (1.., 1..) if !several => BOTH,
                    (0, 1..) if !several => TRUTH,
                    (class @ 1.., _) => Rgb(colour(class)),
                    (0, class @ 1..) if dot => Rgb(colour(class)),
                    (0, _) => {
                        let value = self.sample(scan, i64::from(column), i64::from(row));
                        let share = if high > low { (value - low) / (high - low) } else { 0.5 };
                        let grey = share.clamp(0.0, 1.0) * 255.0;
                        let tint = if several && inside[at] > 0 { TINT } else { 0.0 };
                        Rgb(colour(inside[at])
                            .map(|of_class| (grey + tint * (f32::from(of_class) - grey)).round() as u8))
                    }
                };
                picture.put_pixel(left + column, top + row, colour);
            }
        }
    }

    /// The four voxels around a pixel, and how much each counts: bilinear within the slice.
    fn corners<T>(&self, volume: &Volume<T>, column: i64, row: i64) -> [(usize, f32); 4] {
        let position = self.position(volume.shape, column, row);
        std::array::from_fn(|corner| {
            let mut index = self.middle;
            let mut weight = 1.0;
            for (bit, axis) in [self.across, self.up].into_iter().enumerate() {
                let (floor, part) = (position[axis].floor(), position[axis].fract() as f32);
                let next = corner >> bit & 1;
                index[axis] = (floor as usize + next).min(volume.shape[axis] - 1);
                weight *= if next == 1 { part } else { 1.0 - part };
            }
            (volume.index(index[0], index[1], index[2]), weight)
        })
    }

    fn sample(&self, scan: &Image, column: i64, row: i64) -> f32 {
        self.corners(scan, column, row).iter().map(|(at, weight)| weight * scan.values[*at]).sum()
    }

    /// The class of each pixel: the one that most of its surroundings have; of equal ones the higher.
    fn classes(&self, mask: &LabelMap) -> Vec<u8> {
        let mut classes = Vec::with_capacity((self.width * self.height) as usize);
        for row in 0..i64::from(self.height) {
            for column in 0..i64::from(self.width) {
                let corners = self.corners(mask, column, row).map(|(at, weight)| (mask.values[at], weight));
                let share = |class: u8| corners.iter().filter(|(of, _)| *of == class).map(|(_, w)| w).sum::<f32>();
                let likeliest =
                    |one: &&(u8, f32), two: &&(u8, f32)| share(one.0).total_cmp(&share(two.0)).then(one.0.cmp(&two.0));
                classes.push(corners.iter().max_by(likeliest).map_or(0, |(class, _)| *class));
            }
        }
        classes
    }

    /// The classes of pixels with a pixel of another class, or the end of the panel, close by; 0 elsewhere.
    fn outline(&self, classes: &[u8]) -> Vec<u8> {
        let (width, height) = (i64::from(self.width), i64::from(self.height));
        let class = |column: i64, row: i64| {
            let within = (0..width).contains(&column) && (0..height).contains(&row);
            within.then(|| classes[(row * width + column) as usize])
        };
        let of_pixel = |(column, row): (i64, i64)| {
            let own = class(column, row);
            let edge = |x: i64| (-REACH..=REACH).any(|y| class(column + x, row + y) != own);
            own.filter(|own| *own > 0 && (-REACH..=REACH).any(edge)).unwrap_or(0)
        };
        (0..height).flat_map(|row| (0..width).map(move |column| (column, row))).map(of_pixel).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREDICTION: Rgb<u8> = Rgb([240, 60, 60]);

    /// A grid whose voxel (0, 0, 0), the right-most... lowest corner, can be told from the others.
    fn corners() -> (Image, LabelMap) {
        let grid = Grid::centred([20, 24, 10], [1.0, 1.0, 3.0]);
        let mut image = Image { shape: grid.shape, affine: grid.affine, values: vec![0.0; 4800] };
        for i in 10..20 {
            for j in 12..24 {
                for k in 5..10 {
                    let at = image.index(i, j, k);
                    image.values[at] = 100.0;
                }
            }
        }
        (image, LabelMap { shape: grid.shape, affine: grid.affine, values: vec![0; 4800] })
    }

    #[test]
    fn panels_are_large_and_the_right_way_round() {
        let (image, empty) = corners();
        let picture = draw(&image, &empty, None).unwrap();
        // 20 x 24 x 30 mm, 12.8 pixels per mm; the axial panel is 307 high, and centred.
        assert_eq!(picture.dimensions(), (256 + 256 + 307 + 12, 384));
        let white = |x, y| picture.get_pixel(x, y).0[0] > 200;
        // Right, anterior, superior is bright: left on the picture, and up.
        assert!(white(20, 60) && !white(235, 60) && !white(20, 330));
        assert!(white(262 + 20, 20) && !white(262 + 235, 20) && !white(262 + 20, 370));
        assert!(white(524 + 20, 20) && !white(524 + 290, 20) && !white(524 + 20, 370));
    }

    #[test]
    fn outlines_have_their_colours() {
        let (image, mut truth) = corners();
        let mut prediction = truth.clone();
        for i in 5..15 {
            for j in 5..15 {
                for k in 2..8 {
                    let at = truth.index(i, j, k);
                    truth.values[at] = 1;
                    prediction.values[at] = u8::from(i < 12);
                }
            }
        }
        let picture = draw(&image, &prediction, Some(&truth)).unwrap();
        for colour in [TRUTH, PREDICTION, BOTH] {
            assert!(picture.pixels().filter(|&&pixel| pixel == colour).count() > 100);
        }
        let alone = draw(&image, &truth, None).unwrap();
        assert!(alone.pixels().all(|&pixel| pixel != TRUTH && pixel != BOTH));
        let other = LabelMap { shape: [1; 3], affine: truth.affine, values: vec![0] };
        assert!(draw(&image, &other, None).is_err());
    }

    #[test]
    fn several_classes_have_several_colours_and_their_truth_is_dotted() {
        let (image, mut truth) = corners();
        for i in 2..18 {
            for j in 2..20 {
                for k in 2..8 {
                    let at = truth.index(i, j, k);
                    truth.values[at] = 1 + u8::from(i >= 7) + u8::from(i >= 12);
                }
            }
        }
        let empty = LabelMap { values: vec![0; truth.values.len()], ..truth.clone() };
        let count = |picture: &RgbImage, class| picture.pixels().filter(|pixel| pixel.0 == colour(class)).count();
        let predicted = draw(&image, &truth, Some(&truth)).unwrap();
        let missed = draw(&image, &empty, Some(&truth)).unwrap();
        for class in 1..=3 {
            let (solid, dotted) = (count(&predicted, class), count(&missed, class));
            assert!(dotted > 100 && solid > 3 * dotted / 2, "class {class}: {solid} and {dotted}");
        }
        assert!(missed.pixels().all(|&pixel| pixel != TRUTH && pixel != BOTH));
        // The inside of the brightest class is tinted, not grey.
        let tinted = |pixel: &&Rgb<u8>| pixel.0[0] != pixel.0[1] && (1..=3).all(|class| pixel.0 != colour(class));
        assert!(predicted.pixels().filter(|pixel| **pixel != BETWEEN).filter(tinted).count() > 1000);
    }

    #[test]
    fn colours_can_be_told_apart() {
        assert_eq!(Rgb(colour(1)), PREDICTION);
        for one in 1..=24 {
            for two in 1..one {
                let apart: i32 = (0..3).map(|i| (i32::from(colour(one)[i]) - i32::from(colour(two)[i])).abs()).sum();
                assert!(apart > 24, "{one} {:?} and {two} {:?}", colour(one), colour(two));
            }
        }
    }
}
