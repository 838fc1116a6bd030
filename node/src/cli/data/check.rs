//! `data check`: reads every scan of a folder as training would, and says what is wrong with each.
//!
//! A hospital's folder (any layout of [`crate::data::folder`]) is checked with its labels against their images; a
//! folder without a layout is taken as a flat folder of scans, and a file as one scan. One line per file, in a fixed
//! order.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::json;

use super::super::{Exit, Format};
use super::{CheckArgs, DataCommandError};
use crate::data::classes::{suggestion, values};
use crate::data::folder::{Cohort, Entry, FolderError, Listing, flat_files, must_match};
use crate::data::nifti::{StoredGrid, read_grid, read_image, read_labels};

/// Files read between two times of printing.
const BATCH: usize = 16;

/// What a file is taken for.
enum Role {
    Image,
    /// With the image that it belongs to, or the reason why there is none.
    Label(Result<PathBuf, FolderError>),
    /// Known to be wrong without opening it.
    Wrong(FolderError),
}

struct Finding {
    file: PathBuf,
    grid: Option<StoredGrid>,
    classes: Option<Vec<u8>>,
    problem: Option<String>,
}

pub(super) fn run(args: &CheckArgs, format: Format, out: &mut dyn Write) -> Result<Exit, DataCommandError> {
    let files = files(&args.dir)?;
    let (mut read, mut problems, mut all_values) = (0, 0, BTreeSet::new());
    if format == Format::Text {
        writeln!(out, "{:<4} {:<5} {:<16} {:<22} file", "", "axes", "shape", "spacing [mm]")?;
    }
    for batch in files.chunks(BATCH) {
        let findings: Vec<Finding> = batch.par_iter().map(|(file, role)| examine(file, role)).collect();
        for finding in findings {
            read += 1;
            problems += usize::from(finding.problem.is_some());
            all_values.extend(finding.classes.iter().flatten().copied());
            match format {
                Format::Json => writeln!(out, "{}", finding.json())?,
                Format::Text => writeln!(out, "{}", finding.text())?,
            }
        }
    }
    if format == Format::Text {
        let cohort = Cohort::open(&args.dir).ok().map_or(String::new(), |cohort| {
            let (patients, scans, labelled) =
                (cohort.patients.len(), cohort.scans().count(), cohort.labelled().count());
            format!("; {patients} patients, {scans} scans, {labelled} of them labelled")
        });
        writeln!(out, "{read} files, {problems} with problems{cohort}")?;
        if let Some(advice) = advice(&all_values.into_iter().collect::<Vec<_>>()) {
            writeln!(out, "{advice}")?;
        }
    }
    Ok(if problems == 0 { Exit::Done } else { Exit::Failed })
}

/// How to train on labels with these values, where it is not as usual: background and one class.
fn advice(values: &[u8]) -> Option<String> {
    let organs = values.iter().filter(|value| **value > 0).count();
    if let Some(map) = suggestion(values) {
        let all = values.iter().map(u8::to_string).collect::<Vec<_>>().join(" ");
        return Some(format!(
            "labels have the values {all}: `train` with --map {map}, or name fewer of them and `other=0` for background"
        ));
    }
    (organs > 1)
        .then(|| format!("labels have {organs} classes beside the background: `train` with --classes {}", organs + 1))
}

