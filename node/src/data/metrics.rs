//! How well a prediction agrees with the truth: overlap, and distances between surfaces.
//!
//! Definitions are MedPy's, which the literature uses, with three choices made plain: HD95 pools the distances of both
//! directions before the percentile, ASD is one-sided (from the prediction to the truth) with its reverse and the
//! pooled symmetric mean beside it, and distances come both in voxels, as the literature has them, and in millimetres.
//! Two empty masks agree (Dice 1, distances 0); against one empty mask overlap is 0 and distances do not exist.
//! Reference: MedPy `metric.binary`; spec section 8.

pub(crate) mod edt;
#[cfg(test)]
mod tests;

use thiserror::Error;

use crate::data::grid::{Grid, GridMismatch};
use crate::data::volume::{LabelMap, Volume};

/// Why two masks cannot be compared.
#[derive(Debug, Error)]
pub enum MetricsError {
    /// Different shape or place.
    #[error("prediction and truth are on different grids ({0}): resample one to the grid of the other")]
    Grid(#[from] GridMismatch),
}

/// Distances between the surfaces of two masks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distances {
    /// Hausdorff distance: the largest of both directions.
    pub hd: f64,
    /// 95th percentile (linear) of both directions pooled.
    pub hd95: f64,
    /// Mean from the surface of the prediction to that of the truth.
    pub asd: f64,
    /// Mean from the surface of the truth to that of the prediction.
    pub asd_reverse: f64,
    /// Mean of both directions pooled.
    pub assd: f64,
}

/// Agreement of a prediction with the truth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    /// 2 |A and B| / (|A| + |B|).
    pub dice: f64,
    /// |A and B| / |A or B|.
    pub jaccard: f64,
    /// Surface distances in voxels; none where one mask is empty.
    pub vox: Option<Distances>,
    /// Surface distances in millimetres; none where one mask is empty.
    pub mm: Option<Distances>,
}

/// Scores of everything that is not background.
pub fn score(prediction: &LabelMap, truth: &LabelMap) -> Result<Scores, MetricsError> {
    score_where(prediction, truth, |class| class != 0)
}

/// Scores of one class.
pub fn score_class(prediction: &LabelMap, truth: &LabelMap, class: u8) -> Result<Scores, MetricsError> {
    score_where(prediction, truth, |found| found == class)
}

/// Scores of each class from 1 to the last of `classes`, which count the background; none of a class that neither mask has:
/// that both lack it says nothing about how well it is found.
pub fn score_classes(
    prediction: &LabelMap,
    truth: &LabelMap,
    classes: usize,
) -> Result<Vec<Option<Scores>>, MetricsError> {
    let mut seen = [false; 256];
    prediction.values.iter().chain(&truth.values).for_each(|&class| seen[usize::from(class)] = true);
    let score = |class: usize| seen[class].then(|| score_class(prediction, truth, class as u8)).transpose();
    (1..classes.min(256)).map(score).collect()
}

/// Dice alone, of everything that is not background: cheap, for watching a training.
pub fn dice(prediction: &[u8], truth: &[u8]) -> f64 {
    Counts::of(prediction, truth, |class| class != 0).dice()
}

fn score_where(
    prediction: &LabelMap,
    truth: &LabelMap,
    inside: impl Fn(u8) -> bool + Copy,
) -> Result<Scores, MetricsError> {
    Grid::from(prediction).must_equal(&truth.into())?;
    let counts = Counts::of(&prediction.values, &truth.values, inside);
    let (vox, mm) = match (counts.prediction, counts.truth) {
        (0, 0) => (Some(NONE_APART), Some(NONE_APART)),
        (0, _) | (_, 0) => (None, None),
        _ => {
            let bounds = union_bounds(prediction, truth, inside);
            let (a, b) = (crop(prediction, bounds, inside), crop(truth, bounds, inside));
            let (a_surface, b_surface) = (surface(&a), surface(&b));
            let spacing = truth.spacing();
            let vox = distances(&a_surface, &b_surface, [1.0; 3]);
            let mm = if spacing == [1.0; 3] { vox } else { distances(&a_surface, &b_surface, spacing) };
            (Some(vox), Some(mm))
        }
    };
    Ok(Scores { dice: counts.dice(), jaccard: counts.jaccard(), vox, mm })
}

