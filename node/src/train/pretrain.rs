//! What a consortium prepares before the first round, from synthetic scans alone: a starting student ([`endless`] makes
//! one from a stream that never repeats), the clip norm, and the subspace to release in. Nobody's data is touched, so none
//! of it costs privacy (spec/privacy.md, section 14).

pub mod endless;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rayon::prelude::*;
use semisam_shared::weights::Weights;
use serde::{Deserialize, Serialize};

use super::{
    TrainError,
    crops::{Crop, PreparedScan},
    generator,
    losses::{Losses, Targets, TermWeights},
    patient::{LocalTraining, Patients, PreparedPatient, patient_deltas},
    prefetch::ahead,
    schedule::decay,
    step::Batch,
    subspace::{SubspaceError, principal_directions},
    trainer::{Optimiser, Parameters, Step, Trainer},
};
use crate::{
    data::{normalise::normalise, recipe::Recipe},
    device::{Device, TrainBackend, Work},
    model::{VNetConfig, layout},
};

/// Makes the labelled synthetic scan of a number; the same number gives the same scan.
pub type Synthesise<'a> = &'a (dyn Fn(u64) -> PreparedScan + Sync);

/// How a starting student is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pretraining {
    /// Synthetic scans.
    pub scans: u64,
    /// Optimiser steps; few of them make a weak start, none an untrained one.
    pub steps: u64,
    /// Crops per step.
    pub batch: u64,
    /// Sides of a crop, multiples of 16.
    pub patch: [usize; 3],
    /// First step size; it decays polynomially to zero.
    pub learning_rate: f64,
    /// Whether crops are turned and flipped in the axial plane, and their intensities varied.
    pub augment: bool,
    /// Names the first weights and all draws.
    pub seed: u64,
}

impl Default for Pretraining {
    fn default() -> Self {
        Self { scans: 64, steps: 150, batch: 2, patch: [48, 48, 32], learning_rate: 0.05, augment: false, seed: 1 }
    }
}

/// A student trained on synthetic scans. `each` is called after every step with the steps done and a way to ask for the
/// losses, for which a device is waited for; setting `cancel` ends the training early.
///
/// # Errors
/// If settings, scans and architecture do not fit each other.
pub fn pretrain(
    device: Device,
    config: VNetConfig,
    settings: &Pretraining,
    synthesise: Synthesise<'_>,
    cancel: &AtomicBool,
    each: &mut dyn FnMut(u64, &dyn Fn() -> Losses),
) -> Result<Weights, TrainError> {
    config.check()?;
    let start = layout::initial(&config, settings.seed);
    if settings.steps == 0 {
        return Ok(start);
    }
    if settings.scans == 0 || settings.batch == 0 {
        return Err(TrainError::NoScans("pre-training needs at least one synthetic scan and one crop per step"));
    }
    let scans: Vec<PreparedScan> = (0..settings.scans).into_par_iter().map(synthesise).collect();
    scans.iter().try_for_each(|scan| scan.check(config.classes))?;
    device.run(Warmup { config, settings, start, scans, cancel, each })
}

/// Volume number `number` of an anatomy, stored in each of its `ways` in turn.
///
/// # Panics
/// If there is no way.
pub fn anatomical_scan(ways: &[Recipe], seed: u64, number: u64) -> PreparedScan {
    let (mut image, labels) = ways[number as usize % ways.len()].scan(seed, number);
    normalise(&mut image);
    PreparedScan { image, labels: Some(labels) }
}

/// The deltas that synthetic patients would send, one labelled scan each, numbered from `first`.
///
/// # Errors
/// If settings, scans and architecture do not fit each other.
pub fn synthetic_deltas(
    device: Device,
    config: VNetConfig,
    start: &Weights,
    settings: &LocalTraining,
    (first, count): (u64, u64),
    synthesise: Synthesise<'_>,
) -> Result<Vec<Vec<f32>>, TrainError> {
    let patients: Vec<PreparedPatient> = (first..first + count)
        .into_par_iter()
        .map(|number| PreparedPatient { scans: vec![Arc::new(synthesise(number))], sources: vec![] })
        .collect();
    let seeds: Vec<u64> = (first..first + count).collect();
    let patients = Patients { seeds: &seeds, fetch: &|position| Ok(patients[position].clone()) };
    patient_deltas(device, config, start, patients, settings, |delta| delta)
}

