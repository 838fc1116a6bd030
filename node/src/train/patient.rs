//! One patient as a virtual client: the unit of work of a federation (spec/privacy.md, section 3.1).

use std::{iter, sync::Arc};

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use semisam_shared::weights::Weights;
use serde::{Deserialize, Serialize};

use super::{
    TrainError,
    crops::{Crop, PreparedScan, perturb},
    generator,
    guidance::{Guidance, Guides, Maps, mean_weight},
    infer::{Windows, by_network},
    losses::{Opinion, Targets, TermWeights},
    parallel,
    prefetch::ahead,
    step::Batch,
    trainer::{Doubt, Optimiser, Parameters, Question, Step, Trainer},
};
use crate::{
    data::grid::Grid,
    device::{Device, Placement, TrainBackend, Work},
    generalist::{
        Generalist,
        store::{Source, Store},
    },
    model::{ModelError, VNetConfig, layout, vnet::VNet},
};

/// How every hospital trains on one patient; part of the signed plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalTraining {
    /// Voxels of a crop, multiples of 16.
    pub patch: [u32; 3],
    /// Optimiser steps on one patient in one round.
    pub local_steps: u32,
    /// Crops per step.
    pub batch: u32,
    /// Step size.
    pub learning_rate: f64,
    /// Of the optimiser, whose state is fresh for each patient.
    pub momentum: f64,
    /// L2 penalty.
    pub weight_decay: f64,
    /// Factor of the agreement with the released model on all crops; 0 switches it off.
    pub consistency_weight: f64,
    /// Voxels of unlabelled scans on which the released model, averaged with generalists where they are asked, is more
    /// confident than this are trained on as if labelled; 1 switches it off.
    pub pseudo_label_threshold: f64,
    /// Standard deviation of the noise on what the student sees; the released model sees the clean crop.
    pub noise: f64,
    /// Whether crops are turned and flipped in the axial plane, and their intensities varied.
    pub augment: bool,
    /// Whether the released model counts only where it is certain, and only on unlabelled scans (UA-MT).
    #[serde(default)]
    pub certain: bool,
    /// How generalists are asked about unlabelled scans, if they are; always by what the released model believes.
    #[serde(default)]
    pub guidance: Option<Guidance>,
}

impl Default for LocalTraining {
    fn default() -> Self {
        Self {
            patch: [48, 48, 32],
            local_steps: 4,
            batch: 1,
            learning_rate: 0.01,
            momentum: 0.9,
            weight_decay: 1e-4,
            consistency_weight: 0.1,
            pseudo_label_threshold: 0.9,
            noise: 0.1,
            augment: false,
            certain: false,
            guidance: None,
        }
    }
}

impl LocalTraining {
    /// Refuses settings with which nothing can be learnt.
    ///
    /// # Errors
    /// Names the first setting that is out of range.
    pub fn check(&self) -> Result<(), TrainError> {
        let setting = |name, value: String, must| Err(TrainError::Setting { name, value, must });
        if self.patch.iter().any(|side| *side == 0 || !side.is_multiple_of(16)) {
            return setting("patch", format!("{:?}", self.patch), "three multiples of 16");
        }
        if self.local_steps == 0 || self.batch == 0 {
            return setting(
                "local_steps",
                format!("{} of {} crops", self.local_steps, self.batch),
                "at least one of one",
            );
        }
        let ranges = [
            ("learning_rate", self.learning_rate, 1.0),
            ("momentum", self.momentum, 1.0),
            ("weight_decay", self.weight_decay, 1.0),
            ("consistency_weight", self.consistency_weight, f64::MAX),
            ("pseudo_label_threshold", self.pseudo_label_threshold, 1.0),
            ("noise", self.noise, f64::MAX),
        ];
        for (name, value, most) in ranges {
            if !(0.0..=most).contains(&value) {
                return setting(
                    name,
                    value.to_string(),
                    "a number of at least zero, and at most one where it is a share",
                );
            }
        }
        Ok(())
    }

    /// Whether anything is learnt from a scan without labels.
    fn learns_without_labels(&self) -> bool {
        self.consistency_weight > 0.0 || self.pseudo_label_threshold < 1.0 || self.guidance.is_some()
    }

    /// The sides of a crop.
    pub fn patch(&self) -> [usize; 3] {
        self.patch.map(|side| side as usize)
    }
}

