//! Ordinary training at one hospital, without a federation and without privacy noise: for a hospital's own use, and as
//! the yardstick that a federation must beat. The result never leaves the hospital (spec/privacy.md, P15).
//!
//! Batches are drawn from two streams, labelled and unlabelled scans. A run is a function of its settings, its start and its
//! scans: everything drawn in step t comes from generators named by (seed, t), so a saved [`State`] continues exactly
//! where it stopped. Steps are made on a thread of their own ([`steps`], [`super::prefetch`]) while the one before is computed; what
//! generalists have to say of them ([`advice`]) is added when it is their turn.

mod advice;
mod steps;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use semisam_shared::{
    ids,
    weights::{Tensor, Weights, WeightsError},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::{
    advice::{Adviser, Kept},
    steps::Steps,
};
use super::{
    TrainError,
    guidance::{Guidance, Guides},
    losses::Losses,
    prefetch::ahead,
    rounds::{PseudoLabels, Round},
    scans::ScanSet,
    trainer::{Optimiser, Parameters, Trainer},
};
use crate::{
    data::classes::ClassMap,
    device::{Device, Placement, TrainBackend, Work},
    generalist::{Generalist, store::Store},
    model::{VNetConfig, layout},
};

/// Steps that lie ready. Enough to bridge the scans that are read from disk once in a while.
const AHEAD: usize = 4;

/// What unlabelled scans are used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Nothing.
    Supervised,
    /// Agreement with an average of earlier students.
    MeanTeacher,
    /// The same, where that average is certain.
    UaMt,
    /// Mean teacher, and agreement with a generalist that is prompted with what the teacher believes.
    Semisam,
    /// UA-MT, and agreement with several generalists or sets of prompts, as far as they can be trusted.
    SemisamPlus,
    /// Mean teacher on pseudo-labels that are made offline, round after round: first from prototypes in a generalist's
    /// embeddings, or by the start if it knows better, then by the student and by votes of similar scans.
    SemisamO1,
}

impl Method {
    /// Whether unlabelled scans are used, and so a teacher.
    pub fn has_teacher(self) -> bool {
        self != Self::Supervised
    }

    /// Whether the teacher counts only where it is certain.
    pub fn counts_certainty(self) -> bool {
        matches!(self, Self::UaMt | Self::SemisamPlus)
    }

    /// How generalists are asked, if they are.
    pub fn guidance(self) -> Option<Guidance> {
        match self {
            Self::Supervised | Self::MeanTeacher | Self::UaMt | Self::SemisamO1 => None,
            Self::Semisam => Some(Guidance::semisam()),
            Self::SemisamPlus => Some(Guidance::semisam_plus()),
        }
    }
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
    /// How generalists are asked, if they are.
    pub guidance: Option<Guidance>,
    /// Who they are.
    pub generalists: Vec<ids::Digest>,
    /// For SemiSAM-O1, which round this is.
    pub round: Option<Round>,
    /// What classes were made of, if not of themselves. States of runs without a map have no such field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<ClassMap>,
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
            guidance: method.guidance(),
            generalists: Vec::new(),
            round: None,
            classes: None,
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
    /// What generalists said of scans.
    maps: Kept,
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
    /// Since the training was started or continued.
    pub seconds: f64,
    /// How many of these seconds steps were waited for, because they were not ready.
    pub waited: f64,
    /// How many of these seconds went to generalists.
    pub asked: f64,
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
        Self { step: 0, parameters: Parameters::at(start), maps: Kept::new(), run: digest(run) }
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
        Ok(Weights::new(tensors.into_iter().chain(advice::to_tensors(&self.maps)))?.to_safetensors()?)
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
        let maps = advice::from_tensors(file.iter(), run.config.classes).ok_or(StateError::Damaged)?;
        if fits && step <= run.steps {
            Ok(Self { step, parameters, maps, run: saved })
        } else {
            Err(StateError::Damaged)
        }
    }
}

fn digest(run: &LocalRun) -> [u8; 32] {
    Sha256::digest(serde_json::to_vec(run).expect("settings are plain numbers and names")).into()
}

/// [`train_guided`] by nobody, for methods that need no generalist.
///
/// # Errors
/// If there is no labelled scan, or settings, scans and architecture do not fit each other.
pub fn train(
    device: Device,
    run: &LocalRun,
    state: State,
    scans: &ScanSet,
    cancel: &AtomicBool,
    each: &mut dyn FnMut(&Report<'_>),
) -> Result<State, TrainError> {
    train_guided(device, run, state, scans, Aid::default(), cancel, each)
}

/// What a run is helped by on scans without labels.
#[derive(Clone, Copy, Debug)]
pub struct Aid<'a> {
    /// Frozen networks, for the methods that ask them.
    pub generalists: &'a [Generalist],
    /// Their embeddings.
    pub store: &'a Store,
    /// Pseudo-labels, for the run of a round.
    pub pseudo_labels: &'a PseudoLabels,
}