/// Directions and clip norm for a plan: the `directions` strongest directions of synthetic `deltas`, and the median norm of
/// their projections. Contributions of real patients are longer, since a start from synthetic scans suits them less.
///
/// # Errors
/// If the deltas span fewer directions.
pub fn public_subspace(
    deltas: &[Vec<f32>],
    directions: usize,
    kept: &[bool],
) -> Result<(Vec<Vec<f32>>, f64), SubspaceError> {
    let basis = principal_directions(deltas, directions, kept)?;
    let norm = |delta: &Vec<f32>| {
        let share = |row: &Vec<f32>| row.iter().zip(delta).map(|(r, d)| f64::from(r * d)).sum::<f64>().powi(2);
        basis.iter().map(share).sum::<f64>().sqrt()
    };
    let norms = deltas.iter().map(norm).collect();
    Ok((basis, median(norms)))
}

/// The middle of `values`; 0 without any.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Steps that lie ready.
const AHEAD: usize = 2;

/// A step on labelled crops alone.
fn labelled_step(crops: Vec<Crop>, patch: [usize; 3], learning_rate: f64) -> Step {
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for crop in crops {
        images.extend(crop.image);
        labels.push(crop.labels);
    }
    Step {
        batch: Batch { images, samples: labels.len(), patch },
        targets: Targets { labels, ..Targets::default() },
        question: None,
        terms: TermWeights::default(),
        dropout: None,
        learning_rate,
        average: None,
    }
}

struct Warmup<'a> {
    config: VNetConfig,
    settings: &'a Pretraining,
    start: Weights,
    scans: Vec<PreparedScan>,
    cancel: &'a AtomicBool,
    each: &'a mut dyn FnMut(u64, &dyn Fn() -> Losses),
}

impl Work for Warmup<'_> {
    type Output = Result<Weights, TrainError>;

    fn run<B: TrainBackend>(self, device: &B::Device) -> Self::Output {
        let Self { config, settings, start, scans, cancel, each } = self;
        let optimiser = Optimiser { momentum: 0.9, weight_decay: 1e-4 };
        let mut trainer = Trainer::<B>::new(None, config, Parameters::at(&start), optimiser, device)?;
        let steps = (0..settings.steps).map(|number| step(settings, &scans, number));
        ahead(AHEAD, steps, |steps| {
            let mut done = 0;
            while !cancel.load(Ordering::Relaxed)
                && let Some(step) = steps.next()
            {
                trainer.step(step)?;
                done += 1;
                each(done, &|| trainer.losses());
            }
            Ok::<_, TrainError>(())
        })?;
        Ok(start.with_flat(&trainer.student()).expect("the student has the start's architecture"))
    }
}

/// The step of a number, counted from 0: the scans in turn.
fn step(settings: &Pretraining, scans: &[PreparedScan], number: u64) -> Step {
    let crop = |crop: u64| {
        let mut random = generator(settings.seed, "pretraining", &[number, crop]);
        let scan = &scans[((number * settings.batch + crop) % settings.scans) as usize];
        scan.crop(settings.patch, settings.augment, &mut random)
    };
    let crops = (0..settings.batch).map(crop).collect();
    labelled_step(crops, settings.patch, settings.learning_rate * decay(number, settings.steps))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{data::volume::Volume, train::normal};

    fn synthesise(number: u64) -> PreparedScan {
        let shape = [16, 16, 16];
        let affine = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
        let mut random = generator(number, "test scan", &[]);
        let labels: Vec<u8> = (0..4096).map(|at| u8::from((4..12).contains(&(at / 256)) && at % 16 > 7)).collect();
        let image = labels.iter().map(|label| 1.5 * f32::from(*label) + 0.5 * normal(&mut random)).collect();
        let labels = Some(Volume { shape, affine, values: labels });
        PreparedScan { image: Volume { shape, affine, values: image }, labels }
    }

    #[test]
    fn a_start_is_better_than_none_and_its_subspace_holds_the_update() {
        let config = VNetConfig::binary(2);
        let settings = Pretraining { scans: 4, steps: 20, patch: [16; 3], ..Pretraining::default() };
        let mut losses = Vec::new();
        let cancel = AtomicBool::new(false);
        let start = pretrain(Device::Cpu, config, &settings, &synthesise, &cancel, &mut |_, l| losses.push(l().total))
            .expect("they fit");
        assert!(losses[19] < 0.8 * losses[0], "{} to {}", losses[0], losses[19]);
        let local = LocalTraining { patch: [16; 3], local_steps: 1, ..LocalTraining::default() };
        let deltas = synthetic_deltas(Device::Cpu, config, &start, &local, (100, 6), &synthesise).expect("they fit");
        let (basis, clip) = public_subspace(&deltas, 4, &[]).expect("six deltas span four directions");
        let norm = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let largest = deltas.iter().map(|delta| norm(delta)).fold(0.0, f64::max);
        assert!(clip > 0.2 * largest && clip <= largest + 1e-9, "{clip} of {largest}");
        assert_eq!(basis.len(), 4);
    }
}
