//! `data check`, `data canonical`, `data synth` and `metrics`: commands about scans on disk, no federation needed.
//!
//! Exit codes: 0 done (for `data check`: every file is sound), 1 otherwise.

mod check;
mod recipe;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::{Exit, Format};
use crate::data::folder::FolderError;
use crate::data::metrics::{Distances, MetricsError, Scores, score, score_class};
use crate::data::nifti::{NiftiError, WriteError, read_grid, read_image, read_labels, write_image};
use crate::data::preview::PreviewError;
use crate::data::recipe::{CohortError, RecipeError, View};
use crate::data::synth::{Style, SynthError, SynthSpec, write_cohort};

/// Why a command failed.
#[derive(Debug, Error)]
pub enum DataCommandError {
    /// A folder of scans.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A scan.
    #[error(transparent)]
    Scan(#[from] NiftiError),
    /// A scan could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A synthetic hospital could not be written.
    #[error(transparent)]
    Synth(#[from] SynthError),
    /// A recipe that cannot be used.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// Volumes of a recipe could not be written.
    #[error(transparent)]
    Cohort(#[from] CohortError),
    /// A picture.
    #[error(transparent)]
    Preview(#[from] PreviewError),
    /// One number for all axes, or one for each.
    #[error("`--{0}` needs one number, or three, such as --{0} {1}")]
    Axes(&'static str, &'static str),
    /// Two masks that cannot be compared.
    #[error("cannot compare `{prediction}` with `{truth}`: {error}")]
    Metrics {
        /// One mask.
        prediction: PathBuf,
        /// The other one.
        truth: PathBuf,
        /// Why.
        error: MetricsError,
    },
    /// The result would replace the scan.
    #[error("`{0}` is the scan itself: name another file with --out")]
    SameFile(PathBuf),
    /// Standard output is gone.
    #[error("cannot print the result ({0}): is the reader of the output still there?")]
    Print(#[from] io::Error),
}

/// Commands about scans.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Check every scan of a folder: images, labels, and whether they match
    Check(CheckArgs),
    /// Write a scan as 32-bit floats with RAS+ axes, at the same place
    Canonical(CanonicalArgs),
    /// Write synthetic scans: a hospital of blobs with patients.csv, or volumes of an anatomy from a recipe
    Synth(SynthArgs),
}

/// Arguments of `data check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// A hospital's folder, a folder of NIfTI files, or one file
    pub dir: PathBuf,
}

/// Arguments of `data canonical`.
#[derive(Debug, Args)]
pub struct CanonicalArgs {
    /// The scan
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// The file to write; gzipped where it ends with .gz
    #[arg(long)]
    pub out: PathBuf,
}

/// Arguments of `data synth`.
#[derive(Debug, Args)]
pub struct SynthArgs {
    /// A new or empty folder; with a recipe it may be left out to measure speed alone
    #[arg(long, required_unless_present = "recipe")]
    pub out: Option<PathBuf>,
    /// The anatomy: a file, or the name of a shipped recipe; `list` shows these
    #[arg(long, value_name = "FILE|NAME", conflicts_with_all = ["patients", "labelled", "style"])]
    pub recipe: Option<String>,
    /// How many volumes of the recipe
    #[arg(long, default_value_t = 12, requires = "recipe")]
    pub count: u64,
    /// Print the text of the recipe, to start another one from, and make nothing
    #[arg(long, requires = "recipe")]
    pub print: bool,
    /// Also draw the first volume of the recipe with the outline of its classes
    #[arg(long, requires = "recipe", value_name = "PNG")]
    pub preview: Option<PathBuf>,
    /// How voxels are stored, where scans to learn for do not say so: R or L, A or P, S or I
    #[arg(long, requires = "recipe", value_parser = View::flips, value_name = "RAS")]
    pub axes: Option<[bool; 3]>,
    /// How many patients; some of them have two scans
    #[arg(long, default_value_t = 12)]
    pub patients: usize,
    /// How many patients have labels
    #[arg(long, default_value_t = 4)]
    pub labelled: usize,
    /// Voxels along each axis, or one number for all; 48 48 48, or what the recipe says
    #[arg(long, num_args = 1..=3, value_delimiter = ',', value_names = ["X", "Y", "Z"])]
    pub shape: Option<Vec<usize>>,
    /// Millimetres between voxels along each axis, or one number for all; 2.5 2.5 2.5, or what the recipe says
    #[arg(long, num_args = 1..=3, value_delimiter = ',', value_names = ["X", "Y", "Z"])]
    pub spacing: Option<Vec<f64>>,
    /// Decides everything about the patients, or the volumes
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Decides how this hospital's scans look; the seed where it is not given
    #[arg(long)]
    pub style: Option<u64>,
}

/// Arguments of `metrics`.
#[derive(Debug, Args)]
pub struct MetricsArgs {
    /// The mask to judge
    pub prediction: PathBuf,
    /// The mask that it should be
    pub truth: PathBuf,
    /// Compare this class alone, in place of everything that is not 0
    #[arg(long)]
    pub class: Option<u8>,
}

/// Runs a `data` command. Returns how it ended.
pub fn run_data(command: &DataCommand, format: Format, out: &mut dyn Write) -> Result<Exit, DataCommandError> {
    match command {
        DataCommand::Check(args) => check::run(args, format, out),
        DataCommand::Canonical(args) => canonical(args, format, out),
        DataCommand::Synth(args) => synth(args, format, out),
    }
}

/// Runs `metrics`. Returns how it ended.
pub fn run_metrics(args: &MetricsArgs, format: Format, out: &mut dyn Write) -> Result<Exit, DataCommandError> {
    let (prediction, truth) = (read_labels(&args.prediction)?, read_labels(&args.truth)?);
    let scores = match args.class {
        None => score(&prediction, &truth),
        Some(class) => score_class(&prediction, &truth, class),
    };
    let scores = scores.map_err(|error| DataCommandError::Metrics {
        prediction: args.prediction.clone(),
        truth: args.truth.clone(),
        error,
    })?;
    let fields = scores_json(&scores);
    match format {
        Format::Json => writeln!(out, "{}", Value::Object(fields))?,
        Format::Text => {
            for (name, value) in fields {
                let value = value.as_f64().map_or_else(|| "undefined".to_owned(), |value| format!("{value:.4}"));
                writeln!(out, "{name:<16} {value:>10}")?;
            }
        }
    }
    Ok(Exit::Done)
}

/// Scores under the names that every command prints; distances are null where they do not exist.
pub fn scores_json(scores: &Scores) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("dice".into(), json!(scores.dice));
    fields.insert("jaccard".into(), json!(scores.jaccard));
    type Pick = fn(&Distances) -> f64;
    let distances: [(&str, Pick); 5] = [
        ("hd", |distances| distances.hd),
        ("hd95", |distances| distances.hd95),
        ("asd", |distances| distances.asd),
        ("asd_reverse", |distances| distances.asd_reverse),
        ("assd", |distances| distances.assd),
    ];
    for (unit, found) in [("mm", scores.mm), ("vox", scores.vox)] {
        for (name, pick) in distances {
            fields.insert(format!("{name}_{unit}"), json!(found.as_ref().map(pick)));
        }
    }
    fields
}

fn canonical(args: &CanonicalArgs, format: Format, out: &mut dyn Write) -> Result<Exit, DataCommandError> {
    if same_file(&args.input, &args.out) {
        return Err(DataCommandError::SameFile(args.input.clone()));
    }
    let image = read_image(&args.input)?;
    write_image(&args.out, &image)?;
    let grid = read_grid(&args.out)?;
    match format {
        Format::Json => {
            let line = json!({"file": args.input, "out": args.out, "axes": grid.axes, "shape": grid.shape, "spacing_mm": grid.spacing_mm});
            writeln!(out, "{line}")?;
        }
        Format::Text => {
            writeln!(out, "wrote {} ({}, {:?} voxels)", args.out.display(), grid.axes, grid.shape)?;
        }
    }
    Ok(Exit::Done)
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// A number for each axis, if the option is given: one stands for all of them.
fn by_axis<T: Copy>(
    given: Option<&Vec<T>>,
    name: &'static str,
    such_as: &'static str,
) -> Result<Option<[T; 3]>, DataCommandError> {
    match given.map(Vec::as_slice) {
        None => Ok(None),
        Some(&[all]) => Ok(Some([all; 3])),
        Some(&[x, y, z]) => Ok(Some([x, y, z])),
        Some(_) => Err(DataCommandError::Axes(name, such_as)),
    }
}

fn synth(args: &SynthArgs, format: Format, out: &mut dyn Write) -> Result<Exit, DataCommandError> {
    let shape = by_axis(args.shape.as_ref(), "shape", "64 64 64")?;
    let spacing_mm = by_axis(args.spacing.as_ref(), "spacing", "2.5 2.5 2.5")?;
    if let Some(recipe) = &args.recipe {
        let view = View { shape, spacing_mm, flipped: args.axes.unwrap_or_default() };
        return recipe::run(args, recipe, view, format, out);
    }
    let spec = SynthSpec {
        style: Style::from_seed(args.style.unwrap_or(args.seed)),
        shape: shape.unwrap_or([48; 3]),
        spacing_mm: spacing_mm.unwrap_or([2.5; 3]),
        patients: args.patients,
        labelled_patients: args.labelled,
        seed: args.seed,
    };
    let folder = args.out.as_ref().expect("clap demands a folder where there is no recipe");
    let scans = write_cohort(&spec, folder)?;
    let labelled = args.labelled.min(args.patients);
    match format {
        Format::Json => {
            let line = json!({"out": folder, "patients": args.patients, "labelled_patients": labelled, "scans": scans, "style": spec.style});
            writeln!(out, "{line}")?;
        }
        Format::Text => writeln!(
            out,
            "wrote {scans} scans of {} patients ({labelled} labelled) to {}",
            args.patients,
            folder.display()
        )?,
    }
    Ok(Exit::Done)
}
