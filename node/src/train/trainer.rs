//! One optimiser step after another, wherever the run lives: the door that the training loops call.
//!
//! A loop says what a step sees ([`Step`]); a [`Trainer`] holds student, teacher and velocity between the steps. On the
//! CPU they live in the host's memory ([`super::host`]), on CUDA on the device ([`super::resident`]); which it is, is a
//! property of the backend ([`TrainBackend::PLACEMENT`]). A clone is an independent run from the same point.

use semisam_shared::weights::Weights;

use super::{
    TrainError,
    host::Host,
    losses::{Losses, Targets, TermWeights},
    resident::Resident,
    step::Batch,
};
use crate::{
    device::{Placement, TrainBackend},
    model::VNetConfig,
};

/// What a run knows between two steps: flat vectors in the order of the weights.
#[derive(Clone, PartialEq)]
pub struct Parameters {
    /// The student's weights.
    pub student: Vec<f32>,
    /// The teacher's weights.
    pub teacher: Vec<f32>,
    /// The optimiser's velocity.
    pub velocity: Vec<f32>,
}

impl Parameters {
    /// Before the first step: student and teacher are `start`, and nothing moves.
    pub fn at(start: &Weights) -> Self {
        let student = start.to_flat();
        Self { teacher: student.clone(), velocity: vec![0.0; student.len()], student }
    }
}

/// Settings of the optimiser that hold for a whole run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Optimiser {
    /// Share of the velocity that is kept.
    pub momentum: f64,
    /// L2 penalty.
    pub weight_decay: f64,
}

/// One optimiser step; everything in it is made before the step.
#[derive(Clone)]
pub struct Step {
    /// What the student sees.
    pub batch: Batch,
    /// What it is compared with, apart from what the teacher says.
    pub targets: Targets,
    /// What the teacher is asked, if it is.
    pub question: Option<Question>,
    /// Factors of the loss terms.
    pub terms: TermWeights,
    /// Names the draws of the student's dropout; none without.
    pub dropout: Option<u64>,
    /// Step size.
    pub learning_rate: f64,
    /// The number of this step, if the teacher is the student's moving average; else the teacher stays.
    pub average: Option<u64>,
}

/// What the teacher is asked in a step; its opinion becomes a target.
#[derive(Clone)]
pub struct Question {
    /// What it sees: the student's images, as many and of the same size.
    pub batch: Batch,
    /// Names the draws of its dropout; none without.
    pub dropout: Option<u64>,
    /// Voxels on which it is more confident than this are pseudo-labels of samples without labels; none without.
    pub confidence: Option<f32>,
    /// If the teacher only counts where it is certain, how that is told.
    pub doubt: Option<Doubt>,
}

/// How a teacher's certainty is told: it looks several times, each time with other noise (UA-MT; spec/semisam.md, 6.2).
#[derive(Clone)]
pub struct Doubt {
    /// The same images, and the name of the draws of its dropout.
    pub looks: Vec<(Batch, Option<u64>)>,
    /// It is certain where the entropy of its mean opinion is below this, in nats.
    pub most: f64,
}

/// A training run between two steps.
#[derive(Clone)]
pub enum Trainer<B: TrainBackend> {
    /// In the host's memory.
    Host(Host<B>),
    /// On the device.
    Resident(Resident<B>),
}

impl<B: TrainBackend> Trainer<B> {
    /// A run that goes on from `parameters`, at `placement` or where the backend is best.
    ///
    /// # Errors
    /// If the parameters are not as many as `config` has.
    pub fn new(
        placement: Option<Placement>,
        config: VNetConfig,
        parameters: Parameters,
        optimiser: Optimiser,
        device: &B::Device,
    ) -> Result<Self, TrainError> {
        Ok(match placement.unwrap_or(B::PLACEMENT) {
            Placement::Host => Self::Host(Host::new(config, parameters, optimiser, device)?),
            Placement::Resident => Self::Resident(Resident::new(config, parameters, optimiser, device)?),
        })
    }

    /// Makes a step.
    ///
    /// # Errors
    /// If the step's images do not fit the network.
    pub fn step(&mut self, step: Step) -> Result<(), TrainError> {
        match self {
            Self::Host(run) => run.step(step),
            Self::Resident(run) => run.step(&step),
        }
    }

    /// The losses of the last step. A resident run is waited for.
    pub fn losses(&self) -> Losses {
        match self {
            Self::Host(run) => run.losses(),
            Self::Resident(run) => run.losses(),
        }
    }

    /// The student's weights. A resident run is waited for.
    pub fn student(&self) -> Vec<f32> {
        match self {
            Self::Host(run) => run.student().to_vec(),
            Self::Resident(run) => run.student(),
        }
    }

    /// The teacher's weights. A resident run is waited for.
    pub fn teacher(&self) -> Vec<f32> {
        match self {
            Self::Host(run) => run.teacher().to_vec(),
            Self::Resident(run) => run.teacher(),
        }
    }

    /// All that the run knows. A resident run is waited for.
    pub fn parameters(&self) -> Parameters {
        match self {
            Self::Host(run) => run.parameters(),
            Self::Resident(run) => run.parameters(),
        }
    }
}

#[cfg(test)]
mod tests;
