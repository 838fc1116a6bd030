//! Pre-training on an endless stream: every step sees volumes that were never seen before.
//!
//! A fixed pool of volumes is learnt by heart after some hundred steps; a stream cannot be. A run is a function of its
//! settings and its source, so a saved [`Progress`] continues exactly where it stopped. The volumes of the next
//! steps are made while a step runs.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use rayon::prelude::*;
use semisam_shared::weights::{Tensor, Weights, WeightsError};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{AHEAD, Synthesise, labelled_step};
use crate::{
    device::{Device, TrainBackend, Work},
    model::{VNetConfig, layout},
    train::{
        TrainError, generator,
        losses::Losses,
        prefetch::ahead,
        schedule::decay,
        trainer::{Optimiser, Parameters, Step, Trainer},
    },
};

/// The settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Endless {
    /// The student.
    pub config: VNetConfig,
    /// Optimiser steps.
    pub steps: u64,
    /// Crops per step, each of a volume of its own.
    pub batch: u64,
    /// Sides of a crop, multiples of 16.
    pub patch: [usize; 3],
    /// First step size; it decays polynomially to zero.
    pub learning_rate: f64,
    /// Names all draws.
    pub seed: u64,
    /// What says which volumes there are: a run on other ones is another run.
    pub source: String,
}

/// What a run knows between two steps.
#[derive(Clone, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    parameters: Parameters,
    /// Digest of the settings.
    run: [u8; 32],
}

/// Why a saved state cannot be continued.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// The file is no state.
    #[error("the saved state is damaged or of another program; delete it to start anew")]
    Damaged,
    /// Saved with other settings.
    #[error(
        "the saved state belongs to a run with another recipe or other settings; give the same to continue it, or delete it to start anew"
    )]
    Settings,
}

/// Word of a step. What lives on a device is read only when it is asked for.
#[derive(Clone, Copy)]
pub struct Report<'a> {
    /// Steps done.
    pub step: u64,
    /// Since this start of the program.
    pub seconds: f64,
    losses: &'a dyn Fn() -> Losses,
    progress: &'a dyn Fn() -> Progress,
}

impl Report<'_> {
    /// Losses of the last step.
    pub fn losses(&self) -> Losses {
        (self.losses)()
    }

    /// What the run knows after it.
    pub fn progress(&self) -> Progress {
        (self.progress)()
    }
}

impl Progress {
    /// Before the first step.
    pub fn new(run: &Endless, start: &Weights) -> Self {
        Self { step: 0, parameters: Parameters::at(start), run: digest(run) }
    }

    /// The student's weights.
    pub fn student(&self, run: &Endless) -> Weights {
        layout::blank(&run.config)
            .with_flat(&self.parameters.student)
            .expect("progress is made for its run's architecture")
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// If they cannot be made.
    pub fn to_bytes(&self) -> Result<Vec<u8>, WeightsError> {
        let parts = [
            ("run", self.run.map(f32::from).to_vec()),
            ("step", self.step.to_le_bytes().map(f32::from).to_vec()),
            ("student", self.parameters.student.clone()),
            ("velocity", self.parameters.velocity.clone()),
        ];
        let tensors = parts.map(|(name, values)| (name.to_owned(), Tensor { shape: vec![values.len()], values }));
        Weights::new(tensors)?.to_safetensors()
    }

    /// Reads a file of [`Progress::to_bytes`].
    ///
    /// # Errors
    /// If the bytes are no state, or of a run with other settings.
    pub fn from_bytes(bytes: &[u8], run: &Endless) -> Result<Self, SavedError> {
        let file = Weights::from_safetensors(bytes).map_err(|_| SavedError::Damaged)?;
        let part = |name: &str| file.get(name).map(|tensor| tensor.values.clone()).ok_or(SavedError::Damaged);
        let numbers = |name: &str| Ok::<Vec<u8>, SavedError>(part(name)?.into_iter().map(|v| v as u8).collect());
        let saved: [u8; 32] = numbers("run")?.try_into().map_err(|_| SavedError::Damaged)?;
        if saved != digest(run) {
            return Err(SavedError::Settings);
        }
        let step = u64::from_le_bytes(numbers("step")?.try_into().map_err(|_| SavedError::Damaged)?);
        let (student, velocity) = (part("student")?, part("velocity")?);
        let count = layout::blank(&run.config).count();
        if student.len() != count || velocity.len() != count || step > run.steps {
            return Err(SavedError::Damaged);
        }
        // Nobody asks the teacher.
        let parameters = Parameters { teacher: student.clone(), student, velocity };
        Ok(Self { step, parameters, run: saved })
    }
}

fn digest(run: &Endless) -> [u8; 32] {
    Sha256::digest(serde_json::to_vec(run).expect("settings are plain numbers and names")).into()
}

/// Trains from `progress` to the end of the run, or until `cancel` is set, and gives the progress reached. `each` is
/// called after every step.
///
/// # Errors
/// If settings, volumes and architecture do not fit each other.
pub fn train(
    device: Device,
    run: &Endless,
    progress: Progress,
    synthesise: Synthesise<'_>,
    cancel: &AtomicBool,
    each: &mut dyn FnMut(&Report<'_>),
) -> Result<Progress, TrainError> {
    run.config.check()?;
    if run.batch == 0 {
        return Err(TrainError::NoScans("pre-training needs at least one crop per step"));
    }
    device.run(Streaming { run, progress, synthesise, cancel, each })
}

struct Streaming<'a> {
    run: &'a Endless,
    progress: Progress,
    synthesise: Synthesise<'a>,
    cancel: &'a AtomicBool,
    each: &'a mut dyn FnMut(&Report<'_>),
}

