//! `semisam-node sam pretrain`: a small generalist from synthetic scans alone, which works where nothing can be downloaded.
//!
//! The same command with the same seed gives the same file, however often it was stopped in between: its state is kept
//! beside the file. `--minutes` ends a sitting, not the run.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use clap::Args;
use semisam_shared::ids::Digest;
use serde_json::json;

use crate::{
    cli::{Format, print, replacing, resolve},
    data::{
        mixture::{Mixture, MixtureError},
        recipe::View,
    },
    device::{DeviceChoice, DeviceError},
    generalist::unet::Card,
    model::{
        checkpoint::{CheckpointError, described_halves},
        prompt_unet::{PromptUNetConfig, SIDES},
    },
    train::interactive::{
        InteractiveError, InteractiveRun, Report, State, StateError,
        calibration::{Calibration, calibrate},
        gradient::ExampleLosses,
        train,
    },
};

/// Steps between two reports, and between two saved states.
const REPORT_EVERY: u64 = 50;
const SAVE_EVERY: u64 = 200;

/// `semisam-node sam pretrain`.
#[derive(Clone, Debug, Args)]
pub struct PretrainArgs {
    /// What to learn on: a shipped recipe, the file of one, or `blobs`; with `:WEIGHT` behind it, how often. Repeat for a
    /// mixture.
    #[arg(long = "recipe", value_name = "NAME|FILE[:WEIGHT]", required = true)]
    pub recipes: Vec<String>,
    /// Where the network goes, .safetensors; the state of an unfinished run is kept beside it.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Optimiser steps of the whole run; the step size decays to zero over them.
    #[arg(long, default_value_t = 4000)]
    pub steps: u64,
    /// Stop after so many minutes and write the network as it stands; the same command goes on from there.
    #[arg(long, value_name = "MINUTES")]
    pub minutes: Option<f64>,
    /// Examples per step.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub batch: u64,
    /// Voxel size to train at, in millimetres.
    #[arg(long, default_value_t = 2.5, value_name = "MM")]
    pub spacing: f64,
    /// Sides of a training volume in voxels, multiples of 8.
    #[arg(long, default_value = "64,48,32", value_name = "X,Y,Z", value_parser = parse_sides)]
    pub patch: [usize; 3],
    /// How voxels of the real scans are stored: R or L, A or P, S or I. Repeat for several, each as likely. Without it, volumes
    /// are turned and flipped in the axial plane, so that it does not matter.
    #[arg(long, value_parser = View::flips, value_name = "RAS")]
    pub axes: Vec<[bool; 3]>,
    /// Largest step size.
    #[arg(long, default_value_t = 2e-3, value_name = "RATE")]
    pub learning_rate: f64,
    /// Channels of the four levels, multiples of the first.
    #[arg(long, default_value = "8,16,48,96", value_name = "N,N,N,N", value_parser = parse_widths)]
    pub widths: [usize; 4],
    /// Synthetic scans that training does not see, on which the result learns how sure it may be; none with 0.
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub calibration: u64,
    /// Names the first weights and everything drawn.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    pub device: DeviceChoice,
}

/// Why pre-training fails.
#[derive(Debug, thiserror::Error)]
pub enum PretrainError {
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The recipes.
    #[error(transparent)]
    Mixture(#[from] MixtureError),
    /// The computation.
    #[error(transparent)]
    Train(#[from] InteractiveError),
    /// The state of an unfinished run.
    #[error("`{path}`: {source}")]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: StateError,
    },
    /// The result.
    #[error(transparent)]
    Halves(#[from] CheckpointError),
    /// A bound that is none.
    #[error("`--minutes {0}` is no time to stop after; give a positive number")]
    Minutes(f64),
    /// A file cannot be read or written.
    #[error(
        "cannot read or write `{path}`; check that the folder exists and may be written to, and that the disk has room"
    )]
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

/// Reads `x,y,z` as the sides of a volume.
///
/// # Errors
/// Says what is wrong, for clap.
pub(in crate::cli) fn parse_sides(text: &str) -> Result<[usize; 3], String> {
    let sides: Vec<usize> = text.split([',', 'x']).filter_map(|side| side.trim().parse().ok()).collect();
    match <[usize; 3]>::try_from(sides) {
        Ok(sides) if sides.iter().all(|side| *side > 0 && side.is_multiple_of(SIDES)) => Ok(sides),
        _ => Err(format!("give three multiples of {SIDES}, such as 64,48,32")),
    }
}

/// Reads the channels of the levels.
///
/// # Errors
/// Says what is wrong, for clap.
pub(in crate::cli) fn parse_widths(text: &str) -> Result<[usize; 4], String> {
    let widths: Vec<usize> = text.split(',').filter_map(|width| width.trim().parse().ok()).collect();
    let widths = <[usize; 4]>::try_from(widths).map_err(|_| "give four numbers, such as 8,16,48,96".to_owned())?;
    PromptUNetConfig { widths }.check().map_err(|error| error.to_string()).map(|()| widths)
}

/// Runs the command until it is done, its minutes are over, or `stop` is set; the same command then goes on where it
/// stopped.
///
/// # Errors
/// If recipes, settings and a saved state do not fit each other, or a result cannot be written.
pub fn run(args: &PretrainArgs, format: Format, out: &mut dyn Write, stop: &AtomicBool) -> Result<(), PretrainError> {
    let device = resolve(args.device)?;
    let mixture = Mixture::open(&args.recipes, args.patch, args.spacing, &args.axes)?;
    let config = PromptUNetConfig { widths: args.widths };
    let run = InteractiveRun {
        batch: args.batch,
        learning_rate: args.learning_rate,
        turned: args.axes.is_empty(),
        ..InteractiveRun::new(config, mixture.digest().to_string(), args.patch, args.steps, args.seed)
    };
    run.check()?;
    let limit = args.minutes.map_or(Ok(Duration::MAX), limit)?;
    let state_path = args.out.with_extension("state.safetensors");
    let state = saved(&state_path, &run)?.unwrap_or_else(|| State::new(&run));
    // so that a folder that is not there is met before hours of work
    save(&state_path, &state)?;
    let synthesise = |number: u64| mixture.scan(args.seed, number);
    let (mut trouble, mut recent, over) = (None, Vec::new(), AtomicBool::new(false));
    let mut each = |report: Report<'_>| {
        recent.extend(report.losses);
        if report.step.is_multiple_of(REPORT_EVERY) || report.step == run.steps {
            trouble = trouble.take().or_else(|| tell(out, format, &report, &recent).err().map(PretrainError::Print));
            recent.clear();
        }
        if report.step.is_multiple_of(SAVE_EVERY) {
            trouble = trouble.take().or_else(|| save(&state_path, report.state).err());
        }
        let end = trouble.is_some() || report.elapsed >= limit || stop.load(Ordering::Relaxed);
        over.store(end, Ordering::Relaxed);
    };
    let state = train(device, &run, state, &synthesise, &over, &mut each)?;
    if let Some(error) = trouble {
        return Err(error);
    }
    save(&state_path, &state)?;
    if stop.load(Ordering::Relaxed) && state.step < run.steps {
        let words = format!("stopped after step {}: the same command goes on from there", state.step);
        return Ok(print(out, format, &words, &json!({ "step": state.step, "stopped": true }))?);
    }
    let weights = state.result(&run);
    let calibration = match args.calibration {
        0 => None,
        scans => Some(calibrate(device, &run, &weights, scans, &synthesise)?),
    };
    let card = Card {
        spacing_mm: args.spacing,
        temperature: calibration.map_or(1.0, |calibration| calibration.temperature),
        steps: [state.step, run.steps],
        seed: args.seed,
        patch: args.patch,
        recipes: mixture.parts(),
    };
    let text = serde_json::to_string(&card).expect("a card is plain numbers and names");
    let bytes = described_halves(&weights, &text)?;
    replace(&args.out, &bytes)?;
    finish(args, (&card, calibration), (weights.count(), &bytes), format, out)
}

