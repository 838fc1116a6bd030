//! `semisam-node sam`: a generalist on its own: masks from points, embeddings, scores; parity of SAM-Med3D with the original
//! implementation; pre-training of the small one.

pub mod evaluate;
pub mod pretrain;
pub mod refine;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use clap::{Args, Subcommand};
use semisam_shared::weights::{Tensor, Weights, WeightsError};
use serde_json::{Map, Value, json};

use super::{Format, print, resolve};
use crate::{
    data::{
        folder::FolderError,
        nifti::{self, NiftiError, WriteError, write_labels_like},
        preview::{PreviewError, write_preview},
    },
    device::{DeviceChoice, DeviceError},
    generalist::{
        Generalist, GeneralistError,
        point::{Point, centre},
        reference::{ReferenceError, compare},
        view::View,
    },
    model::checkpoint::{self, CheckpointError},
    student::StudentError,
};

/// What can be done with a generalist.
#[derive(Clone, Debug, Subcommand)]
pub enum SamCommand {
    /// Compares embedding, masks and scores with a reference file.
    Verify(VerifyArgs),
    /// Segments the object that points lead to.
    Segment(SegmentArgs),
    /// Writes the embedding of a scan.
    Embed(EmbedArgs),
    /// Scores masks after clicks that the true labels lead to.
    Evaluate(evaluate::EvaluateArgs),
    /// Scores what a student's own prediction leads to, alone and averaged with it.
    Refine(refine::RefineArgs),
    /// Trains a small generalist on synthetic scans.
    Pretrain(pretrain::PretrainArgs),
}

/// What every use of a generalist needs.
#[derive(Clone, Debug, Args)]
pub struct GeneralistArgs {
    /// A SAM-Med3D, .pth as published or .safetensors, or a small generalist of `sam pretrain`; the file tells which. Or
    /// `small-generalist` or `left-atrium-generalist`, which come with the program.
    #[arg(long, value_name = "FILE")]
    pub checkpoint: PathBuf,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    pub device: DeviceChoice,
}

/// `semisam-node sam verify`.
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    /// The generalist.
    #[command(flatten)]
    pub generalist: GeneralistArgs,
    /// Inputs and expected outputs, .safetensors.
    #[arg(long, value_name = "FILE")]
    pub reference: PathBuf,
}

/// `semisam-node sam segment`.
#[derive(Clone, Debug, Args)]
pub struct SegmentArgs {
    /// The generalist.
    #[command(flatten)]
    pub generalist: GeneralistArgs,
    /// The scan, .nii or .nii.gz.
    #[arg(long = "in", value_name = "SCAN")]
    pub input: PathBuf,
    /// A voxel of the object, in the file's own order from 0; `i,j,k:-` for one outside it. Repeat for more.
    #[arg(long = "point", value_name = "I,J,K[:-]", required = true, allow_hyphen_values = true)]
    pub points: Vec<Point>,
    /// Where the mask goes, .nii or .nii.gz.
    #[arg(long, value_name = "MASK")]
    pub out: PathBuf,
    /// Also draw the mask over the scan's middle slices.
    #[arg(long, value_name = "PNG")]
    pub preview: Option<PathBuf>,
}

