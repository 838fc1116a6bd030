//! `semisam-node predict`: a mask for one scan, on the scan's own grid.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::{
    Format, Viewing,
    masks::{ForeignMap, MaskArgs},
    print, resolve,
};
use crate::{
    data::{
        nifti::{self, NiftiError, WriteError, write_labels_like},
        preview::{PreviewError, colour, write_preview},
        volume::LabelMap,
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
    /// How the mask is made.
    #[command(flatten)]
    pub masks: MaskArgs,
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
    /// The map of classes.
    #[error(transparent)]
    Map(#[from] ForeignMap),
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
    let mut student = Student::open(&args.model, groups, resolve(device)?, spacing, patch)?;
    args.masks.apply(&mut student)?;
    let image = nifti::read_image(&args.input)?;
    let mut mask = student.segment(&image)?;
    if let Some(picture) = &args.preview {
        write_preview(picture, &image, &mask, None)?;
    }
    drop(image);
    let found = found(&mask, &student, &args.masks);
    if let Some(map) = &args.masks.classes.map {
        map.to_values(&mut mask);
    }
    write_labels_like(&args.input, &mask, &args.out)?;
    let (voxels, millilitres) = found.iter().fold((0, 0.0), |sum, class| (sum.0 + class.voxels, sum.1 + class.ml));
    if voxels == 0 {
        tracing::warn!(
            "the student sees nothing in `{}`, so that the mask is empty: is it a scan of what it was trained on?",
            args.input.display()
        );
    }
    let mut words = format!("`{}`: {voxels} voxels of foreground, {millilitres:.1} ml", args.out.display());
    if found.len() > 1 {
        let lines = found.iter().map(|class| {
            format!("\n  value {:>3}  {:>9} voxels  {:>9.1} ml  {}", class.value, class.voxels, class.ml, class.colour)
        });
        words.extend(lines);
    }
    let mut value = args.masks.describe(&student);
    let told = json!({
        "mask": args.out, "preview": args.preview, "shape": mask.shape,
        "foreground_voxels": voxels, "foreground_ml": millilitres, "classes": found,
    });
    value.extend(told.as_object().cloned().unwrap_or_default());
    Ok(print(out, format, &words, &value)?)
}

/// How much there is of a class.
#[derive(Debug, Serialize)]
struct Found {
    class: u8,
    /// In the mask's file.
    value: u8,
    voxels: usize,
    ml: f64,
    /// In the picture.
    colour: String,
}

/// What a mask of classes has of each of the student's.
fn found(mask: &LabelMap, student: &Student, masks: &MaskArgs) -> Vec<Found> {
    let mut counts = [0; 256];
    mask.values.iter().for_each(|&class| counts[usize::from(class)] += 1);
    let millilitres = mask.spacing().iter().product::<f64>() / 1000.0;
    let of_class = |class: u8| {
        let voxels = counts[usize::from(class)];
        let [red, green, blue] = colour(class);
        let colour = format!("#{red:02x}{green:02x}{blue:02x}");
        Found { class, value: masks.classes.value_of(class), voxels, ml: voxels as f64 * millilitres, colour }
    };
    (1..=255).take(student.config.classes - 1).map(of_class).collect()
}