/// All scans of one patient, prepared. Prints shapes only.
#[derive(Clone, Debug, PartialEq)]
pub struct PreparedPatient {
    /// At least one.
    pub scans: Vec<Arc<PreparedScan>>,
    /// The same scans as generalists see them; only needed where they are asked.
    pub sources: Vec<Arc<Source>>,
}

/// Patients whose scans are fetched when it is nearly their turn, so that few of them are in memory.
#[derive(Clone, Copy)]
pub struct Patients<'a> {
    /// Names the draws of each.
    pub seeds: &'a [u64],
    /// Gives the patient at a position; called in their order, on a thread of its own, while others are trained on.
    pub fetch: &'a (dyn Fn(usize) -> Result<PreparedPatient, TrainError> + Sync),
}

/// A patient and the seed of their draws, or why the patient cannot be had.
type Fetched = Result<(PreparedPatient, u64), TrainError>;

impl<'a> Patients<'a> {
    /// The patients in their order; none after one that cannot be had or trained on.
    fn fetched(self, classes: usize) -> impl Iterator<Item = Fetched> + Send + 'a {
        let mut failed = false;
        self.seeds.iter().enumerate().map_while(move |(position, seed)| {
            if failed {
                return None;
            }
            let patient = (self.fetch)(position).and_then(|patient| patient.checked(classes));
            failed = patient.is_err();
            Some(patient.map(|patient| (patient, *seed)))
        })
    }
}

impl PreparedPatient {
    fn checked(self, classes: usize) -> Result<Self, TrainError> {
        if self.scans.is_empty() {
            return Err(TrainError::NoScans("a patient has no scan; leave patients without scans out"));
        }
        self.scans.iter().try_for_each(|scan| scan.check(classes))?;
        Ok(self)
    }

    /// The scans that something is learnt from, by their positions.
    fn useful(&self, settings: &LocalTraining) -> Vec<usize> {
        let all = settings.learns_without_labels();
        (0..self.scans.len()).filter(|scan| all || self.scans[*scan].labels.is_some()).collect()
    }
}

/// What `patient` changes about the released model `start`: a flat vector in the order of its weights.
///
/// Starts at `start` with a fresh optimiser and makes `local_steps` steps on crops of this patient's scans. Crops of
/// labelled scans give cross-entropy and Dice against the labels; crops of the others the same against what the teacher is
/// confident of; all crops agreement with the teacher. The teacher is `start` itself throughout: an average
/// that followed these few steps would hardly leave it, and a fixed one is computed once per crop and cannot
/// confirm what this run has just made up. Where settings make nothing of scans without labels, no crop is cut from these, and a
/// patient who has no others changes nothing.
///
/// # Privacy
/// The result is a function of the arguments alone: of this patient's scans, of the released model, of the plan and of a
/// seed. No other patient, no earlier call and no thread count can change a bit of it (on the CPU), so clipping it bounds
/// what one patient contributes (spec/privacy.md, P1 and P4).
///
/// # Errors
/// If settings, weights, architecture or scans do not fit each other.
pub fn patient_delta(
    device: Device,
    config: VNetConfig,
    start: &Weights,
    patient: &PreparedPatient,
    settings: &LocalTraining,
    seed: u64,
) -> Result<Vec<f32>, TrainError> {
    let patients = Patients { seeds: &[seed], fetch: &|_| Ok(patient.clone()) };
    let mut deltas = patient_deltas(device, config, start, patients, settings, |delta| delta)?;
    Ok(deltas.pop().expect("there is a delta for each patient"))
}

/// [`patient_delta`] for each patient, in their order; on the CPU, several patients at once, and the next one is fetched
/// meanwhile.
///
/// `finish` makes of each delta what is kept of it, as soon as it is there.
///
/// # Errors
/// The first error of any patient.
pub fn patient_deltas<R: Send>(
    device: Device,
    config: VNetConfig,
    start: &Weights,
    patients: Patients<'_>,
    settings: &LocalTraining,
    finish: impl Fn(Vec<f32>) -> R + Sync,
) -> Result<Vec<R>, TrainError> {
    guided_deltas(device, config, start, patients, (settings, &[], &Store::default()), finish)
}

