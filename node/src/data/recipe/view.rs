//! What is seen of a scene: the grid of voxels, and where each of them lies in the body after the warp.

use std::ops::Range;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::place::Scene;
use super::shapes::Row;
use super::smooth::Smooth;
use super::space::{Point, add, norm, subtract};
use super::{Crop, Recipe, RecipeError};
use crate::data::grid::Grid;

/// The most voxels along one side, and altogether.
const MOST_SIDE: f64 = 1024.0;
const MOST_VOXELS: f64 = 67_108_864.0;

/// What a user wants to see instead of what the recipe shows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct View {
    /// Voxels along each axis, for every volume: no cut-outs.
    pub shape: Option<[usize; 3]>,
    /// Millimetres between voxels.
    pub spacing_mm: Option<[f64; 3]>,
    /// Axes along which voxels are stored against right, front and head, as in scans whose headers do not say so.
    pub flipped: [bool; 3],
}

impl View {
    /// Reads how voxels are stored: `RAS` or with any letter replaced by its opposite, such as `LPS`.
    ///
    /// # Errors
    /// Says what is wrong, for clap.
    pub fn flips(axes: &str) -> Result<[bool; 3], String> {
        let letters: Vec<char> = axes.chars().map(|letter| letter.to_ascii_uppercase()).collect();
        let flip = |axis: usize, plain: char, flipped: char| match letters.get(axis) {
            Some(letter) if *letter == plain => Some(false),
            Some(letter) if *letter == flipped => Some(true),
            _ => None,
        };
        match (flip(0, 'R', 'L'), flip(1, 'A', 'P'), flip(2, 'S', 'I')) {
            (Some(x), Some(y), Some(z)) if letters.len() == 3 => Ok([x, y, z]),
            _ => Err("give R or L, A or P, S or I in this order, such as RAS or LPS".to_owned()),
        }
    }
}

impl Recipe {
    /// The same anatomy in another view.
    ///
    /// # Errors
    /// If a volume could be too large, or a spacing is no spacing.
    pub fn seen(mut self, view: View) -> Result<Self, RecipeError> {
        self.view = view;
        let spacing_mm = view.spacing_mm.unwrap_or(self.field.spacing_mm.axes.map(|range| range.low));
        let size = self.field.size_mm.axes.map(|range| range.high);
        let sides: [f64; 3] = std::array::from_fn(|axis| match view.shape {
            Some(shape) => shape[axis] as f64,
            None => (size[axis] / spacing_mm[axis]).round().max(1.0),
        });
        let spaced = spacing_mm.iter().all(|spacing| (0.1..=20.0).contains(spacing));
        let sided = sides.iter().all(|side| (1.0..=MOST_SIDE).contains(side));
        if spaced && sided && sides.iter().product::<f64>() <= MOST_VOXELS {
            Ok(self)
        } else {
            Err(RecipeError::View { shape: sides.map(|side| side as usize), spacing_mm })
        }
    }

    /// The recipe at `spacing_mm`, once for each way in which scans may be stored ([`View::flipped`]); right, front and up alone
    /// if none is given.
    ///
    /// # Errors
    /// As [`Recipe::seen`].
    pub fn stored(&self, axes: &[[bool; 3]], spacing_mm: f64) -> Result<Vec<Self>, RecipeError> {
        let plain = [View::default().flipped];
        let way = |flipped: &[bool; 3]| {
            self.clone().seen(View { shape: None, spacing_mm: Some([spacing_mm; 3]), flipped: *flipped })
        };
        if axes.is_empty() { &plain[..] } else { axes }.iter().map(way).collect()
    }
}

/// The grid of a volume in the scene.
pub(super) struct Raster {
    pub(super) shape: [usize; 3],
    pub(super) spacing: Point,
    /// Where the first voxel is, and the way to the next along each axis, before the warp.
    origin: Point,
    step: Point,
    /// Where voxels are after the warp, each coordinate by itself.
    places: [Vec<f32>; 3],
    /// How far the warp moves a voxel at most.
    warp: f64,
}

impl Raster {
    pub(super) fn draw(recipe: &Recipe, scene: &Scene, random: &mut ChaCha8Rng) -> Self {
        let spacing = recipe.field.spacing_mm.draw(random);
        let spacing = recipe.view.spacing_mm.unwrap_or(spacing);
        let (centre, size) = field(recipe, scene, spacing, random);
        let shape: [usize; 3] = std::array::from_fn(|axis| (size[axis] / spacing[axis]).round().max(1.0) as usize);
        let step: Point =
            std::array::from_fn(|axis| if recipe.view.flipped[axis] { -spacing[axis] } else { spacing[axis] });
        let origin = std::array::from_fn(|axis| centre[axis] - 0.5 * step[axis] * (shape[axis] as f64 - 1.0));
        let (amount, length) = (recipe.warp.amount_mm.draw(random), recipe.warp.length_mm.draw(random));
        let fields: [Smooth; 3] = std::array::from_fn(|_| Smooth::draw(shape, spacing, length, random));
        let mut raster = Self { shape, spacing, origin, step, places: Default::default(), warp: amount };
        raster.places = std::array::from_fn(|axis| raster.coordinates(axis, amount as f32, &fields[axis]));
        raster
    }

