//! Ordinary training at one hospital, without a federation and without privacy noise: for a hospital's own use, and as
//! the yardstick that a federation must beat. The result never leaves the hospital (spec/privacy.md, P15).
//!
//! Batches are drawn from two streams, labelled and unlabelled scans. A run is a function of its settings, its start and its
//! scans: everything drawn in step t comes from generators named by (seed, t), so a saved [`State`] continues exactly
//! where it stopped.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use rand::seq::SliceRandom;
use semisam_shared::weights::{Tensor, Weights, WeightsError};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    TrainError,
    crops::{Crop, PreparedScan, perturb},
    generator,
    losses::{Losses, Targets, TermWeights},
    schedule::{decay, ramp},
    step::Batch,
    trainer::{Optimiser, Parameters, Question, Step, Trainer},
};
use crate::{
    device::{Device, Placement, TrainBackend, Work},
    model::{VNetConfig, layout},
};

/// What unlabelled scans are used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Nothing.
    Supervised,
    /// Agreement with an average of earlier students.
    MeanTeacher,
}

/// The settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalRun {
    /// The student.
    pub config: VNetConfig,
    /// Use of unlabelled scans.
    pub method: Method,
    /// Sides of a crop, multiples of 16.
    pub patch: [usize; 3],
    /// Optimiser steps.
    pub steps: u64,
    /// Labelled crops per step.
    pub labelled: usize,
    /// Unlabelled crops per step, with a teacher.
    pub unlabelled: usize,
    /// First step size; it decays polynomially to zero.
    pub learning_rate: f64,
    /// Of the optimiser.
    pub momentum: f64,
    /// L2 penalty.
    pub weight_decay: f64,
    /// Factor of the agreement with the teacher at the end of its ramp.
    pub consistency_weight: f64,
    /// Standard deviation of the teacher's input noise.
    pub noise: f64,
    /// Whether crops are turned and flipped in the axial plane, and their intensities varied.
    pub augment: bool,
    /// Whether whole channels are dropped, in student and teacher.
    pub dropout: bool,
    /// Names all draws.
    pub seed: u64,
}

impl LocalRun {
    /// The recipe of SemiSAM for `config`, with one labelled and one unlabelled crop per step.
    pub fn new(config: VNetConfig, method: Method, patch: [usize; 3], steps: u64, seed: u64) -> Self {
        Self {
            config,
            method,
            patch,
            steps,
            labelled: 1,
            unlabelled: 1,
            learning_rate: 0.01,
            momentum: 0.9,
            weight_decay: 1e-4,
            consistency_weight: 0.1,
            noise: 0.1,
            augment: false,
            dropout: false,
            seed,
        }
    }
}

/// What a run knows between two steps.
#[derive(Clone, PartialEq)]
pub struct State {
    /// Steps done.
    pub step: u64,
    parameters: Parameters,
    /// Digest of the settings.
    run: [u8; 32],
}

/// Why a saved state cannot be continued.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file is no state.
    #[error("the saved state is damaged or of another program; delete it to start anew")]
    Damaged,
    /// Not safetensors.
    #[error(transparent)]
    Format(#[from] WeightsError),
    /// Saved with other settings.
    #[error(
        "the saved state belongs to a run with other settings; give the same settings to continue it, or delete it to start anew"
    )]
    Settings,
}

/// Word of a step. What lives on a device is read only when it is asked for, and then the device is waited for.
#[derive(Clone, Copy)]
pub struct Report<'a> {
    /// Steps done.
    pub step: u64,
    /// Since this start of the program.
    pub seconds: f64,
    losses: &'a dyn Fn() -> Losses,
    state: &'a dyn Fn() -> State,
}

impl Report<'_> {
    /// Losses of the last step.
    pub fn losses(&self) -> Losses {
        (self.losses)()
    }

    /// What the run knows after it.
    pub fn state(&self) -> State {
        (self.state)()
    }
}

impl State {
    /// Before the first step.
    pub fn new(run: &LocalRun, start: &Weights) -> Self {
        Self { step: 0, parameters: Parameters::at(start), run: digest(run) }
    }