impl Work for Streaming<'_> {
    type Output = Result<Progress, TrainError>;

    fn run<B: TrainBackend>(mut self, device: &B::Device) -> Self::Output {
        let (run, start) = (self.run, Instant::now());
        let optimiser = Optimiser { momentum: 0.9, weight_decay: 1e-4 };
        let mut trainer = Trainer::<B>::new(None, run.config, self.progress.parameters.clone(), optimiser, device)?;
        let first = self.progress.step;
        ahead(AHEAD, (first..run.steps).map(|number| step(run, self.synthesise, number)), |steps| {
            while !self.cancel.load(Ordering::Relaxed)
                && let Some(step) = steps.next()
            {
                trainer.step(step?)?;
                self.progress.step += 1;
                let step = self.progress.step;
                let progress = || Progress { step, parameters: trainer.parameters(), run: self.progress.run };
                let seconds = start.elapsed().as_secs_f64();
                (self.each)(&Report { step, seconds, losses: &|| trainer.losses(), progress: &progress });
            }
            Ok::<_, TrainError>(())
        })?;
        Ok(Progress { parameters: trainer.parameters(), ..self.progress })
    }
}

/// The step of a number, counted from 0, on volumes that no other step sees.
fn step(run: &Endless, synthesise: Synthesise<'_>, number: u64) -> Result<Step, TrainError> {
    let crops = (0..run.batch).into_par_iter().map(|crop| {
        let scan = synthesise(number * run.batch + crop);
        scan.check(run.config.classes)?;
        Ok(scan.crop(run.patch, false, &mut generator(run.seed, "endless pretraining", &[number, crop])))
    });
    let crops = crops.collect::<Result<Vec<_>, TrainError>>()?;
    Ok(labelled_step(crops, run.patch, run.learning_rate * decay(number, run.steps)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::{data::volume::Volume, train::crops::PreparedScan, train::normal};

    fn synthesise(number: u64) -> PreparedScan {
        let affine = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
        let mut random = generator(number, "test volume", &[]);
        let labels: Vec<u8> = (0..4096).map(|at| u8::from((4..12).contains(&(at / 256)) && at % 16 > 7)).collect();
        let image = labels.iter().map(|label| 1.5 * f32::from(*label) + 0.5 * normal(&mut random)).collect();
        let labels = Some(Volume { shape: [16; 3], affine, values: labels });
        PreparedScan { image: Volume { shape: [16; 3], affine, values: image }, labels }
    }

    fn run() -> Endless {
        let config = VNetConfig::binary(2);
        Endless { config, steps: 8, batch: 2, patch: [16; 3], learning_rate: 0.05, seed: 3, source: "test".into() }
    }

    #[test]
    fn every_volume_is_seen_once_and_the_loss_falls() {
        let run = Endless { steps: 20, ..run() };
        let seen = AtomicUsize::new(0);
        let counted = |number: u64| {
            seen.fetch_add(1 << number, Ordering::Relaxed);
            synthesise(number)
        };
        let (start, mut losses) = (Progress::new(&run, &layout::initial(&run.config, 3)), Vec::new());
        let never = AtomicBool::new(false);
        train(Device::Cpu, &run, start, &counted, &never, &mut |report| losses.push(report.losses().total))
            .expect("they fit");
        assert_eq!(seen.into_inner(), (1 << 40) - 1);
        assert!(losses[19] < 0.8 * losses[0], "{} to {}", losses[0], losses[19]);
    }

    #[test]
    fn a_stopped_run_goes_on_to_the_same_bits() {
        let (run, never) = (run(), AtomicBool::new(false));
        let start = || Progress::new(&run, &layout::initial(&run.config, 3));
        let whole = train(Device::Cpu, &run, start(), &synthesise, &never, &mut |_| {}).expect("they fit");
        let stop = AtomicBool::new(false);
        let mut each = |report: &Report<'_>| stop.store(report.step == 3, Ordering::Relaxed);
        let half = train(Device::Cpu, &run, start(), &synthesise, &stop, &mut each).expect("they fit");
        assert_eq!(half.step, 3);
        let read = Progress::from_bytes(&half.to_bytes().expect("plain"), &run).expect("own bytes");
        let rest = train(Device::Cpu, &run, read, &synthesise, &never, &mut |_| {}).expect("they fit");
        assert!(rest.student(&run) == whole.student(&run) && rest.step == 8);
    }

    #[test]
    fn foreign_states_are_refused() {
        let run = run();
        let bytes = Progress::new(&run, &layout::initial(&run.config, 3)).to_bytes().expect("plain");
        let other = Endless { source: "another recipe".into(), ..run.clone() };
        assert!(matches!(Progress::from_bytes(&bytes, &other), Err(SavedError::Settings)));
        assert!(matches!(Progress::from_bytes(&bytes[..bytes.len() / 2], &run), Err(SavedError::Damaged)));
        assert!(matches!(Progress::from_bytes(b"", &run), Err(SavedError::Damaged)));
    }
}
