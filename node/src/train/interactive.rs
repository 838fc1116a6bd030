//! Training of a small promptable generalist by simulated interaction (spec/semisam.md, sections 5.5 and 13).
//!
//! In reading order: [`example`] (a volume, an object, prompts), [`corruption`] (what a student might think), [`losses`],
//! [`gradient`] (prompts, answer, corrections), [`state`] (what is saved), [`calibration`] (how sure the result may be).
//! Volumes come from a stream of synthetic scans; nobody's data is touched. A run is a function of its settings and that
//! stream: everything drawn in step t comes from generators named by (seed, t), gradients are added in the order of the
//! examples, so a saved [`State`] continues exactly where it stopped. The result is a moving average of the weights.

pub mod calibration;
pub mod corruption;
pub mod example;
pub mod gradient;
pub mod losses;
pub mod state;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use state::{State, StateError};

use self::{
    example::Example,
    gradient::{ExampleLosses, gradient},
};
use super::{
    crops::{Crop, PreparedScan},
    generator, parallel,
    pretrain::Synthesise,
    schedule::decay,
};
use crate::{
    data::patch::Augmentation,
    device::{Device, TrainBackend, Work},
    model::prompt_unet::{PromptUNet, PromptUNetConfig, PromptUNetError, SIDES, layout, prompt::PromptError},
};

/// How much of itself the average of the weights keeps, at most.
const KEPT: f64 = 0.998;

/// The settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InteractiveRun {
    /// The network.
    pub config: PromptUNetConfig,
    /// Names the stream of scans; with other scans a saved state is another run's.
    pub stream: String,
    /// Sides of a training volume, multiples of 8.
    pub patch: [usize; 3],
    /// Optimiser steps.
    pub steps: u64,
    /// Examples per step.
    pub batch: u64,
    /// Scans that are held at once, to be drawn from in turn.
    pub pool: u64,
    /// How often a scan is used before it is replaced.
    pub visits: u64,
    /// Largest step size: reached after `warmup` steps, it decays polynomially to zero.
    pub learning_rate: f64,
    /// Steps until then.
    pub warmup: u64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Whether volumes are turned and flipped in the axial plane, so that the network does not care how scans are stored.
    pub turned: bool,
    /// Names the first weights and all draws.
    pub seed: u64,
}

impl InteractiveRun {
    /// A run of `steps` steps on the scans that `stream` names.
    pub fn new(config: PromptUNetConfig, stream: String, patch: [usize; 3], steps: u64, seed: u64) -> Self {
        let (batch, pool, visits) = (2, 24, 4);
        let (learning_rate, warmup, weight_decay, turned) = (2e-3, 50, 1e-2, true);
        Self { config, stream, patch, steps, batch, pool, visits, learning_rate, warmup, weight_decay, turned, seed }
    }

    /// Refuses settings that make no sense.
    ///
    /// # Errors
    /// Names the setting.
    pub fn check(&self) -> Result<(), InteractiveError> {
        self.config.check()?;
        if self.patch.iter().any(|side| *side == 0 || !side.is_multiple_of(SIDES)) {
            return Err(PromptUNetError::Side(self.patch).into());
        }
        for (name, value) in
            [("steps", self.steps), ("batch", self.batch), ("pool", self.pool), ("visits", self.visits)]
        {
            if value == 0 {
                return Err(InteractiveError::Zero(name));
            }
        }
        Ok(())
    }

    /// A volume of a scan, varied.
    pub(super) fn crop(&self, scan: &PreparedScan, random: &mut ChaCha8Rng) -> Crop {
        let varied = Augmentation::default();
        let how = if self.turned { varied } else { Augmentation { flip: 0.0, turn: 0.0, ..varied } };
        scan.crop_as(self.patch, Some(&how), random)
    }

    fn rate(&self, step: u64) -> f64 {
        let warm = ((step + 1) as f64 / (self.warmup + 1) as f64).min(1.0);
        self.learning_rate * warm * decay(step, self.steps)
    }
}

/// Why a promptable network cannot be trained or used.
#[derive(Debug, thiserror::Error)]
pub enum InteractiveError {
    /// The network, or an input that does not fit it.
    #[error(transparent)]
    Network(#[from] PromptUNetError),
    /// A prompt.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// A setting that makes no sense.
    #[error("the setting `{0}` is 0, but must be at least 1")]
    Zero(&'static str),
    /// A stream in which nothing can be asked for.
    #[error(
        "{scans} synthetic scans in a row hold no labelled object of at least 24 voxels within the training volume: choose larger volumes, or a recipe with larger objects"
    )]
    Nothing {
        /// How many were looked at.
        scans: u64,
    },
}