impl Default for Aid<'_> {
    /// Nothing.
    fn default() -> Self {
        static NOTHING: (Store, PseudoLabels) = (Store::NONE, PseudoLabels::NONE);
        Self { generalists: &[], store: &NOTHING.0, pseudo_labels: &NOTHING.1 }
    }
}

/// Trains on `scans` from `state` to the end of the run, or until `cancel` is set, and gives the state reached.
///
/// Generalists are asked only about scans without labels, and only if the run says how; pseudo-labels are those that the run
/// names.
/// `each` is called after every step.
///
/// # Errors
/// If there is no labelled scan, settings, scans and architecture do not fit each other, or a generalist is missing.
pub fn train_guided(
    device: Device,
    run: &LocalRun,
    state: State,
    scans: &ScanSet,
    aid: Aid<'_>,
    cancel: &AtomicBool,
    each: &mut dyn FnMut(&Report<'_>),
) -> Result<State, TrainError> {
    if scans.positions(true).is_empty() {
        return Err(TrainError::NoScans("no scan has labels; training needs at least one labelled scan"));
    }
    scans.check(run.config.classes)?;
    if run.labelled == 0 {
        let must = "at least one, since labels are what anchors the student";
        return Err(TrainError::Setting { name: "labelled", value: "0".to_owned(), must });
    }
    let guides = Guides::needed(run.guidance.as_ref(), aid.generalists, aid.store)?;
    let found = run.round.map(|_| aid.pseudo_labels.digest());
    if run.round.map(|round| round.labels) != found || run.round.is_some() != (run.method == Method::SemisamO1) {
        let must = "the round whose pseudo-labels are given, for the method semisam-o1 alone";
        return Err(TrainError::Setting { name: "round", value: format!("{:?}", run.round), must });
    }
    let pseudo_labels = aid.pseudo_labels;
    device.run(Training { run, state, scans, guides, pseudo_labels, cancel, each, placement: None })
}

struct Training<'a> {
    run: &'a LocalRun,
    state: State,
    scans: &'a ScanSet,
    guides: Option<Guides<'a>>,
    pseudo_labels: &'a PseudoLabels,
    cancel: &'a AtomicBool,
    each: &'a mut dyn FnMut(&Report<'_>),
    /// Where the run lives, if not where its backend is best.
    placement: Option<Placement>,
}

impl Work for Training<'_> {
    type Output = Result<State, TrainError>;

    fn run<B: TrainBackend>(self, device: &B::Device) -> Self::Output {
        let Self { run, mut state, scans, guides, pseudo_labels, cancel, each, placement } = self;
        let optimiser = Optimiser { momentum: run.momentum, weight_decay: run.weight_decay };
        let mut trainer = Trainer::<B>::new(placement, run.config, state.parameters.clone(), optimiser, device)?;
        let made = Steps::new(run, scans);
        let mut adviser = guides.map(|guides| Adviser::new(run, scans, guides));
        let (start, mut asked) = (Instant::now(), 0.0);
        let step_ahead = (state.step..run.steps).map(|number| made.step(number));
        ahead(AHEAD, step_ahead, |steps| {
            while !cancel.load(Ordering::Relaxed)
                && let Some(step) = steps.next()
            {
                let mut step = step?;
                advice::label(run, &mut step, made.unlabelled(state.step), pseudo_labels);
                if let Some(adviser) = &mut adviser {
                    let before = Instant::now();
                    adviser.advise((state.step, &mut step), &made, &mut state.maps, &trainer, device)?;
                    asked += before.elapsed().as_secs_f64();
                }
                trainer.step(step)?;
                state.step += 1;
                let reached = || State {
                    step: state.step,
                    parameters: trainer.parameters(),
                    maps: state.maps.clone(),
                    run: state.run,
                };
                let (seconds, waited) = (start.elapsed().as_secs_f64(), steps.waited().as_secs_f64());
                let losses = || trainer.losses();
                each(&Report { step: state.step, seconds, waited, asked, losses: &losses, state: &reached });
            }
            Ok(State { parameters: trainer.parameters(), ..state })
        })
    }
}

#[cfg(test)]
mod tests;
