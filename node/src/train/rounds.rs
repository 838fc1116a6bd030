//! SemiSAM-O1: pseudo-labels of whole scans, made offline between rounds of training from scratch (arXiv 2604.24109;
//! spec/semisam.md, section 7.1).
//!
//! The first ones are drawn by prototypes of labelled scans in a generalist's embeddings, unless the student that rounds start
//! from draws the labelled scans better. The next ones are what the last student thinks; the tenth of the scans that it
//! doubts most get a vote of the five most similar scans that it is sure of.
//! Prototypes and votes cross patients: this is for a hospital's own training, never for a federation. Nothing is chosen by
//! validation, so that no label is spent on it.

use std::collections::{BTreeMap, BTreeSet};

use semisam_shared::{ids::Digest, weights::Weights};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    TrainError,
    infer::{Windows, class_probabilities, likeliest},
    local::LocalRun,
    losses::UNCERTAIN_OF,
    scans::ScanSet,
};
use crate::{
    data::{
        grid::Grid,
        metrics::dice,
        volume::{Image, LabelMap, Volume},
    },
    device::Device,
    generalist::{
        Generalist, GeneralistError,
        features::{Prototypes, Seen, alike},
        store::Store,
    },
};

/// Scans whose doubt is at or above this quantile are voted on.
const CERTAIN: f64 = 0.9;
/// How many similar scans vote.
const VOTERS: usize = 5;

/// Which round a run is, and what it learns from: a part of its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// From 1.
    pub number: u64,
    /// Digest of the pseudo-labels.
    pub labels: Digest,
}

/// Pseudo-labels of scans without labels, by position.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PseudoLabels(BTreeMap<usize, LabelMap>);

impl PseudoLabels {
    /// Of no scan.
    pub const NONE: Self = Self(BTreeMap::new());

    /// Of the scan at a position.
    pub(super) fn of(&self, scan: usize) -> Option<&LabelMap> {
        self.0.get(&scan)
    }

    /// What names them.
    pub fn digest(&self) -> Digest {
        let mut hash = Sha256::new_with_prefix(b"semisam/pseudo-labels\0");
        for (scan, labels) in &self.0 {
            hash.update((*scan as u64).to_le_bytes());
            labels.shape.iter().for_each(|extent| hash.update((*extent as u64).to_le_bytes()));
            hash.update(&labels.values);
        }
        Digest(hash.finalize().into())
    }

    /// Drawn by whoever draws the labelled scans better: their own prototypes, or `start`, the student that every round begins
    /// with. Prototypes draw blocks of a generalist's cells; a start that was pre-trained on the anatomy knows better.
    ///
    /// # Errors
    /// If a scan cannot be had, does not fit the student, or no labelled scan shows an object.
    pub fn first(
        device: Device,
        run: &LocalRun,
        start: &Weights,
        scans: &ScanSet,
        shown: &Shown,
    ) -> Result<Self, TrainError> {
        let prototypes = prototypes(scans, shown, run.config.classes)?;
        let by_prototypes = |scan: usize| {
            let grid = Grid::from(&scans.get(scan)?.image);
            Ok::<_, TrainError>(shown.0[&scan].draw(&prototypes, &grid))
        };
        let by_start = |scan: usize| Ok(opinion(device, run, start, &scans.get(scan)?.image)?.0);
        let known = [agreement(scans, &by_prototypes)?, agreement(scans, &by_start)?];
        tracing::info!("Dice on the labelled scans: {:.3} by prototypes, {:.3} by the start", known[0], known[1]);
        if known[1] > known[0] {
            return Self::next(device, run, start, scans, shown);
        }
        let draw = |scan: usize| Ok((scan, by_prototypes(scan)?));
        Ok(Self(scans.positions(false).into_iter().map(draw).collect::<Result<_, TrainError>>()?))
    }

    /// What `student` thinks, refined by votes.
    ///
    /// # Errors
    /// If a scan cannot be had, or does not fit the student.
    pub fn next(
        device: Device,
        run: &LocalRun,
        student: &Weights,
        scans: &ScanSet,
        shown: &Shown,
    ) -> Result<Self, TrainError> {
        let of_scan = |scan: usize| Ok((scan, opinion(device, run, student, &scans.get(scan)?.image)?));
        let found = scans.positions(false).into_iter().map(of_scan).collect::<Result<BTreeMap<_, _>, TrainError>>()?;
        let limit = quantile(found.values().map(|(_, doubt)| *doubt).collect(), CERTAIN);
        let gists: BTreeMap<usize, Vec<f32>> = found.keys().map(|scan| (*scan, shown.0[scan].gist())).collect();
        let certain = || found.iter().filter(|(_, (_, doubt))| *doubt < limit);
        let refined = found.iter().map(|(scan, (own, doubt))| {
            if *doubt < limit {
                return (*scan, own.clone());
            }
            let likeness = |other: &usize| alike(&gists[scan], &gists[other]).max(0.0);
            let mut voters: Vec<(f64, &LabelMap)> = certain().map(|(other, (map, _))| (likeness(other), map)).collect();
            voters.sort_by(|a, b| b.0.total_cmp(&a.0));
            voters.truncate(VOTERS);
            (*scan, vote(&voters, own))
        });
        Ok(Self(refined.collect()))
    }
}