const NONE_APART: Distances = Distances { hd: 0.0, hd95: 0.0, asd: 0.0, asd_reverse: 0.0, assd: 0.0 };

struct Counts {
    prediction: u64,
    truth: u64,
    both: u64,
}

impl Counts {
    fn of(prediction: &[u8], truth: &[u8], inside: impl Fn(u8) -> bool) -> Self {
        let mut counts = Self { prediction: 0, truth: 0, both: 0 };
        for (&a, &b) in prediction.iter().zip(truth) {
            let (a, b) = (inside(a), inside(b));
            counts.prediction += u64::from(a);
            counts.truth += u64::from(b);
            counts.both += u64::from(a && b);
        }
        counts
    }

    fn dice(&self) -> f64 {
        ratio(2 * self.both, self.prediction + self.truth)
    }

    fn jaccard(&self) -> f64 {
        ratio(self.both, self.prediction + self.truth - self.both)
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

/// First and past-the-last index per axis of the voxels inside either mask, of which there is at least one.
fn union_bounds(a: &LabelMap, b: &LabelMap, inside: impl Fn(u8) -> bool) -> [(usize, usize); 3] {
    let [_, ny, nz] = a.shape;
    let mut bounds = [(usize::MAX, 0); 3];
    for (row, (a, b)) in a.values.chunks_exact(nz).zip(b.values.chunks_exact(nz)).enumerate() {
        let occupied = |z: &usize| inside(a[*z]) || inside(b[*z]);
        let Some(first) = (0..nz).find(occupied) else { continue };
        let last = (first..nz).rev().find(occupied).unwrap_or(first);
        for (bound, (low, high)) in bounds.iter_mut().zip([(row / ny, row / ny), (row % ny, row % ny), (first, last)]) {
            *bound = (bound.0.min(low), bound.1.max(high + 1));
        }
    }
    bounds
}

fn crop(labels: &LabelMap, bounds: [(usize, usize); 3], inside: impl Fn(u8) -> bool) -> Volume<bool> {
    let [x, y, z] = bounds;
    let mut values = Vec::with_capacity((x.1 - x.0) * (y.1 - y.0) * (z.1 - z.0));
    for i in x.0..x.1 {
        for j in y.0..y.1 {
            values.extend((z.0..z.1).map(|k| inside(labels.values[labels.index(i, j, k)])));
        }
    }
    Volume { shape: bounds.map(|(low, high)| high - low), affine: labels.affine, values }
}

/// Voxels of a mask with a face neighbour outside it; beyond the volume is outside. The crop holds the whole mask, so
/// that its border
/// voxels are surface in the volume too.
fn surface(mask: &Volume<bool>) -> Volume<bool> {
    let [nx, ny, nz] = mask.shape;
    let mut values = Vec::with_capacity(mask.values.len());
    for i in 0..nx {
        for j in 0..ny {
            for k in 0..nz {
                let at = mask.index(i, j, k);
                let enclosed = || {
                    (i > 0 && i + 1 < nx && j > 0 && j + 1 < ny && k > 0 && k + 1 < nz)
                        && [at - ny * nz, at + ny * nz, at - nz, at + nz, at - 1, at + 1]
                            .iter()
                            .all(|&n| mask.values[n])
                };
                values.push(mask.values[at] && !enclosed());
            }
        }
    }
    Volume { shape: mask.shape, affine: mask.affine, values }
}

fn distances(prediction: &Volume<bool>, truth: &Volume<bool>, spacing: [f64; 3]) -> Distances {
    let mut pooled = edt::distances_to(truth, prediction, spacing);
    let forward = pooled.len();
    pooled.extend(edt::distances_to(prediction, truth, spacing));
    let (asd, asd_reverse, assd) = (mean(&pooled[..forward]), mean(&pooled[forward..]), mean(&pooled));
    pooled.sort_unstable_by(f64::total_cmp);
    let hd = pooled.last().copied().unwrap_or(0.0);
    Distances { hd, hd95: percentile(&pooled, 0.95), asd, asd_reverse, assd }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Linear interpolation between the closest ranks, as numpy's default.
fn percentile(sorted: &[f64], fraction: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let rank = fraction * last as f64;
    let below = sorted[rank.floor() as usize];
    let above = sorted[rank.ceil() as usize];
    below + (above - below) * rank.fract()
}
