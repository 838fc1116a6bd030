//! `semisam-node train`: a student for the hospital's own use, from its own scans, without a federation.

mod rounds;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use clap::Args;
use serde_json::json;

use self::rounds::rounds;
use super::{
    Format,
    evaluate::{EvaluateError, score_scan},
    guides::GuideArgs,
    masks::{ClassArgs, ForeignMap},
    print, replacing, resolve,
    scores::{mean, words},
    storage::{StorageArgs, fetch_all},
    viewing::parse_patch,
};
use crate::{
    data::{
        cache::CacheError,
        classes::ClassMap,
        folder::{Cohort, FolderError},
    },
    device::{Device, DeviceChoice, DeviceError},
    generalist::{GeneralistError, store::Store},
    model::{
        ModelError, VNetConfig,
        checkpoint::{self, CheckpointError},
        layout,
    },
    student::Student,
    train::{
        TrainError,
        guidance::Guides,
        infer::Windows,
        local::{Aid, LocalRun, Method, Report, State, StateError, train_guided},
        scans::{ScanError, ScanSet},
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
    /// Optimiser steps, of each round if there are rounds.
    #[arg(long, default_value_t = 600)]
    pub steps: u64,
    /// Rounds of `semisam-o1`, each from the start, with pseudo-labels made before it.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub rounds: u64,
    /// First step size; it decays to zero.
    #[arg(long, default_value_t = 0.05, value_name = "RATE")]
    pub learning_rate: f64,
    /// Names the first weights and everything drawn.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Channels of the student's first level.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub base_filters: usize,
    /// Classes, background included [default: those of --map, else 2].
    #[arg(long, value_name = "N", conflicts_with = "map")]
    pub classes: Option<usize>,
    /// Which values of label files are classes.
    #[command(flatten)]
    pub map: ClassArgs,
    /// Start from this model instead of random weights: a file, or `left-atrium-student`, which comes with the program.
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,
    /// Groups of GroupNorm, if not one per filter of the first level.
    #[arg(long, value_name = "N")]
    pub groups: Option<usize>,
    /// Factor of the agreement with the average of earlier students, at the end of its ramp; SemiSAM's paper has 0.1, which
    /// changes next to nothing.
    #[arg(long, default_value_t = 50.0, value_name = "FACTOR", value_parser = factor)]
    pub consistency_weight: f64,
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
    /// Open the labels of the first so many labelled scans, by name, and of no other: the rest count as unlabelled.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub labels: Option<usize>,
    /// Generalists.
    #[command(flatten)]
    pub guides: GuideArgs,
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
    /// The map of classes.
    #[error(transparent)]
    Map(#[from] ForeignMap),
    /// The model to start from.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A generalist.
    #[error(transparent)]
    Generalist(#[from] GeneralistError),
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
    let declared = cohort.declared(args.labels);
    let mut run = LocalRun {
        learning_rate: args.learning_rate,
        consistency_weight: args.consistency_weight,
        augment: args.augment,
        dropout: args.dropout,
        classes: args.map.map.clone(),
        ..LocalRun::new(config, args.method, args.patch, args.steps, args.seed)
    };
    let generalists = args.guides.open(&mut run, device)?;
    Guides::needed(run.guidance.as_ref(), &generalists, &Store::NONE)?; // before scans are prepared
    fs::create_dir_all(&args.out).map_err(|source| TrainCommandError::Write { path: args.out.clone(), source })?;
    let (model_path, state_path) = (args.out.join("model.safetensors"), args.out.join("state.safetensors"));
    let state = saved(&state_path, &run)?.unwrap_or_else(|| State::new(&run, &start));
    let cache = args.out.join("cache");
    let (storage, store) = (args.storage.open(Some(&cache))?, args.storage.open_embeddings(Some(&cache))?);
    let Some(scans) = fetch_all(declared.iter(), (args.spacing, args.map.map.as_ref()), storage, cancel)? else {
        return stopped(out, format, state.step);
    };
    let course = Course { device, scans: &scans, format, cancel };
    let (run, state, waited) = if args.method == Method::SemisamO1 {
        rounds(&course, args, (&run, &start), (&generalists, &store), out)?
    } else {
        let aid = Aid { generalists: &generalists, store: &store, ..Aid::default() };
        let (state, waited) = course.run(&run, state, aid, &state_path, out)?;
        (run, state, waited)
    };
    if state.step < run.steps {
        return stopped(out, format, state.step);
    }
    let weights = state.student(&run);
    let bytes = weights.to_safetensors().map_err(|source| state_error(&model_path, source.into()))?;
    replace(&model_path, &bytes)?;
    let windows = Windows::half_overlapping(args.patch);
    let student = Student { weights, config, device, spacing_mm: [args.spacing; 3], windows, largest_component: false };
    finish(args, &student, &model_path, waited, format, out)
}

/// What all runs of a command share.
struct Course<'a> {
    device: Device,
    scans: &'a ScanSet,
    format: Format,
    cancel: &'a AtomicBool,
}

impl Course<'_> {
    /// Trains from `state` to the end, or until it is cancelled, and saves what is reached; gives it with the share of waiting.
    fn run(
        &self,
        run: &LocalRun,
        state: State,
        aid: Aid<'_>,
        state_path: &Path,
        out: &mut dyn Write,
    ) -> Result<(State, Option<f64>), TrainCommandError> {
        let (mut trouble, mut waiting, mut told) = (None, Waiting::default(), Waiting::default());
        let mut each = |report: &Report<'_>| {
            waiting = Waiting { seconds: report.seconds, waited: report.waited };
            if report.step.is_multiple_of(REPORT_EVERY) || report.step == run.steps {
                let waited = waiting.share_since(told);
                told = waiting;
                let said = tell(out, self.format, report, waited).err().map(TrainCommandError::Print);
                trouble = trouble.take().or(said);
            }
            if report.step.is_multiple_of(SAVE_EVERY) {
                trouble = trouble.take().or_else(|| save(state_path, &report.state()).err());
            }
        };
        let state = train_guided(self.device, run, state, self.scans, aid, self.cancel, &mut each)?;
        if let Some(error) = trouble {
            return Err(error);
        }
        save(state_path, &state)?;
        Ok((state, waiting.share_since(Waiting::default())))
    }
}