/// Every scan as a generalist sees it without being asked, by position.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown(BTreeMap<usize, Seen>);

impl Shown {
    /// Embeds all scans, or finds their embeddings in `store`; `each` is called for every scan.
    ///
    /// # Errors
    /// If a scan cannot be had or shown.
    pub fn to(generalist: &Generalist, scans: &ScanSet, store: &Store, each: &dyn Fn()) -> Result<Self, TrainError> {
        let show = |scan: usize| {
            each();
            let embeddings = store.embeddings(generalist, &scans.source(scan)?)?;
            Ok((scan, Seen::of(generalist.network(), &embeddings).map_err(GeneralistError::from)?))
        };
        Ok(Self((0..scans.len()).map(show).collect::<Result<_, TrainError>>()?))
    }
}

/// The prototypes of the labelled scans.
fn prototypes(scans: &ScanSet, shown: &Shown, classes: usize) -> Result<Prototypes, TrainError> {
    let positions = scans.positions(true);
    let labelled = positions.iter().map(|scan| scans.get(*scan)).collect::<Result<Vec<_>, _>>()?;
    let pairs: Vec<(&Seen, &LabelMap)> = positions
        .iter()
        .zip(&labelled)
        .filter_map(|(position, scan)| Some((&shown.0[position], scan.labels.as_ref()?)))
        .collect();
    let prototypes = Prototypes::of(&pairs, classes).map_err(GeneralistError::from)?;
    if !prototypes.any() {
        return Err(TrainError::NoScans("no labelled scan shows an object large enough to make a prototype of"));
    }
    Ok(prototypes)
}

/// What a student thinks of a scan, and how much it doubts that.
fn opinion(device: Device, run: &LocalRun, student: &Weights, image: &Image) -> Result<(LabelMap, f64), TrainError> {
    let softmax = class_probabilities(device, run.config, student, image, Windows::half_overlapping(run.patch))?;
    Ok((likeliest(&softmax, image), doubt(&softmax, run.config.classes)))
}

/// The mean Dice of what is drawn on the labelled scans, over the classes that each of them shows.
fn agreement(scans: &ScanSet, draw: &dyn Fn(usize) -> Result<LabelMap, TrainError>) -> Result<f64, TrainError> {
    let mut found = Vec::new();
    for scan in scans.positions(true) {
        let (drawn, scan) = (draw(scan)?, scans.get(scan)?);
        let Some(truth) = &scan.labels else { continue };
        let of =
            |map: &LabelMap, class: u8| map.values.iter().map(|found| u8::from(*found == class)).collect::<Vec<_>>();
        let classes: BTreeSet<u8> = truth.values.iter().copied().filter(|class| *class != 0).collect();
        found.extend(classes.into_iter().map(|class| dice(&of(&drawn, class), &of(truth, class))));
    }
    Ok(found.iter().sum::<f64>() / found.len().max(1) as f64)
}

/// The mean entropy over the voxels of a softmax [classes, voxels], in nats.
fn doubt(softmax: &[f32], classes: usize) -> f64 {
    let sum: f64 = softmax.iter().map(|p| -f64::from(*p) * (f64::from(*p) + UNCERTAIN_OF).ln()).sum();
    sum / (softmax.len() / classes).max(1) as f64
}

/// With linear interpolation.
fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = share * values.len().saturating_sub(1) as f64;
    let at = |index: usize| values.get(index).or(values.last()).copied().unwrap_or(0.0);
    let below = at(place.floor() as usize);
    below + (at(place.ceil() as usize) - below) * place.fract()
}

/// The class with most weight at each voxel of `own`'s grid, of maps that are brought to its extents, unregistered; `own` where
/// nobody has any weight. Equals go to the lower class.
fn vote(voters: &[(f64, &LabelMap)], own: &LabelMap) -> LabelMap {
    if voters.iter().all(|(weight, _)| *weight == 0.0) {
        return own.clone();
    }
    let classes = 1 + voters.iter().flat_map(|(_, map)| &map.values).copied().max().map_or(0, usize::from);
    let [nx, ny, nz] = own.shape;
    let mut values = Vec::with_capacity(nx * ny * nz);
    for at in 0..nx * ny * nz {
        let mut weights = vec![0.0; classes];
        for (weight, map) in voters {
            let place = [at / nz / ny, at / nz % ny, at % nz];
            let nearest: [usize; 3] =
                std::array::from_fn(|axis| (2 * place[axis] + 1) * map.shape[axis] / (2 * own.shape[axis]));
            weights[usize::from(map.values[map.index(nearest[0], nearest[1], nearest[2])])] += weight;
        }
        let best = weights.iter().enumerate().fold((0, f64::NEG_INFINITY), |best, (class, weight)| {
            if *weight > best.1 { (class as u8, *weight) } else { best }
        });
        values.push(best.0);
    }
    Volume { shape: own.shape, affine: own.affine, values }
}

#[cfg(test)]
mod tests;