/// Word of a step.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Steps done.
    pub step: u64,
    /// Since this start of the program.
    pub elapsed: Duration,
    /// Of the step's examples.
    pub losses: &'a [ExampleLosses],
    /// What the run knows after it.
    pub state: &'a State,
}

/// Trains from `state` to the end of the run, or until `cancel` is set, and gives the state reached. `each` is called after
/// every step.
///
/// # Errors
/// If settings, scans and architecture do not fit each other.
pub fn train(
    device: Device,
    run: &InteractiveRun,
    state: State,
    synthesise: Synthesise<'_>,
    cancel: &AtomicBool,
    each: &mut dyn FnMut(Report<'_>),
) -> Result<State, InteractiveError> {
    run.check()?;
    device.run(Training { run, state, synthesise, cancel, each })
}

struct Training<'a> {
    run: &'a InteractiveRun,
    state: State,
    synthesise: Synthesise<'a>,
    cancel: &'a AtomicBool,
    each: &'a mut dyn FnMut(Report<'_>),
}

impl Work for Training<'_> {
    type Output = Result<State, InteractiveError>;

    fn run<B: TrainBackend>(self, device: &B::Device) -> Self::Output {
        let Self { run, mut state, synthesise, cancel, each } = self;
        let (start, shapes) = (Instant::now(), layout::shapes(&run.config));
        let mut stream = Stream { run, synthesise, epoch: None, scans: Vec::new(), order: Vec::new() };
        while state.step < run.steps && !cancel.load(Ordering::Relaxed) {
            let network = PromptUNet::of_values(run.config, &shapes, &state.weights, device);
            let (losses, gradient) = step::<B>(&mut stream, state.step, &network, device)?;
            let rate = run.rate(state.step);
            state.adam.step(&mut state.weights, &gradient, state.step, rate, run.weight_decay);
            let kept = (1.0 - 1.0 / (state.step as f64 + 1.0)).min(KEPT) as f32;
            let pairs = state.average.iter_mut().zip(&state.weights);
            pairs.for_each(|(average, weight)| *average = kept * *average + (1.0 - kept) * weight);
            state.step += 1;
            each(Report { step: state.step, elapsed: start.elapsed(), losses: &losses, state: &state });
        }
        Ok(state)
    }
}

/// Losses of a step's examples, and the mean of their gradients.
fn step<B: TrainBackend>(
    stream: &mut Stream<'_>,
    step: u64,
    network: &PromptUNet<B::InnerBackend>,
    device: &B::Device,
) -> Result<(Vec<ExampleLosses>, Vec<f32>), InteractiveError> {
    let run = stream.run;
    let examples = (0..run.batch).map(|of| stream.example(step * run.batch + of)).collect::<Result<Vec<_>, _>>()?;
    let of_example = |number: usize, example: Example| {
        let mut random = generator(run.seed, "interaction", &[step, number as u64]);
        gradient::<B>(network, &example, &mut random, device)
    };
    let (mut losses, mut sum) = (Vec::new(), Vec::new());
    for found in parallel::map(examples, of_example) {
        let (of_example, gradient) = found?;
        losses.push(of_example);
        sum.resize(gradient.len(), 0.0);
        sum.iter_mut().zip(gradient).for_each(|(sum, value)| *sum += value / run.batch as f32);
    }
    Ok((losses, sum))
}

/// Synthetic scans in pools: each is used a few times, in an order that is drawn anew for every pool.
struct Stream<'a> {
    run: &'a InteractiveRun,
    synthesise: Synthesise<'a>,
    epoch: Option<u64>,
    scans: Vec<PreparedScan>,
    order: Vec<usize>,
}

impl Stream<'_> {
    /// The example of this number. A scan in which nothing can be asked for is passed over for the next of its pool.
    fn example(&mut self, number: u64) -> Result<Example, InteractiveError> {
        let run = self.run;
        let (epoch, position) = (number / (run.pool * run.visits), (number % (run.pool * run.visits)) as usize);
        if self.epoch != Some(epoch) {
            let numbers: Vec<u64> = (epoch * run.pool..(epoch + 1) * run.pool).collect();
            self.scans = numbers.into_par_iter().map(self.synthesise).collect();
            self.order = (0..self.scans.len() * run.visits as usize).map(|at| at % self.scans.len()).collect();
            self.order.shuffle(&mut generator(run.seed, "order", &[epoch]));
            self.epoch = Some(epoch);
        }
        let mut random = generator(run.seed, "example", &[number]);
        for further in 0..self.scans.len() {
            let scan = &self.scans[(self.order[position] + further) % self.scans.len()];
            let crop = run.crop(scan, &mut random);
            if let Some(example) = Example::of(crop, run.patch, &mut random) {
                return Ok(example);
            }
        }
        Err(InteractiveError::Nothing { scans: run.pool })
    }
}

#[cfg(test)]
mod tests;