/// `semisam-node sam embed`.
#[derive(Clone, Debug, Args)]
pub struct EmbedArgs {
    /// The generalist.
    #[command(flatten)]
    pub generalist: GeneralistArgs,
    /// The scan, .nii or .nii.gz.
    #[arg(long = "in", value_name = "SCAN")]
    pub input: PathBuf,
    /// What to centre on; the middle of the scan without it. Repeat for more.
    #[arg(long = "point", value_name = "I,J,K", allow_hyphen_values = true)]
    pub points: Vec<Point>,
    /// Where the embedding goes, .safetensors.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// Why a command fails.
#[derive(Debug, thiserror::Error)]
pub enum SamCommandError {
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The scan.
    #[error(transparent)]
    Scan(#[from] NiftiError),
    /// A folder of scans.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A student.
    #[error(transparent)]
    Student(#[from] StudentError),
    /// Pre-training.
    #[error(transparent)]
    Pretrain(#[from] pretrain::PretrainError),
    /// A file of tensors.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The generalist, or a point.
    #[error(transparent)]
    Generalist(#[from] GeneralistError),
    /// The comparison.
    #[error("cannot compare `{checkpoint}` with `{reference}`")]
    Reference {
        /// The weights.
        checkpoint: PathBuf,
        /// The reference.
        reference: PathBuf,
        /// Why.
        source: ReferenceError,
    },
    /// The mask.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The picture.
    #[error(transparent)]
    Preview(#[from] PreviewError),
    /// The embedding's bytes.
    #[error(transparent)]
    Encode(#[from] WeightsError),
    /// The embedding's file.
    #[error("cannot write `{path}`; check that the folder exists, may be written to, and that the disk is not full")]
    Save {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The output.
    #[error("cannot print the result")]
    Print(#[from] io::Error),
}

/// Runs the command; setting `stop` ends pre-training early.
///
/// # Errors
/// If a file cannot be read or written, or does not hold what is needed.
pub fn run(
    command: &SamCommand,
    format: Format,
    out: &mut dyn Write,
    stop: &AtomicBool,
) -> Result<(), SamCommandError> {
    let (words, value) = match command {
        SamCommand::Evaluate(args) => return evaluate::run(args, format, out),
        SamCommand::Refine(args) => return refine::run(args, format, out),
        SamCommand::Pretrain(args) => return Ok(pretrain::run(args, format, out, stop)?),
        SamCommand::Verify(args) => verify(args)?,
        SamCommand::Segment(args) => segment(args)?,
        SamCommand::Embed(args) => embed(args)?,
    };
    Ok(print(out, format, &words, &value)?)
}

fn verify(args: &VerifyArgs) -> Result<(String, Value), SamCommandError> {
    let GeneralistArgs { checkpoint, device } = &args.generalist;
    let device = resolve(*device)?;
    let reference = checkpoint::read(&args.reference)?;
    let comparison = compare(device, checkpoint::read(checkpoint)?, &reference).map_err(|source| {
        let (checkpoint, reference) = (checkpoint.clone(), args.reference.clone());
        SamCommandError::Reference { checkpoint, reference, source }
    })?;
    let mut words = format!("{:<44} {:>12} {:>12}", "output", "max abs", "max rel");
    for output in &comparison.outputs {
        words += &format!("\n{:<44} {:>12.3e} {:>12.3e}", output.name, output.max_abs_error, output.max_rel_error);
    }
    Ok((words, json!(comparison)))
}

fn segment(args: &SegmentArgs) -> Result<(String, Value), SamCommandError> {
    let (stored, image) = (nifti::read_grid(&args.input)?, nifti::read_image(&args.input)?);
    let found = open(&args.generalist)?.looking_twice().segment(&image, &stored, &args.points)?;
    write_labels_like(&args.input, &found.mask, &args.out)?;
    if let Some(picture) = &args.preview {
        write_preview(picture, &image, &found.mask, None)?;
    }
    let foreground = found.mask.values.iter().filter(|class| **class > 0).count();
    if foreground == 0 {
        tracing::warn!(
            "nothing was drawn at these points: give more of them, inside the object and, with :-, outside it"
        );
    }
    let millilitres = foreground as f64 * found.mask.spacing().iter().product::<f64>() / 1000.0;
    let words = format!(
        "`{}`: {foreground} voxels of foreground, {millilitres:.1} ml, predicted overlap {:.2}",
        args.out.display(),
        found.score
    );
    let mut value = shown(&found.view);
    value.extend([
        ("mask".to_owned(), json!(args.out)),
        ("preview".to_owned(), json!(args.preview)),
        ("shape".to_owned(), json!(stored.shape)),
        ("points".to_owned(), json!(args.points.iter().map(Point::to_string).collect::<Vec<_>>())),
        ("foreground_voxels".to_owned(), json!(foreground)),
        ("foreground_ml".to_owned(), json!(millilitres)),
        ("predicted_iou".to_owned(), json!(found.score)),
    ]);
    Ok((words, Value::Object(value)))
}

fn embed(args: &EmbedArgs) -> Result<(String, Value), SamCommandError> {
    let (stored, image) = (nifti::read_grid(&args.input)?, nifti::read_image(&args.input)?);
    let generalist = open(&args.generalist)?;
    let centre = centre(&args.points, &stored).map_err(GeneralistError::from)?;
    let view = generalist.network().view(&image, centre).map_err(GeneralistError::from)?;
    let found = generalist.embed(&view)?;
    let mut value = shown(&view);
    let shape = found.values.shape.clone();
    let affine = found.grid.affine.iter().flatten().map(|number| *number as f32).collect();
    let tensors = [("image_embedding", found.values), ("affine", Tensor { shape: vec![4, 4], values: affine })];
    let tensors = Weights::new(tensors.map(|(name, tensor)| (name.to_owned(), tensor)))?;
    save(&args.out, &tensors.to_safetensors()?)?;
    value.extend([("embedding".to_owned(), json!(args.out)), ("shape".to_owned(), json!(shape))]);
    let words = format!("`{}`: image_embedding {shape:?}, and the affine of the image's voxels", args.out.display());
    Ok((words, Value::Object(value)))
}

fn open(args: &GeneralistArgs) -> Result<Generalist, SamCommandError> {
    Ok(Generalist::open(&args.checkpoint, resolve(args.device)?)?)
}

/// How the scan was shown to the network.
fn shown(view: &View) -> Map<String, Value> {
    let view = json!({
        "shape": view.image.shape, "spacing_mm": view.image.spacing()[0], "intensities": view.intensities,
        "mean": view.mean, "deviation": view.deviation,
    });
    Map::from_iter([("view".to_owned(), view)])
}

/// Writes a file that appears under its name only when it is complete.
fn save(path: &Path, bytes: &[u8]) -> Result<(), SamCommandError> {
    let partial = path.with_extension("partial");
    let written = fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // Best effort: the error that matters is the first one.
        let _ = fs::remove_file(&partial);
    }
    written.map_err(|source| SamCommandError::Save { path: path.to_path_buf(), source })
}
