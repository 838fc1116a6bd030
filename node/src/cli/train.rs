//! `semisam-node train`: a student for the hospital's own use, from its own scans, without a federation.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use clap::Args;
use serde_json::json;

use super::{
    Format,
    evaluate::{EvaluateError, mean, score_scan},
    print, resolve,
    storage::{StorageArgs, fetch_all},
    viewing::parse_patch,
};
use crate::{
    data::{
        cache::CacheError,
        folder::{Cohort, FolderError},
    },
    device::{DeviceChoice, DeviceError},
    model::{
        ModelError, VNetConfig,
        checkpoint::{self, CheckpointError},
        layout,
    },
    student::Student,
    train::{
        TrainError,
        infer::Windows,
        local::{LocalRun, Method, Report, State, StateError, train},
        scans::ScanError,
    },
};

/// Steps between two reports, and between two saved states.
const REPORT_EVERY: u64 = 10;
const SAVE_EVERY: u64 = 50;

/// `semisam-node train`.
#[derive(Clone, Debug, Args)]
pub struct TrainArgs {
    /// A folder of scans, some with labels.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Where `model.safetensors` and the state of an interrupted run go.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// What unlabelled scans are used for.
    #[arg(long, value_enum, default_value = "mean-teacher")]
    pub method: Method,
    /// Voxel size to train at, in millimetres.
    #[arg(long, default_value_t = 2.5, value_name = "MM")]
    pub spacing: f64,
    /// Sides of a training crop in voxels, multiples of 16.
    #[arg(long, default_value = "64,48,32", value_name = "X,Y,Z", value_parser = parse_patch)]
    pub patch: [usize; 3],
    /// Optimiser steps.
    #[arg(long, default_value_t = 600)]
    pub steps: u64,
    /// First step size; it decays to zero.
    #[arg(long, default_value_t = 0.05, value_name = "RATE")]
    pub learning_rate: f64,
    /// Names the first weights and everything drawn.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Channels of the student's first level.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub base_filters: usize,
    /// Classes, background included.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub classes: usize,
    /// Start from this model instead of random weights.
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,
    /// Groups of GroupNorm, if not one per filter of the first level.
    #[arg(long, value_name = "N")]
    pub groups: Option<usize>,
    /// Turn and flip crops in the axial plane.
    #[arg(long)]
    pub augment: bool,
    /// Drop whole channels, as the published recipe does.
    #[arg(long)]
    pub dropout: bool,
    /// Score the student on the labelled scans of this folder in the end, instead of those it was trained on.
    #[arg(long, value_name = "DIR")]
    pub test: Option<PathBuf>,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    pub device: DeviceChoice,
    /// Prepared scans; the cache is in `cache` below `--out` unless it is named.
    #[command(flatten)]
    pub storage: StorageArgs,
}

/// Why training fails.
#[derive(Debug, thiserror::Error)]
pub enum TrainCommandError {
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The folder or a scan.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A scan that cannot be trained on.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The folder of prepared scans.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The model to start from.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The architecture.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The computation.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The state of an interrupted run.
    #[error("`{path}`: {source}")]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: StateError,
    },
    /// A result cannot be written.
    #[error("cannot write `{path}`; check that the disk has room and the folder may be written to")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The scores.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    /// The output.
    #[error("cannot print the result")]
    Print(#[from] io::Error),
}

/// Runs the command until it is done or `cancel` is set; the same command then goes on where it stopped.
///
/// # Errors
/// If scans cannot be read or do not fit, or a result cannot be written.
pub fn run(
    args: &TrainArgs,
    format: Format,
    out: &mut dyn Write,
    cancel: &AtomicBool,
) -> Result<(), TrainCommandError> {
    let device = resolve(args.device)?;
    let cohort = Cohort::open(&args.data)?;
    cohort.require_labelled()?;
    let (start, config) = start(args)?;
    let run = LocalRun {
        learning_rate: args.learning_rate,
        augment: args.augment,
        dropout: args.dropout,
        ..LocalRun::new(config, args.method, args.patch, args.steps, args.seed)
    };
    fs::create_dir_all(&args.out).map_err(|source| TrainCommandError::Write { path: args.out.clone(), source })?;
    let (model_path, state_path) = (args.out.join("model.safetensors"), args.out.join("state.safetensors"));
    let state = saved(&state_path, &run)?.unwrap_or_else(|| State::new(&run, &start));
    let storage = args.storage.open(Some(&args.out.join("cache")))?;
    let Some(scans) = fetch_all(cohort.scans(), args.spacing, storage, cancel)? else {
        return stopped(out, format, state.step);
    };
    let (mut trouble, mut waiting, mut told) = (None, Waiting::default(), Waiting::default());
    let mut each = |report: &Report<'_>| {
        waiting = Waiting { seconds: report.seconds, waited: report.waited };
        if report.step.is_multiple_of(REPORT_EVERY) || report.step == run.steps {
            let waited = waiting.share_since(told);
            told = waiting;
            trouble = trouble.take().or_else(|| tell(out, format, report, waited).err().map(TrainCommandError::Print));
        }
        if report.step.is_multiple_of(SAVE_EVERY) {
            trouble = trouble.take().or_else(|| save(&state_path, &report.state()).err());
        }
    };
    let state = train(device, &run, state, &scans, cancel, &mut each)?;
    if let Some(error) = trouble {
        return Err(error);
    }
    save(&state_path, &state)?;
    if state.step < run.steps {
        return stopped(out, format, state.step);
    }
    let weights = state.student(&run);
    let bytes = weights.to_safetensors().map_err(|source| state_error(&model_path, source.into()))?;
    replace(&model_path, &bytes)?;
    let windows = Windows::half_overlapping(args.patch);
    let student = Student { weights, config, device, spacing_mm: [args.spacing; 3], windows };
    finish(args, &student, &model_path, waiting.share_since(Waiting::default()), format, out)
}

