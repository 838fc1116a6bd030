//! One patient as a virtual client: the unit of work of a federation (spec/privacy.md, section 3.1).

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use semisam_shared::weights::Weights;
use serde::{Deserialize, Serialize};

use super::{
    TrainError,
    crops::{Crop, PreparedScan, perturb},
    generator,
    losses::{Targets, TermWeights},
    parallel,
    step::Batch,
    trainer::{Optimiser, Parameters, Question, Step, Trainer},
};
use crate::{
    device::{Device, Placement, TrainBackend, Work},
    model::{ModelError, VNetConfig, layout},
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
    /// Voxels of unlabelled scans on which the released model is more confident than this are trained on as if labelled;
    /// 1 switches it off.
    pub pseudo_label_threshold: f64,
    /// Standard deviation of the noise on what the student sees; the released model sees the clean crop.
    pub noise: f64,
    /// Whether crops are turned and flipped in the axial plane, and their intensities varied.
    pub augment: bool,
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

    /// The sides of a crop.
    pub fn patch(&self) -> [usize; 3] {
        self.patch.map(|side| side as usize)
    }
}

/// All scans of one patient, prepared. Prints shapes only.
#[derive(Clone, Debug, PartialEq)]
pub struct PreparedPatient {
    /// At least one.
    pub scans: Vec<PreparedScan>,
}

/// What `patient` changes about the released model `start`: a flat vector in the order of its weights.
///
/// Starts at `start` with a fresh optimiser and makes `local_steps` steps on crops of this patient's scans. Crops of
/// labelled scans give cross-entropy and Dice against the labels; crops of the others the same against what the teacher is
/// confident of; all crops agreement with the teacher. The teacher is `start` itself throughout: an average
/// that followed these few steps would hardly leave it, and a fixed one is computed once per crop and cannot
/// confirm what this run has just made up.
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
    let mut deltas = patient_deltas(device, config, start, &[(patient, seed)], settings, || {})?;
    Ok(deltas.pop().expect("there is a delta for each patient"))
}

/// [`patient_delta`] for each patient with its seed; on the CPU, several patients at once.
///
/// `done` is called after each patient.
///
/// # Errors
/// The first error of any patient.
pub fn patient_deltas(
    device: Device,
    config: VNetConfig,
    start: &Weights,
    patients: &[(&PreparedPatient, u64)],
    settings: &LocalTraining,
    done: impl Fn() + Sync,
) -> Result<Vec<Vec<f32>>, TrainError> {
    settings.check()?;
    config.check()?;
    layout::blank(&config).same_architecture(start).map_err(ModelError::from)?;
    for (patient, _) in patients {
        if patient.scans.is_empty() {
            return Err(TrainError::NoScans("a patient has no scan; leave patients without scans out"));
        }
        patient.scans.iter().try_for_each(|scan| scan.check(config.classes))?;
    }
    let round = Round { config, start, patients, settings, done: &done, placement: None };
    if device.parallel() {
        let of_one = |_, patient| device.run(Round { patients: &[patient], ..round });
        let deltas: Result<Vec<_>, TrainError> = parallel::map(patients.to_vec(), of_one).into_iter().collect();
        return Ok(deltas?.into_iter().flatten().collect());
    }
    device.run(round)
}

/// Patients one after another, all from the same start, which is brought to the device once.
#[derive(Clone, Copy)]
struct Round<'a> {
    config: VNetConfig,
    start: &'a Weights,
    patients: &'a [(&'a PreparedPatient, u64)],
    settings: &'a LocalTraining,
    done: &'a (dyn Fn() + Sync),
    /// Where the runs live, if not where their backend is best.
    placement: Option<Placement>,
}

impl Work for Round<'_> {
    type Output = Result<Vec<Vec<f32>>, TrainError>;

    fn run<B: TrainBackend>(self, device: &B::Device) -> Self::Output {
        let Self { config, start, settings, .. } = self;
        let optimiser = Optimiser { momentum: settings.momentum, weight_decay: settings.weight_decay };
        let parameters = Parameters::at(start);
        let released = parameters.student.clone();
        let fresh = Trainer::<B>::new(self.placement, config, parameters, optimiser, device)?;
        let of_patient = |&(patient, seed): &(&PreparedPatient, u64)| {
            let mut trainer = fresh.clone();
            let client = Client { patient, settings };
            for step in 0..u64::from(settings.local_steps) {
                trainer.step(client.step(&mut generator(seed, "patient", &[step])))?;
            }
            (self.done)();
            Ok(trainer.student().iter().zip(&released).map(|(student, released)| student - released).collect())
        };
        self.patients.iter().map(of_patient).collect()
    }
}

/// One patient, and how it is trained on.
struct Client<'a> {
    patient: &'a PreparedPatient,
    settings: &'a LocalTraining,
}

impl Client<'_> {
    fn crops(&self, random: &mut ChaCha8Rng) -> Vec<Crop> {
        let scans = &self.patient.scans;
        let crop = |_| {
            let scan = &scans[random.random_range(0..scans.len())];
            scan.crop(self.settings.patch(), self.settings.augment, random)
        };
        (0..self.settings.batch).map(crop).collect()
    }

    /// A step on crops that are drawn from `random`: the teacher sees them clean, the student with noise.
    fn step(&self, random: &mut ChaCha8Rng) -> Step {
        let crops = self.crops(random);
        let (settings, samples) = (self.settings, crops.len());
        let images = crops.iter().flat_map(|crop| crop.image.iter().copied()).collect();
        let mut batch = Batch { images, samples, patch: settings.patch() };
        let labels: Vec<_> = crops.into_iter().map(|crop| crop.labels).collect();
        let threshold = settings.pseudo_label_threshold;
        let confidence = (threshold < 1.0).then_some(threshold as f32);
        let guess = confidence.is_some() && labels.iter().any(Option::is_none);
        let question = (settings.consistency_weight > 0.0 || guess).then(|| Question {
            batch: batch.clone(),
            dropout: None,
            confidence,
            doubt: None,
        });
        perturb(&mut batch.images, settings.noise, random);
        Step {
            batch,
            targets: Targets { labels, ..Targets::default() },
            question,
            terms: TermWeights { pseudo: 1.0, teacher: settings.consistency_weight, generalist: 0.0 },
            dropout: None,
            learning_rate: settings.learning_rate,
            average: None,
        }
    }
}

#[cfg(test)]
mod tests;