/// [`patient_deltas`] where generalists are asked, if the settings say how.
///
/// # Privacy
/// Generalists are frozen and public. What they say of a patient's scan is a function of that scan and of the released
/// model, which prompts them; embeddings are functions of one scan (spec/privacy.md, P7).
///
/// # Errors
/// The first error of any patient, or if there is nobody to ask.
pub fn guided_deltas<R: Send>(
    device: Device,
    config: VNetConfig,
    start: &Weights,
    patients: Patients<'_>,
    (settings, generalists, store): (&LocalTraining, &[Generalist], &Store),
    finish: impl Fn(Vec<f32>) -> R + Sync,
) -> Result<Vec<R>, TrainError> {
    settings.check()?;
    let guides = Guides::needed(settings.guidance.as_ref(), generalists, store)?;
    config.check()?;
    layout::blank(&config).same_architecture(start).map_err(ModelError::from)?;
    let count = patients.seeds.len();
    let recipe = &Recipe { config, start, settings, guides, finish: &finish, placement: None };
    ahead(1, patients.fetched(config.classes), |patients| {
        if !device.parallel() {
            return device.run(Round { recipe, patients });
        }
        let of_one = |_, patient| device.run(Round { recipe, patients: &mut iter::once(patient) });
        let finished: Result<Vec<_>, TrainError> = parallel::map_next(count, patients, of_one).into_iter().collect();
        Ok(finished?.into_iter().flatten().collect())
    })
}

/// How each patient of a round is trained on.
struct Recipe<'a, R> {
    config: VNetConfig,
    start: &'a Weights,
    settings: &'a LocalTraining,
    guides: Option<Guides<'a>>,
    finish: &'a (dyn Fn(Vec<f32>) -> R + Sync),
    /// Where the runs live, if not where their backend is best.
    placement: Option<Placement>,
}

/// Patients one after another, all from the same start, which is brought to the device once.
struct Round<'a, R> {
    recipe: &'a Recipe<'a, R>,
    patients: &'a mut dyn Iterator<Item = Fetched>,
}

impl<R> Work for Round<'_, R> {
    type Output = Result<Vec<R>, TrainError>;

    fn run<B: TrainBackend>(self, device: &B::Device) -> Self::Output {
        let Recipe { config, start, settings, guides, finish, placement } = self.recipe;
        let optimiser = Optimiser { momentum: settings.momentum, weight_decay: settings.weight_decay };
        let parameters = Parameters::at(start);
        let released = parameters.student.clone();
        let fresh = Trainer::<B>::new(*placement, *config, parameters, optimiser, device)?;
        let of_patient = |fetched: Fetched| {
            let (patient, seed) = fetched?;
            let useful = patient.useful(settings);
            if useful.is_empty() {
                return Ok(finish(vec![0.0; released.len()]));
            }
            let mut trainer = fresh.clone();
            let maps = match guides {
                Some(guides) => maps_of::<B>(&patient, (*config, start), settings, (*guides, seed), device)?,
                None => vec![None; patient.scans.len()],
            };
            let client = Client { patient: &patient, useful: &useful, settings, classes: config.classes, maps: &maps };
            for step in 0..u64::from(settings.local_steps) {
                trainer.step(client.step(&mut generator(seed, "patient", &[step])))?;
            }
            let delta = trainer.student().into_iter().zip(&released).map(|(student, released)| student - released);
            Ok(finish(delta.collect()))
        };
        self.patients.map(of_patient).collect()
    }
}

/// What generalists say of a patient's scans without labels, prompted by what the released model believes.
fn maps_of<B: TrainBackend>(
    patient: &PreparedPatient,
    (config, released): (VNetConfig, &Weights),
    settings: &LocalTraining,
    (guides, seed): (Guides<'_>, u64),
    device: &B::Device,
) -> Result<Vec<Option<Maps>>, TrainError> {
    if patient.sources.len() != patient.scans.len() {
        return Err(TrainError::NoScans("generalists are asked about scans that nobody shows them"));
    }
    let network = VNet::<B::InnerBackend>::new(config, released, device)?;
    let of_scan = |(scan, source): (&Arc<PreparedScan>, &Arc<Source>)| {
        if scan.labels.is_some() {
            return Ok(None);
        }
        let windows = Windows::half_overlapping(settings.patch());
        let softmax = by_network::<B>(&network, &scan.image, windows, device)?;
        Ok(guides.maps(&softmax, &Grid::from(&scan.image), source, (seed, 0))?.target())
    };
    patient.scans.iter().zip(&patient.sources).map(of_scan).collect()
}

/// How often the released model looks before it is said to be certain (UA-MT).
const LOOKS: u64 = 8;

/// One patient, and how it is trained on.
struct Client<'a> {
    patient: &'a PreparedPatient,
    /// The scans that crops are cut from.
    useful: &'a [usize],
    settings: &'a LocalTraining,
    /// Of the student.
    classes: usize,
    /// For each scan, if it has one.
    maps: &'a [Option<Maps>],
}

