//! `semisam-node predict`: a mask for one scan, on the scan's own grid.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;
use serde_json::json;

use super::{Format, Viewing, print, resolve};
use crate::{
    data::{
        nifti::{self, NiftiError, WriteError, write_labels_like},
        preview::{PreviewError, write_preview},
    },
    device::DeviceError,
    student::{Student, StudentError},
};

/// `semisam-node predict`.
#[derive(Clone, Debug, Args)]
pub struct PredictArgs {
    /// The student, .safetensors or .pth.
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// The scan, .nii or .nii.gz.
    #[arg(long = "in", value_name = "SCAN")]
    pub input: PathBuf,
    /// Where the mask goes, .nii or .nii.gz.
    #[arg(long, value_name = "MASK")]
    pub out: PathBuf,
    /// Also draw the mask over the scan's middle slices.
    #[arg(long, value_name = "PNG")]
    pub preview: Option<PathBuf>,
    /// How to show the scan to the student.
    #[command(flatten)]
    pub viewing: Viewing,
}

/// Why there is no mask.
#[derive(Debug, thiserror::Error)]
pub enum PredictError {
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The scan.
    #[error(transparent)]
    Scan(#[from] NiftiError),
    /// The student.
    #[error(transparent)]
    Student(#[from] StudentError),
    /// The mask.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The picture.
    #[error(transparent)]
    Preview(#[from] PreviewError),
    /// The output.
    #[error("cannot print the result")]
    Print(#[from] io::Error),
}

/// Runs the command.
///
/// # Errors
/// If scan or student cannot be read, or the mask cannot be written.
pub fn run(args: &PredictArgs, format: Format, out: &mut dyn Write) -> Result<(), PredictError> {
    let Viewing { spacing, patch, groups, device } = args.viewing;
    let student = Student::open(&args.model, groups, resolve(device)?, spacing, patch)?;
    let image = nifti::read_image(&args.input)?;
    let mask = student.segment(&image)?;
    write_labels_like(&args.input, &mask, &args.out)?;
    if let Some(picture) = &args.preview {
        write_preview(picture, &image, &mask, None)?;
    }
    let foreground = mask.values.iter().filter(|class| **class > 0).count();
    let millilitres = foreground as f64 * mask.spacing().iter().product::<f64>() / 1000.0;
    let words = format!("`{}`: {foreground} voxels of foreground, {millilitres:.1} ml", args.out.display());
    let value = json!({
        "mask": args.out, "preview": args.preview, "shape": mask.shape,
        "foreground_voxels": foreground, "foreground_ml": millilitres,
    });
    Ok(print(out, format, &words, &value)?)
}