fn start(args: &TrainArgs) -> Result<(semisam_shared::weights::Weights, VNetConfig), TrainCommandError> {
    if let Some(path) = &args.init {
        let weights = checkpoint::read(path)?;
        let config = VNetConfig::of(&weights, args.groups)?;
        args.map.must_fit(config.classes)?;
        return Ok((weights, config));
    }
    let groups = args.groups.unwrap_or(args.base_filters);
    let mapped = args.map.map.as_ref().map(ClassMap::classes);
    let classes = mapped.or(args.classes).unwrap_or(2);
    let config = VNetConfig { classes, groups, ..VNetConfig::binary(args.base_filters) };
    config.check()?;
    Ok((layout::initial(&config, args.seed), config))
}

fn factor(text: &str) -> Result<f64, String> {
    let factor = text.parse().ok().filter(|factor: &f64| factor.is_finite() && *factor >= 0.0);
    factor.ok_or_else(|| "give a number of at least 0".to_owned())
}

pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "give a number of at least 1".to_owned())
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

/// See [`replacing::replace`].
fn replace(path: &Path, bytes: &[u8]) -> Result<(), TrainCommandError> {
    replacing::replace(path, bytes).map_err(|source| TrainCommandError::Write { path: path.to_path_buf(), source })
}

/// `waited` is the share of the time since the last report.
fn tell(out: &mut dyn Write, format: Format, report: &Report<'_>, waited: Option<f64>) -> io::Result<()> {
    let (step, losses, seconds) = (report.step, report.losses(), report.seconds);
    let loss = losses.total;
    let words = format!("step {step:>6}  loss {loss:.4}  {seconds:.0} s  waited {}", percent(waited));
    let value = json!({
        "step": step, "loss": loss, "seconds": seconds, "waited": waited,
        "cross_entropy": losses.cross_entropy, "dice_loss": losses.dice, "teacher": losses.teacher,
        "generalist": losses.generalist, "asked": report.asked / seconds.max(f64::MIN_POSITIVE),
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
    // labels that were not opened for training are not opened to score either
    let scans = cohort.declared(args.labels.filter(|_| args.test.is_none()));
    let labelled = scans.iter().filter(|scan| scan.label.is_some());
    let scores = labelled.map(|scan| score_scan(student, scan, &args.map)).collect::<Result<Vec<_>, _>>()?;
    let scored_on = if args.test.is_some() { "test" } else { "training" };
    let dice = scores.iter().map(|scores| scores.all.dice).sum::<f64>() / scores.len() as f64;
    let mut value = mean(&scores, &args.map);
    let mut text = format!("`{}`: dice {dice:.3}, mean of {} {scored_on} scans", model.display(), scores.len());
    if let Some((_, of_classes)) = words(&value).split_once('\n') {
        text = format!("{text}\n{of_classes}");
    }
    value.remove("case");
    value.insert("model".to_owned(), json!(model));
    value.insert("scored_on".to_owned(), json!(scored_on));
    value.insert("waited".to_owned(), json!(waited));
    Ok(print(out, format, &text, &value)?)
}