    /// The student's weights.
    pub fn student(&self, run: &LocalRun) -> Weights {
        layout::blank(&run.config)
            .with_flat(&self.parameters.student)
            .expect("a state is made for its run's architecture")
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// If they cannot be made.
    pub fn to_bytes(&self) -> Result<Vec<u8>, StateError> {
        let step = self.step.to_le_bytes().map(f32::from).to_vec();
        let run = self.run.map(f32::from).to_vec();
        let parts = [
            ("run", run),
            ("step", step),
            ("student", self.parameters.student.clone()),
            ("teacher", self.parameters.teacher.clone()),
            ("velocity", self.parameters.velocity.clone()),
        ];
        let tensors = parts.map(|(name, values)| (name.to_owned(), Tensor { shape: vec![values.len()], values }));
        Ok(Weights::new(tensors)?.to_safetensors()?)
    }

    /// Reads a file of [`State::to_bytes`].
    ///
    /// # Errors
    /// If the bytes are no state, or of a run with other settings.
    pub fn from_bytes(bytes: &[u8], run: &LocalRun) -> Result<Self, StateError> {
        let file = Weights::from_safetensors(bytes)?;
        let part = |name: &str| file.get(name).map(|tensor| tensor.values.clone()).ok_or(StateError::Damaged);
        let numbers = |name: &str| Ok::<Vec<u8>, StateError>(part(name)?.into_iter().map(|v| v as u8).collect());
        let saved: [u8; 32] = numbers("run")?.try_into().map_err(|_| StateError::Damaged)?;
        if saved != digest(run) {
            return Err(StateError::Settings);
        }
        let step = u64::from_le_bytes(numbers("step")?.try_into().map_err(|_| StateError::Damaged)?);
        let parameters =
            Parameters { student: part("student")?, teacher: part("teacher")?, velocity: part("velocity")? };
        let Parameters { student, teacher, velocity } = &parameters;
        let count = layout::blank(&run.config).count();
        let fits = [student, teacher, velocity].iter().all(|part| part.len() == count);
        if fits && step <= run.steps { Ok(Self { step, parameters, run: saved }) } else { Err(StateError::Damaged) }
    }
}

fn digest(run: &LocalRun) -> [u8; 32] {
    Sha256::digest(serde_json::to_vec(run).expect("settings are plain numbers and names")).into()
}

/// Trains from `state` to the end of the run, or until `cancel` is set, and gives the state reached.
///
/// `each` is called after every step.
///
/// # Errors
/// If there is no labelled scan, or settings, scans and architecture do not fit each other.
pub fn train(
    device: Device,
    run: &LocalRun,
    state: State,
    (labelled, unlabelled): (&[PreparedScan], &[PreparedScan]),
    cancel: &AtomicBool,
    each: &mut dyn FnMut(&Report<'_>),
) -> Result<State, TrainError> {
    if labelled.is_empty() {
        return Err(TrainError::NoScans("no scan has labels; training needs at least one labelled scan"));
    }
    labelled.iter().chain(unlabelled).try_for_each(|scan| scan.check(run.config.classes))?;
    if run.labelled == 0 {
        let must = "at least one, since labels are what anchors the student";
        return Err(TrainError::Setting { name: "labelled", value: "0".to_owned(), must });
    }
    device.run(Training { run, state, labelled, unlabelled, cancel, each, placement: None })
}

struct Training<'a> {
    run: &'a LocalRun,
    state: State,
    labelled: &'a [PreparedScan],
    unlabelled: &'a [PreparedScan],
    cancel: &'a AtomicBool,
    each: &'a mut dyn FnMut(&Report<'_>),
    /// Where the run lives, if not where its backend is best.
    placement: Option<Placement>,
}

impl Work for Training<'_> {
    type Output = Result<State, TrainError>;

    fn run<B: TrainBackend>(mut self, device: &B::Device) -> Self::Output {
        let (run, start) = (self.run, Instant::now());
        let optimiser = Optimiser { momentum: run.momentum, weight_decay: run.weight_decay };
        let parameters = self.state.parameters.clone();
        let mut trainer = Trainer::<B>::new(self.placement, run.config, parameters, optimiser, device)?;
        while self.state.step < run.steps && !self.cancel.load(Ordering::Relaxed) {
            trainer.step(self.step())?;
            self.state.step += 1;
            let step = self.state.step;
            let state = || State { step, parameters: trainer.parameters(), run: self.state.run };
            let seconds = start.elapsed().as_secs_f64();
            (self.each)(&Report { step, seconds, losses: &|| trainer.losses(), state: &state });
        }
        Ok(State { parameters: trainer.parameters(), ..self.state })
    }
}

impl Training<'_> {
    /// The next step: labelled crops first, then unlabelled ones, and the same with noise for the teacher.
    fn step(&self) -> Step {
        let (run, step) = (self.run, self.state.step);
        let guided = run.method == Method::MeanTeacher;
        let mut crops = self.crops("labelled", self.labelled, run.labelled);
        if guided && !self.unlabelled.is_empty() {
            let unlabelled = self.crops("unlabelled", self.unlabelled, run.unlabelled);
            crops.extend(unlabelled.into_iter().map(|crop| Crop { labels: None, ..crop }));
        }
        let images = crops.iter().flat_map(|crop| crop.image.iter().copied()).collect();
        let batch = Batch { images, samples: crops.len(), patch: run.patch };
        let labels = crops.into_iter().map(|crop| crop.labels).collect();
        let question = guided.then(|| {
            let mut noisy = batch.clone();
            perturb(&mut noisy.images, run.noise, &mut generator(run.seed, "teacher noise", &[step]));
            let dropout = run.dropout.then(|| run.seed ^ (2 * step));
            Question { batch: noisy, dropout, confidence: None, doubt: None }
        });
        let teacher = run.consistency_weight * ramp(step, run.steps);
        Step {
            batch,
            targets: Targets { labels, ..Targets::default() },
            question,
            terms: TermWeights { teacher, ..TermWeights::default() },
            dropout: run.dropout.then(|| run.seed ^ (2 * step + 1)),
            learning_rate: run.learning_rate * decay(step, run.steps),
            average: Some(step),
        }
    }

    /// `count` crops of a stream of scans that is shuffled anew each time it has gone through.
    fn crops(&self, stream: &str, scans: &[PreparedScan], count: usize) -> Vec<Crop> {
        let run = self.run;
        let crop = |at: u64| {
            let (epoch, position) = (at / scans.len() as u64, at % scans.len() as u64);
            let mut order: Vec<usize> = (0..scans.len()).collect();
            order.shuffle(&mut generator(run.seed, stream, &[epoch]));
            let mut random = generator(run.seed, stream, &[epoch, position, 0]);
            scans[order[position as usize]].crop(run.patch, run.augment, &mut random)
        };
        let first = self.state.step * count as u64;
        (first..first + count as u64).map(crop).collect()
    }
}

#[cfg(test)]
mod tests;