    fn coordinates(&self, axis: usize, amount: f32, field: &Smooth) -> Vec<f32> {
        let [nx, ny, nz] = self.shape;
        let plain = |index: usize| (self.origin[axis] + self.step[axis] * index as f64) as f32;
        let mut values = Vec::with_capacity(nx * ny * nz);
        let (mut moved, mut line) = (vec![0.0; nz], vec![0.0; nz]);
        for i in 0..nx {
            for j in 0..ny {
                match axis {
                    0 => line.fill(plain(i)),
                    1 => line.fill(plain(j)),
                    _ => line.iter_mut().enumerate().for_each(|(k, value)| *value = plain(k)),
                }
                if amount > 0.0 {
                    field.row(i, j, &mut moved);
                    line.iter_mut().zip(&moved).for_each(|(value, moved)| *value += amount * moved);
                }
                values.extend_from_slice(&line);
            }
        }
        values
    }

    /// An affine that a scanner could have written: RAS+, the middle of the volume at the origin.
    pub(super) fn grid(&self) -> Grid {
        Grid::centred(self.shape, self.spacing)
    }

    /// The voxels that a box in the scene can reach, edges included.
    pub(super) fn span(&self, (low, high): (Point, Point)) -> [Range<usize>; 3] {
        let slack = self.warp + norm(self.spacing);
        std::array::from_fn(|axis| {
            let at = |place: f64| (place - self.origin[axis]) / self.step[axis];
            let (a, b) = (at(low[axis] - slack), at(high[axis] + slack));
            let last = self.shape[axis] as f64;
            let bound = |index: f64| index.clamp(0.0, last) as usize;
            bound(a.min(b).floor())..bound(a.max(b).ceil() + 1.0)
        })
    }

    /// The voxels `along` of row (i, j).
    pub(super) fn row(&self, i: usize, j: usize, along: &Range<usize>) -> (usize, Row<'_>) {
        let start = (i * self.shape[1] + j) * self.shape[2];
        let (from, to) = (start + along.start, start + along.end);
        let at = [0, 1, 2].map(|axis| &self.places[axis][from..to]);
        let first = [i, j, along.start];
        let row = Row {
            at,
            start: std::array::from_fn(|axis| self.origin[axis] + self.step[axis] * first[axis] as f64),
            step: self.step[2],
            warp: self.warp,
            extent2: self.spacing.map(|extent| (extent * extent) as f32),
        };
        (from, row)
    }
}

/// Centre and size of what is seen.
fn field(recipe: &Recipe, scene: &Scene, spacing: Point, random: &mut ChaCha8Rng) -> (Point, Point) {
    let field = &recipe.field;
    let size = field.size_mm.draw(random);
    let jitter = field.jitter_mm.either_way(random);
    let cut = recipe.crop.as_ref().map(|crop| cut_out(crop, scene, size, random));
    if let Some(shape) = recipe.view.shape {
        let size = std::array::from_fn(|axis| shape[axis] as f64 * spacing[axis]);
        let middle = cut.map(|(middle, ..)| middle);
        return (add(middle.unwrap_or_else(|| middle_of(recipe, scene)), jitter), size);
    }
    match cut {
        Some((middle, size, true)) => (middle, size),
        _ => (add(middle_of(recipe, scene), jitter), size),
    }
}

fn middle_of(recipe: &Recipe, scene: &Scene) -> Point {
    recipe.field.centre.map_or([0.0; 3], |part| scene.part(part).centre())
}

/// Centre and size of a cut-out, at most as large as a whole scan, and whether this volume is one.
fn cut_out(crop: &Crop, scene: &Scene, whole: Point, random: &mut ChaCha8Rng) -> (Point, Point, bool) {
    let (low, high) = scene.bounds(&crop.around);
    let (before, after) = (crop.margin_mm.draw(random), crop.margin_mm.draw(random));
    let least = crop.least_mm.draw(random);
    let slack: Point = std::array::from_fn(|_| random.random_range(-0.5..=0.5));
    let cut = random.random::<f64>() < crop.share;
    let (low, high) = (subtract(low, before), add(high, after));
    let size = subtract(high, low);
    // What a cut-out is larger than its parts and margins by is spread at random over both sides.
    let middle =
        std::array::from_fn(|axis| 0.5 * (low[axis] + high[axis]) + slack[axis] * (least[axis] - size[axis]).max(0.0));
    let size: Point = std::array::from_fn(|axis| size[axis].max(least[axis]).clamp(1e-3, whole[axis]));
    (middle, size, cut)
}