impl Client<'_> {
    /// Crops, and what generalists say of them, with its weight.
    fn crops(&self, random: &mut ChaCha8Rng) -> Vec<(Crop, Option<(Opinion, f32)>)> {
        let (scans, patch, varied) = (&self.patient.scans, self.settings.patch(), self.settings.augment);
        let crop = |_| {
            let chosen = self.useful[random.random_range(0..self.useful.len())];
            let opinion = self.maps[chosen].as_ref().map(|maps| (maps.opinion(patch, varied, random), maps.weight()));
            (scans[chosen].crop(patch, varied, random), opinion)
        };
        (0..self.settings.batch).map(crop).collect()
    }

    /// How it is told where the released model is certain, as in the first step of UA-MT: the threshold that rises in a long
    /// run stays where it is in a short one.
    fn doubt(&self, batch: &Batch, random: &mut ChaCha8Rng, classes: usize) -> Doubt {
        let look = |_| {
            let mut noisy = batch.clone();
            perturb(&mut noisy.images, self.settings.noise, random);
            (noisy, None)
        };
        Doubt { looks: (0..LOOKS).map(look).collect(), most: 0.75 * (classes as f64).ln() }
    }

    /// A step on crops that are drawn from `random`: the teacher sees them clean, the student with noise.
    fn step(&self, random: &mut ChaCha8Rng) -> Step {
        let (crops, opinions): (Vec<Crop>, Vec<Option<(Opinion, f32)>>) = self.crops(random).into_iter().unzip();
        let heard = mean_weight(opinions.iter().flatten().map(|(_, weight)| *weight));
        let opinions: Vec<Option<Opinion>> = opinions.into_iter().map(|opinion| Some(opinion?.0)).collect();
        let (settings, samples) = (self.settings, crops.len());
        let images = crops.iter().flat_map(|crop| crop.image.iter().copied()).collect();
        let mut batch = Batch { images, samples, patch: settings.patch() };
        let labels: Vec<_> = crops.into_iter().map(|crop| crop.labels).collect();
        let threshold = settings.pseudo_label_threshold;
        let confidence = (threshold < 1.0).then_some(threshold as f32);
        let pseudo_labels = confidence.and_then(|threshold| believed(&labels, &opinions, self.classes, threshold));
        let guess = confidence.filter(|_| pseudo_labels.is_none() && labels.iter().any(Option::is_none));
        let question = (settings.consistency_weight > 0.0 || guess.is_some()).then(|| Question {
            batch: batch.clone(),
            dropout: None,
            confidence: guess,
            doubt: settings.certain.then(|| self.doubt(&batch, random, self.classes)),
        });
        let pseudo_labels = pseudo_labels.unwrap_or_default();
        let generalist = settings.guidance.as_ref().map_or(0.0, |how| how.weight * heard);
        perturb(&mut batch.images, settings.noise, random);
        Step {
            batch,
            targets: Targets { labels, pseudo_labels, opinions, ..Targets::default() },
            question,
            terms: TermWeights { pseudo: 1.0, teacher: settings.consistency_weight, generalist },
            dropout: None,
            learning_rate: settings.learning_rate,
            average: None,
        }
    }
}

/// What generalists and the released model together are confident of, as labels of the crops that have none; none at all
/// where one of these has no opinion, since then the released model is asked about all.
fn believed(
    labels: &[Option<Vec<u8>>],
    opinions: &[Option<Opinion>],
    classes: usize,
    threshold: f32,
) -> Option<Vec<Option<Vec<u8>>>> {
    let of = |(labels, opinion): (&Option<Vec<u8>>, &Option<Opinion>)| match (labels, opinion) {
        (Some(_), _) => Some(None),
        (None, Some(opinion)) => Some(Some(opinion.labels(classes, threshold))),
        (None, None) => None,
    };
    labels.iter().zip(opinions).map(of).collect::<Option<Vec<_>>>().filter(|all| all.iter().any(Option::is_some))
}

#[cfg(test)]
mod tests;