fn start(args: &TrainArgs) -> Result<(semisam_shared::weights::Weights, VNetConfig), TrainCommandError> {
    if let Some(path) = &args.init {
        let weights = checkpoint::read(path)?;
        let config = VNetConfig::of(&weights, args.groups)?;
        return Ok((weights, config));
    }
    let groups = args.groups.unwrap_or(args.base_filters);
    let config = VNetConfig { classes: args.classes, groups, ..VNetConfig::binary(args.base_filters) };
    config.check()?;
    Ok((layout::initial(&config, args.seed), config))
}

/// How long a run took so far, and how much of that steps were waited for.
#[derive(Clone, Copy, Default)]
struct Waiting {
    seconds: f64,
    waited: f64,
}

impl Waiting {
    /// The share of waiting since an earlier moment; none where no time has passed.
    fn share_since(self, before: Self) -> Option<f64> {
        let seconds = self.seconds - before.seconds;
        (seconds > 0.0).then(|| (self.waited - before.waited) / seconds)
    }
}

fn stopped(out: &mut dyn Write, format: Format, step: u64) -> Result<(), TrainCommandError> {
    let words = format!("stopped after step {step}: the same command goes on from there");
    Ok(print(out, format, &words, &json!({ "step": step, "stopped": true }))?)
}

/// The state of an interrupted run of these settings.
fn saved(path: &Path, run: &LocalRun) -> Result<Option<State>, TrainCommandError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(|error| {
            let source = CheckpointError::Read { path: path.to_path_buf(), source: error };
            TrainCommandError::Checkpoint(source)
        })?,
    };
    let state = State::from_bytes(&bytes, run).map_err(|source| state_error(path, source))?;
    tracing::info!("continuing after step {}", state.step);
    Ok(Some(state))
}

fn save(path: &Path, state: &State) -> Result<(), TrainCommandError> {
    replace(path, &state.to_bytes().map_err(|source| state_error(path, source))?)
}

fn state_error(path: &Path, source: StateError) -> TrainCommandError {
    TrainCommandError::State { path: path.to_path_buf(), source }
}

/// Writes a file so that a crash leaves the old one or the new one.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), TrainCommandError> {
    let beside = path.with_extension("writing");
    let write = || {
        let mut file = fs::File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(|source| TrainCommandError::Write { path: path.to_path_buf(), source })
}

/// `waited` is the share of the time since the last report.
fn tell(out: &mut dyn Write, format: Format, report: &Report<'_>, waited: Option<f64>) -> io::Result<()> {
    let (step, losses, seconds) = (report.step, report.losses(), report.seconds);
    let loss = losses.total;
    let words = format!("step {step:>6}  loss {loss:.4}  {seconds:.0} s  waited {}", percent(waited));
    let value = json!({
        "step": step, "loss": loss, "seconds": seconds, "waited": waited,
        "cross_entropy": losses.cross_entropy, "dice_loss": losses.dice, "teacher": losses.teacher,
    });
    print(out, format, &words, &value)
}

fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), |share| format!("{:.1} %", 100.0 * share))
}

/// The last line: scores, and on which scans; `waited` is the share of the whole training.
fn finish(
    args: &TrainArgs,
    student: &Student,
    model: &Path,
    waited: Option<f64>,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), TrainCommandError> {
    let cohort = Cohort::open(args.test.as_ref().unwrap_or(&args.data))?;
    cohort.require_labelled()?;
    let scores = cohort.labelled().map(|scan| score_scan(student, scan)).collect::<Result<Vec<_>, _>>()?;
    let scored_on = if args.test.is_some() { "test" } else { "training" };
    let dice = scores.iter().map(|scores| scores.dice).sum::<f64>() / scores.len() as f64;
    let words = format!("`{}`: dice {dice:.3}, mean of {} {scored_on} scans", model.display(), scores.len());
    let mut value = mean(&scores);
    value.remove("case");
    value.insert("model".to_owned(), json!(model));
    value.insert("scored_on".to_owned(), json!(scored_on));
    value.insert("waited".to_owned(), json!(waited));
    Ok(print(out, format, &words, &value)?)
}
