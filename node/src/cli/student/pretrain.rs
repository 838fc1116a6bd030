//! `semisam-node student pretrain`: a student that has seen a recipe's anatomy, and no patient.
//!
//! Volumes are made while it learns and seen once. A state beside the model lets the same command go on after a stop or
//! a crash, with the same result.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use clap::Args;
use serde_json::json;

use crate::{
    cli::{Format, print, replacing, resolve, viewing::parse_patch},
    data::recipe::{Recipe, RecipeError, View},
    device::{DeviceChoice, DeviceError},
    model::{
        ModelError, VNetConfig,
        checkpoint::{self, CheckpointError},
        layout,
    },
    train::{
        TrainError,
        pretrain::{
            anatomical_scan,
            endless::{Endless, Progress, Report, SavedError, train},
        },
    },
};
use semisam_shared::weights::{Weights, WeightsError};

/// Steps between two reports, and between two saved states.
const REPORT_EVERY: u64 = 20;
const SAVE_EVERY: u64 = 100;

/// `semisam-node student pretrain`.
#[derive(Clone, Debug, Args)]
pub struct PretrainArgs {
    /// The anatomy: a file, or the name of a shipped recipe (`data synth --recipe list` shows these).
    #[arg(long, value_name = "FILE|NAME")]
    pub recipe: String,
    /// The model, .safetensors; the state of an interrupted run is kept beside it.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Optimiser steps.
    #[arg(long, default_value_t = 1000)]
    pub steps: u64,
    /// Crops in a step, each of a volume of its own.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=64))]
    pub batch: u64,
    /// Voxel size to train at, in millimetres.
    #[arg(long, default_value_t = 2.5, value_name = "MM")]
    pub spacing: f64,
    /// Sides of a training crop in voxels, multiples of 16.
    #[arg(long, default_value = "64,48,32", value_name = "X,Y,Z", value_parser = parse_patch)]
    pub patch: [usize; 3],
    /// First step size; it decays to zero.
    #[arg(long, default_value_t = 0.05, value_name = "RATE")]
    pub learning_rate: f64,
    /// Names the first weights and everything drawn.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Channels of the student's first level.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub base_filters: usize,
    /// Groups of GroupNorm, if not one per filter of the first level.
    #[arg(long, value_name = "N")]
    pub groups: Option<usize>,
    /// How voxels of the real scans are stored, where these do not say so: R or L, A or P, S or I. Repeat for several ways,
    /// each as often.
    #[arg(long, value_parser = View::flips, value_name = "RAS")]
    pub axes: Vec<[bool; 3]>,
    /// Write half-precision weights: half as large, and rounded to 11 bits.
    #[arg(long)]
    pub half: bool,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    pub device: DeviceChoice,
}

/// Why pre-training fails.
#[derive(Debug, thiserror::Error)]
pub enum PretrainError {
    /// The recipe.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The architecture.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The computation.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The state of an interrupted run.
    #[error("`{path}`: {error}")]
    Saved {
        /// The file.
        path: PathBuf,
        /// Why.
        error: SavedError,
    },
    /// The weights cannot be put into a file.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Half-precision weights cannot be put into a file.
    #[error(transparent)]
    Half(#[from] CheckpointError),
    /// A file cannot be written or read.
    #[error("cannot write or read `{path}`; check that the disk has room and the folder may be written to")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The output.
    #[error("cannot print the result")]
    Print(#[from] io::Error),
}

/// Runs the command until it is done or `cancel` is set; the same command then goes on where it stopped.
///
/// # Errors
/// If recipe, settings and a saved state do not fit, or a result cannot be written.
pub fn run(args: &PretrainArgs, format: Format, out: &mut dyn Write, cancel: &AtomicBool) -> Result<(), PretrainError> {
    let device = resolve(args.device)?;
    let ways = Recipe::open(&args.recipe)?.stored(&args.axes, args.spacing)?;
    let recipe = &ways[0];
    let run = settings(args, &ways)?;
    let start = layout::initial(&run.config, args.seed);
    let state_path = args.out.with_extension("state.safetensors");
    let progress = saved(&state_path, &run)?.unwrap_or_else(|| Progress::new(&run, &start));
    let synthesise = |number: u64| anatomical_scan(&ways, args.seed, number);
    let mut trouble = None;
    let mut each = |report: &Report<'_>| {
        if report.step.is_multiple_of(REPORT_EVERY) || report.step == run.steps {
            trouble = trouble.take().or_else(|| tell(out, format, report).err().map(PretrainError::Print));
        }
        if report.step.is_multiple_of(SAVE_EVERY) {
            trouble = trouble.take().or_else(|| save(&state_path, &report.progress()).err());
        }
    };
    let progress = train(device, &run, progress, &synthesise, cancel, &mut each)?;
    if let Some(error) = trouble {
        return Err(error);
    }
    if progress.step < run.steps {
        save(&state_path, &progress)?;
        let words = format!("stopped after step {}: the same command goes on from there", progress.step);
        return Ok(print(out, format, &words, &json!({ "step": progress.step, "stopped": true }))?);
    }
    finish(args, recipe, &progress.student(&run), format, out)?;
    match fs::remove_file(&state_path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(PretrainError::File { path: state_path, source })
        }
        _ => Ok(()),
    }
}

