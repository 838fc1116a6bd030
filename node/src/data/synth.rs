//! Synthetic scans: an organ with vessels among look-alikes, as hospitals with different scanners would see it.
//!
//! For the demo, for trying a configuration without patient data, and as a stream to pre-train on. The target is a
//! wobbly union of ellipsoids near the centre with tubes attached; distractors have similar intensities but are small
//! or thin, a neighbouring organ touches it, and a bias field, texture and noise blur the borders: a threshold does not
//! find the target, its shape and place do. All randomness comes from the seed (ChaCha8), so the same seed gives the
//! same scan.

mod cohort;
mod lattice;
mod shapes;
#[cfg(test)]
mod tests;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

pub use self::cohort::{SynthError, SynthSpec, write_cohort};

use self::lattice::Lattice;
use self::shapes::Anatomy;
use crate::data::grid::Grid;
use crate::data::volume::{Image, LabelMap};

/// What the target looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetFamily {
    /// One ellipsoid.
    Ellipsoid,
    /// Two overlapping ellipsoids of similar size.
    Bilobed,
    /// A large ellipsoid with two smaller ones on it.
    Lobulated,
}

/// How a hospital's scans look.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Style {
    /// Shape of the target.
    pub family: TargetFamily,
    /// Target against tissue: positive is brighter, negative darker. Tissue is 1.
    pub contrast: f64,
    /// Factor on all intensities.
    pub gain: f64,
    /// Added to all intensities.
    pub offset: f64,
    /// Relative strength of the tissue's texture.
    pub texture: f64,
    /// Grain of the texture, as a share of the field of view.
    pub grain: f64,
    /// Standard deviation of the noise, relative to tissue.
    pub noise: f64,
    /// Relative strength of the bias field.
    pub bias: f64,
    /// How many small look-alikes there are.
    pub distractors: usize,
}

impl Style {
    /// The style of a hospital, drawn from a seed. Three of four see the target brighter than tissue.
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let family = match rng.random_range(0..3) {
            0 => TargetFamily::Ellipsoid,
            1 => TargetFamily::Bilobed,
            _ => TargetFamily::Lobulated,
        };
        let contrast = rng.random_range(0.45..0.8);
        Self {
            family,
            contrast: if rng.random_bool(0.25) { -contrast } else { contrast },
            gain: rng.random_range(80.0..900.0),
            offset: rng.random_range(0.0..300.0),
            texture: rng.random_range(0.04..0.16),
            grain: rng.random_range(0.06..0.2),
            noise: rng.random_range(0.05..0.16),
            bias: rng.random_range(0.05..0.3),
            distractors: rng.random_range(6..12),
        }
    }
}

/// A synthetic scan and its truth. Anatomy and acquisition both come from the seed.
pub fn synth_case(style: &Style, shape: [usize; 3], spacing_mm: [f64; 3], seed: u64) -> (Image, LabelMap) {
    synth_visit(style, shape, spacing_mm, seed, 0)
}

/// As [`synth_case`], of one of several visits of the same person: the same anatomy, slightly moved, under other noise
/// and bias.
pub fn synth_visit(
    style: &Style,
    shape: [usize; 3],
    spacing_mm: [f64; 3],
    person: u64,
    visit: u64,
) -> (Image, LabelMap) {
    let grid = Grid::centred(shape, spacing_mm);
    let mut body = ChaCha8Rng::seed_from_u64(person);
    let mut scanner = ChaCha8Rng::seed_from_u64(person);
    scanner.set_stream(visit + 1);
    let field = shape.iter().zip(spacing_mm).map(|(&extent, spacing)| extent as f64 * spacing).fold(f64::MAX, f64::min);
    let mut anatomy = Anatomy::draw(style, field, &mut body);
    if visit > 0 {
        anatomy.shift(std::array::from_fn(|_| scanner.random_range(-0.03..0.03) * field));
    }
    let drawn = anatomy.draw_onto(&grid);
    let texture = Lattice::draw(&grid, style.grain * field, &mut body);
    let bias = Lattice::draw(&grid, 0.6 * field, &mut scanner);
    let mut values = drawn.intensity;
    let mut at = 0;
    for i in 0..shape[0] {
        for j in 0..shape[1] {
            let (texture, bias) = (texture.row(i, j), bias.row(i, j));
            for k in 0..shape[2] {
                let tissue = f64::from(values[at]) + style.texture * texture.at(k) + style.noise * normal(&mut scanner);
                values[at] = (style.gain * tissue * (1.0 + style.bias * bias.at(k)) + style.offset) as f32;
                at += 1;
            }
        }
    }
    let image = Image { shape, affine: grid.affine, values };
    (image, LabelMap { shape, affine: grid.affine, values: drawn.target })
}

/// Close to a standard normal: the sum of twelve uniforms (Irwin-Hall), the same on every machine and fast.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let [a, b, c]: [u64; 3] = std::array::from_fn(|_| rng.random());
    let sum: u64 = [a, b, c].iter().map(|word| (0..4).map(|part| word >> (16 * part) & 0xffff).sum::<u64>()).sum();
    sum as f64 / 65536.0 - 6.0
}
