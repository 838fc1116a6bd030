//! `semisam-node bench`: how fast this machine computes what training computes, and in how much memory.
//!
//! One file below `bench/` for each thing that is measured; [`measure`] holds what they tell. The scripts of
//! `tests/peers/` run these commands beside PyTorch and compare (BENCHMARKS.md).

use std::{
    io::{self, Write},
    num::NonZeroUsize,
};

use clap::{Args, Subcommand};

use super::{Format, print, resolve};
use crate::{
    data::{cache::CacheError, folder::FolderError},
    device::{Device, DeviceChoice, DeviceError},
    generalist::GeneralistError,
    model::{ModelError, checkpoint::CheckpointError, sam::SamError},
    privacy::noise::NoiseError,
    train::{TrainError, interactive::InteractiveError, scans::ScanError},
};

pub mod conv;
pub mod measure;
pub mod noise;
pub mod prompt;
pub mod sam;
pub mod step;
pub mod train;

/// `semisam-node bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub command: BenchCommand,
}

/// What can be measured.
#[derive(Clone, Debug, Subcommand)]
pub enum BenchCommand {
    /// Whole optimiser steps of a student, and its forward pass alone, on random images
    Step(step::StepArgs),
    /// One 3-D convolution, forward and with its gradients
    Conv(conv::ConvArgs),
    /// The noise of a release, beside opendp's
    Noise(noise::NoiseArgs),
    /// A prompted U-Net on a random image: embedding, a prompt, an example of its training
    Prompt(prompt::PromptArgs),
    /// Iterations of `train` on a folder of scans, data included
    Train(Box<train::TrainBenchArgs>),
    /// An image through SAM-Med3D's encoder, and one point through its decoder
    Sam(sam::SamArgs),
}

/// What every measurement asks for.
#[derive(Clone, Debug, Args)]
pub struct Setting {
    /// Threads of the computation [default: RAYON_NUM_THREADS, else one per core].
    #[arg(long, value_name = "T")]
    pub threads: Option<NonZeroUsize>,
    /// Repetitions that are not counted, before those that are.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub warm_up: usize,
    /// Where to compute.
    #[arg(long, value_enum, default_value = "cpu")]
    pub device: DeviceChoice,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A generalist.
    #[error(transparent)]
    Generalist(#[from] GeneralistError),
    /// The model to start from.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The architecture.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The computation.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The computation of a generalist.
    #[error(transparent)]
    Interactive(#[from] InteractiveError),
    /// The folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A scan.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The folder of prepared scans.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The generalist.
    #[error(transparent)]
    Sam(#[from] SamError),
    /// Noise.
    #[error(transparent)]
    Noise(#[from] NoiseError),
    /// A convolution that does not exist.
    #[error("a convolution has a kernel, a stride and channels of at least one, and a side of at least the kernel's")]
    Convolution,
    /// The pool of threads was made before.
    #[error("the computation already has {found} threads, not {asked}; set RAYON_NUM_THREADS={asked} instead")]
    Threads {
        /// How many there are.
        found: usize,
        /// How many were asked for.
        asked: usize,
    },
    /// The device did not finish.
    #[error("the device `{device}` failed while it was waited for: {reason}")]
    Sync {
        /// Which one.
        device: Device,
        /// What it said.
        reason: String,
    },
    /// The output.
    #[error("cannot print the result")]
    Print(#[from] io::Error),
}

/// Runs the command.
///
/// # Errors
/// If the device is absent, the numbers fit no network, or scans cannot be read.
pub fn run(args: &BenchArgs, format: Format, out: &mut dyn Write) -> Result<(), BenchError> {
    let report = match &args.command {
        BenchCommand::Step(args) => step::run(args),
        BenchCommand::Conv(args) => conv::run(args),
        BenchCommand::Noise(args) => noise::run(args),
        BenchCommand::Prompt(args) => prompt::run(args),
        BenchCommand::Train(args) => train::run(args),
        BenchCommand::Sam(args) => sam::run(args),
    }?;
    Ok(print(out, format, &report.words(), &report)?)
}

impl Setting {
    /// The device, once the computation has the threads asked for.
    ///
    /// # Errors
    /// If the device is absent, or other threads were started before.
    pub fn start(&self) -> Result<Device, BenchError> {
        if let Some(threads) = self.threads {
            let asked = threads.get();
            // a second start within one process keeps the first pool
            let _ = rayon::ThreadPoolBuilder::new().num_threads(asked).build_global();
            let found = rayon::current_num_threads();
            if found != asked {
                return Err(BenchError::Threads { found, asked });
            }
        }
        Ok(resolve(self.device)?)
    }
}

#[cfg(test)]
mod tests;
