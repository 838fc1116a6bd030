//! `semisam-node evaluate`: scores of a student on the labelled scans of a folder, each on its own grid.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;

use super::{
    Format, Viewing,
    masks::{ClassArgs, ForeignMap, MaskArgs},
    print, resolve,
    scores::{CaseScores, line, mean, words},
};
use crate::{
    data::{
        folder::{Cohort, FolderError, Scan},
        metrics::{MetricsError, score, score_classes},
    },
    device::DeviceError,
    student::{Student, StudentError},
    train::{TrainError, scans::ScanError},
};

/// `semisam-node evaluate`.
#[derive(Clone, Debug, Args)]
pub struct EvaluateArgs {
    /// The student, .safetensors or .pth.
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// A folder of scans; those with labels are scored.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// How to show scans to the student.
    #[command(flatten)]
    pub viewing: Viewing,
    /// How masks are made.
    #[command(flatten)]
    pub masks: MaskArgs,
}

/// Why there are no scores.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The folder or a scan.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A label that does not fit the student or the map.
    #[error(transparent)]
    Label(#[from] ScanError),
    /// The map of classes.
    #[error(transparent)]
    Map(#[from] ForeignMap),
    /// The student.
    #[error(transparent)]
    Student(#[from] StudentError),
    /// A mask.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The output.
    #[error("cannot print the result")]
    Print(#[from] io::Error),
}

/// Runs the command.
///
/// # Errors
/// If no scan has labels, or a scan or the student cannot be read.
pub fn run(args: &EvaluateArgs, format: Format, out: &mut dyn Write) -> Result<(), EvaluateError> {
    let Viewing { spacing, patch, groups, device } = args.viewing;
    let classes = &args.masks.classes;
    let mut student = Student::open(&args.model, groups, resolve(device)?, spacing, patch)?;
    args.masks.apply(&mut student)?;
    let cohort = Cohort::open(&args.data)?;
    cohort.require_labelled()?;
    let mut all = Vec::new();
    for scan in cohort.labelled() {
        let scores = score_scan(&student, scan, classes)?;
        let line = line(&scan.name, &scores, classes);
        print(out, format, &words(&line), &line)?;
        all.push(scores);
    }
    let mut mean = mean(&all, classes);
    mean.extend(args.masks.describe(&student));
    Ok(print(out, format, &words(&mean), &mean)?)
}

/// Scores of `student` on one labelled scan. A student of one class without a map is compared with everything that is not
/// background, whatever its value.
///
/// # Errors
/// If the scan cannot be read, has no label, or one with a class that the student does not have.
pub fn score_scan(student: &Student, scan: &Scan, classes: &ClassArgs) -> Result<CaseScores, EvaluateError> {
    let (image, truth) = scan.read()?;
    let (Some(mut truth), Some(path)) = (truth, &scan.label) else {
        return Err(FolderError::NoLabel(scan.image.clone()).into());
    };
    classes.to_classes(&mut truth).map_err(|unnamed| ScanError::Unnamed { path: path.clone(), unnamed })?;
    let known = student.config.classes;
    let unknown = truth.values.iter().copied().max().filter(|class| known > 2 && usize::from(*class) >= known);
    if let Some(label) = unknown {
        let source = Box::new(TrainError::Class { label, classes: known });
        return Err(ScanError::Unfit { path: path.clone(), source }.into());
    }
    let prediction = student.segment(&image)?;
    let of_classes = if known > 2 { score_classes(&prediction, &truth, known)? } else { Vec::new() };
    Ok(CaseScores { all: score(&prediction, &truth)?, classes: of_classes })
}