/// Every file to look at, and what it should be.
fn files(dir: &Path) -> Result<Vec<(PathBuf, Role)>, DataCommandError> {
    if dir.is_file() {
        return Ok(vec![(dir.to_owned(), Role::Image)]);
    }
    let listing = match Listing::of(dir) {
        Err(FolderError::Layout(_)) => {
            let files = flat_files(dir)?;
            if files.is_empty() {
                return Err(FolderError::Layout(dir.to_owned()).into());
            }
            return Ok(files.into_iter().map(|entry| (entry.path, Role::Image)).collect());
        }
        listing => listing?,
    };
    if listing.images.is_empty() && listing.labels.is_empty() {
        return Err(FolderError::Empty(listing.images_folder).into());
    }
    let mut files = Vec::new();
    for (index, image) in listing.images.iter().enumerate() {
        let first = listing.images[..index].iter().find(|earlier| earlier.name == image.name);
        files.push((image.path.clone(), first.map_or(Role::Image, |first| duplicate(first, image))));
    }
    let mut taken: Vec<(String, &Entry)> = Vec::new();
    for label in &listing.labels {
        let name = listing.image_of(label);
        let first = name.as_ref().ok().and_then(|name| taken.iter().find(|(earlier, _)| earlier == name));
        let role = match (first, &name) {
            (Some((_, first)), _) => duplicate(first, label),
            (None, Ok(name)) => {
                let image = listing.images.iter().find(|image| image.name == *name);
                Role::Label(
                    image.map(|image| image.path.clone()).ok_or(FolderError::LabelWithoutImage(label.path.clone())),
                )
            }
            (None, Err(_)) => Role::Label(name.map(PathBuf::from)),
        };
        if let Role::Label(Ok(_)) = role
            && let Ok(name) = listing.image_of(label)
        {
            taken.push((name, label));
        }
        files.push((label.path.clone(), role));
    }
    if let Err(error) = listing.patients(dir) {
        files.push((dir.join("patients.csv"), Role::Wrong(error)));
    }
    Ok(files)
}

fn duplicate(first: &Entry, second: &Entry) -> Role {
    Role::Wrong(FolderError::Duplicate { first: first.path.clone(), second: second.path.clone() })
}

fn examine(file: &Path, role: &Role) -> Finding {
    let grid = match role {
        Role::Wrong(_) => None,
        _ => read_grid(file).ok(),
    };
    let mut classes = None;
    let problem = match role {
        Role::Wrong(error) => Some(error.to_string()),
        Role::Image => read_image(file).err().map(|error| error.to_string()),
        Role::Label(image) => match read_labels(file) {
            Err(error) => Some(error.to_string()),
            Ok(labels) => {
                classes = Some(values(&labels));
                match image {
                    Err(error) => Some(error.to_string()),
                    // An image that cannot be read is reported in its own line.
                    Ok(image) => read_grid(image).ok().and_then(|image_grid| {
                        must_match(image, &image_grid.canonical, file, &(&labels).into())
                            .err()
                            .map(|error| error.to_string())
                    }),
                }
            }
        },
    };
    Finding { file: file.to_owned(), grid, classes, problem }
}

impl Finding {
    fn json(&self) -> serde_json::Value {
        let grid = self.grid.as_ref();
        json!({
            "file": self.file.to_string_lossy(),
            "ok": self.problem.is_none(),
            "error": self.problem,
            "axes": grid.map(|grid| &grid.axes),
            "shape": grid.map(|grid| grid.shape),
            "spacing_mm": grid.map(|grid| grid.spacing_mm),
            "classes": self.classes,
        })
    }

    fn text(&self) -> String {
        let mark = if self.problem.is_none() { "ok" } else { "BAD" };
        let (axes, shape, spacing) = self.grid.as_ref().map_or_else(Default::default, |grid| {
            let [x, y, z] = grid.spacing_mm;
            let shape = grid.shape.map(|extent| extent.to_string()).join(" x ");
            (grid.axes.clone(), shape, format!("{x:.3} x {y:.3} x {z:.3}"))
        });
        let mut line = format!("{mark:<4} {axes:<5} {shape:<16} {spacing:<22} {}", self.file.display());
        if let Some(classes) = &self.classes {
            let classes = classes.iter().map(u8::to_string).collect::<Vec<_>>().join(" ");
            line.push_str(&format!("  (classes {classes})"));
        }
        if let Some(problem) = &self.problem {
            line.push_str(&format!("\n     {problem}"));
        }
        line
    }
}