fn settings(args: &PretrainArgs, ways: &[Recipe]) -> Result<Endless, PretrainError> {
    let recipe = &ways[0];
    let groups = args.groups.unwrap_or(args.base_filters);
    let config = VNetConfig { classes: recipe.classes().len() + 1, groups, ..VNetConfig::binary(args.base_filters) };
    config.check()?;
    Ok(Endless {
        config,
        steps: args.steps,
        batch: args.batch,
        patch: args.patch,
        learning_rate: args.learning_rate,
        seed: args.seed,
        // Every number of the recipe and of its views: a changed recipe is another run.
        source: ways.iter().map(|way| format!("{way:?}")).collect(),
    })
}

/// The state of an interrupted run of these settings.
fn saved(path: &Path, run: &Endless) -> Result<Option<Progress>, PretrainError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(|source| PretrainError::File { path: path.to_owned(), source })?,
    };
    let progress = Progress::from_bytes(&bytes, run);
    let progress = progress.map_err(|error| PretrainError::Saved { path: path.to_owned(), error })?;
    tracing::info!("continuing after step {}", progress.step);
    Ok(Some(progress))
}

fn save(path: &Path, progress: &Progress) -> Result<(), PretrainError> {
    replace(path, &progress.to_bytes()?)
}

/// See [`replacing::replace`].
fn replace(path: &Path, bytes: &[u8]) -> Result<(), PretrainError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let written = folder.map_or(Ok(()), fs::create_dir_all).and_then(|()| replacing::replace(path, bytes));
    written.map_err(|source| PretrainError::File { path: path.to_path_buf(), source })
}

fn tell(out: &mut dyn Write, format: Format, report: &Report<'_>) -> io::Result<()> {
    let (step, losses, seconds) = (report.step, report.losses(), report.seconds);
    let words = format!("step {step:>6}  loss {:.4}  {seconds:.0} s", losses.total);
    let value = json!({
        "step": step, "loss": losses.total, "seconds": seconds,
        "cross_entropy": losses.cross_entropy, "dice_loss": losses.dice,
    });
    print(out, format, &words, &value)
}

/// Writes the model, and the last line.
fn finish(
    args: &PretrainArgs,
    recipe: &Recipe,
    weights: &Weights,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), PretrainError> {
    let bytes = if args.half { checkpoint::half_precision(weights)? } else { weights.to_safetensors()? };
    replace(&args.out, &bytes)?;
    let (count, size) = (weights.count(), bytes.len());
    let words = format!(
        "`{}`: {count} weights in {size} bytes, pre-trained on {} volumes of `{}`",
        args.out.display(),
        args.steps * args.batch,
        recipe.name()
    );
    let value = json!({
        "model": args.out, "weights": count, "bytes": size, "recipe": recipe.name(), "classes": recipe.classes(),
        "volumes": args.steps * args.batch,
    });
    Ok(print(out, format, &words, &value)?)
}
