//! `semisam-node evaluate`: scores of a student on the labelled scans of a folder, each on its own grid.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;
use serde_json::{Map, Value, json};

use super::{Format, Viewing, print, resolve};
use crate::{
    data::{
        folder::{Cohort, FolderError, Scan},
        metrics::{Distances, MetricsError, Scores, score},
    },
    device::DeviceError,
    student::{Student, StudentError},
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
    let student = Student::open(&args.model, groups, resolve(device)?, spacing, patch)?;
    let cohort = Cohort::open(&args.data)?;
    cohort.require_labelled()?;
    let mut all = Vec::new();
    for scan in cohort.labelled() {
        let scores = score_scan(&student, scan)?;
        let line = line(&scan.name, &scores);
        print(out, format, &words(&line), &line)?;
        all.push(scores);
    }
    let mean = mean(&all);
    Ok(print(out, format, &words(&mean), &mean)?)
}

/// Scores of `student` on one labelled scan.
///
/// # Errors
/// If the scan cannot be read or has no label.
pub fn score_scan(student: &Student, scan: &Scan) -> Result<Scores, EvaluateError> {
    let (image, truth) = scan.read()?;
    let prediction = student.segment(&image)?;
    let truth = truth.ok_or_else(|| FolderError::NoLabel(scan.image.clone()))?;
    Ok(score(&prediction, &truth)?)
}

/// The scores of a case by name; distances are null where undefined.
fn line(case: &str, scores: &Scores) -> Map<String, Value> {
    let mut line = Map::from_iter([("case".to_owned(), json!(case))]);
    for (name, value) in values(scores) {
        line.insert(name, json!(value));
    }
    line
}

/// Means of the scores; distances over the cases where they are defined, with how many are not.
pub fn mean(all: &[Scores]) -> Map<String, Value> {
    let undefined = all.iter().filter(|scores| scores.mm.is_none()).count();
    let mut mean = Map::from_iter([
        ("case".to_owned(), json!("mean")),
        ("cases".to_owned(), json!(all.len())),
        ("undefined".to_owned(), json!(undefined)),
    ]);
    let columns: Vec<Vec<(String, Option<f64>)>> = all.iter().map(values).collect();
    for (position, (name, _)) in columns.first().into_iter().flatten().enumerate() {
        let defined: Vec<f64> = columns.iter().filter_map(|column| column[position].1).collect();
        let average = (!defined.is_empty()).then(|| defined.iter().sum::<f64>() / defined.len() as f64);
        mean.insert(name.clone(), json!(average));
    }
    mean
}

fn values(scores: &Scores) -> Vec<(String, Option<f64>)> {
    let mut values = vec![("dice".to_owned(), Some(scores.dice)), ("jaccard".to_owned(), Some(scores.jaccard))];
    for (unit, distances) in [("mm", scores.mm), ("vox", scores.vox)] {
        let mut add = |name: &str, of: fn(Distances) -> f64| values.push((format!("{name}_{unit}"), distances.map(of)));
        add("hd", |d| d.hd);
        add("hd95", |d| d.hd95);
        add("asd", |d| d.asd);
        add("asd_reverse", |d| d.asd_reverse);
        add("assd", |d| d.assd);
    }
    values
}

fn words(line: &Map<String, Value>) -> String {
    let number = |name: &str| line.get(name).and_then(Value::as_f64).map_or("-".to_owned(), |v| format!("{v:.3}"));
    let case = line.get("case").and_then(Value::as_str).unwrap_or_default();
    let [dice, hd95, assd] = ["dice", "hd95_mm", "assd_mm"].map(number);
    format!("{case:<32} dice {dice:>6}  hd95 {hd95:>8} mm  assd {assd:>8} mm")
}