fn limit(minutes: f64) -> Result<Duration, PretrainError> {
    let limit = Duration::try_from_secs_f64(60.0 * minutes).ok().filter(|limit| !limit.is_zero());
    limit.ok_or(PretrainError::Minutes(minutes))
}

/// The state of an unfinished run of these settings.
fn saved(path: &Path, run: &InteractiveRun) -> Result<Option<State>, PretrainError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(|source| PretrainError::File { path: path.to_path_buf(), source })?,
    };
    let state = State::from_bytes(&bytes, run).map_err(|source| state_error(path, source))?;
    tracing::info!("continuing after step {}", state.step);
    Ok(Some(state))
}

fn save(path: &Path, state: &State) -> Result<(), PretrainError> {
    replace(path, &state.to_bytes().map_err(|source| state_error(path, source))?)
}

fn state_error(path: &Path, source: StateError) -> PretrainError {
    PretrainError::State { path: path.to_path_buf(), source }
}

/// See [`replacing::replace`].
fn replace(path: &Path, bytes: &[u8]) -> Result<(), PretrainError> {
    replacing::replace(path, bytes).map_err(|source| PretrainError::File { path: path.to_path_buf(), source })
}

/// Means over the examples since the last report.
fn tell(out: &mut dyn Write, format: Format, report: &Report<'_>, recent: &[ExampleLosses]) -> io::Result<()> {
    let mean = |of: fn(&ExampleLosses) -> f64| recent.iter().map(of).sum::<f64>() / recent.len().max(1) as f64;
    let loss = mean(|losses| 0.5 * (losses.first.total + losses.last.total));
    let (first, last) = (mean(|losses| losses.first.overlap), mean(|losses| losses.last.overlap));
    let (score, seconds) = (mean(|losses| losses.last.score).sqrt(), report.elapsed.as_secs_f64());
    let words = format!(
        "step {:>6}  loss {loss:.4}  dice {first:.3}, {last:.3} after corrections  score off by {score:.3}  {seconds:.0} s",
        report.step
    );
    let value = json!({
        "step": report.step, "loss": loss, "dice_first": first, "dice_last": last, "score_error": score,
        "seconds": seconds,
    });
    print(out, format, &words, &value)
}

/// The last line.
fn finish(
    args: &PretrainArgs,
    (card, calibration): (&Card, Option<Calibration>),
    (count, bytes): (usize, &[u8]),
    format: Format,
    out: &mut dyn Write,
) -> Result<(), PretrainError> {
    let ([done, all], digest) = (card.steps, Digest::of(bytes));
    let unfinished = if done < all { "; the same command goes on from there" } else { "" };
    let entropy = calibration.map(|found| [found.before, found.after]);
    let sure = calibration.map_or(String::new(), |found| {
        format!(
            ", temperature {:.2} (held-out cross-entropy {:.4} to {:.4})",
            found.temperature, found.before, found.after
        )
    });
    let words = format!(
        "`{}`: {count} weights in {} bytes after {done} of {all} steps{sure}, digest {digest}{unfinished}",
        args.out.display(),
        bytes.len()
    );
    let value = json!({
        "model": args.out, "weights": count, "bytes": bytes.len(), "digest": digest.to_string(), "card": card,
        "held_out_cross_entropy": entropy,
    });
    Ok(print(out, format, &words, &value)?)
}

#[cfg(test)]
mod tests;
