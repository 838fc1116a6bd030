//! How good a model is on scans that nobody learnt from: the node's own prediction, on each scan's own grid.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
};

use semisam_node::{
    data::{
        folder::{Cohort, FolderError, Scan},
        metrics::{self, MetricsError},
        preview::{PreviewError, write_preview},
    },
    device::Device,
    student::{Student, StudentError},
};
use serde::Serialize;

use super::{layout::Hospital, plan::Recipe, progress::Progress};

/// A model cannot be scored.
#[derive(Debug, thiserror::Error)]
pub enum ScoresError {
    /// The held-out scans.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The model.
    #[error(transparent)]
    Student(#[from] StudentError),
    /// A prediction on another grid than the truth.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The picture.
    #[error(transparent)]
    Preview(#[from] PreviewError),
    /// There is nothing to draw.
    #[error("`{}` holds no label to score against", .0.display())]
    Nothing(PathBuf),
}

/// How well one held-out scan was segmented.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Case {
    /// The scan.
    pub name: String,
    /// Overlap with the truth.
    pub dice: f64,
    /// 95th percentile of surface distances in millimetres; none where nothing was found.
    pub hd95_mm: Option<f64>,
}

/// The scores of each hospital's held-out scans.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scores(pub(crate) Vec<Vec<Case>>);

impl Scores {
    /// Mean Dice of one hospital.
    pub(crate) fn dice_of(&self, hospital: usize) -> f64 {
        mean(self.0[hospital].iter().map(|case| case.dice)).unwrap_or(0.0)
    }

    /// Mean Dice of all scans.
    pub(crate) fn dice(&self) -> f64 {
        mean(self.0.iter().flatten().map(|case| case.dice)).unwrap_or(0.0)
    }

    /// Mean HD95 of one hospital, over the scans where it is defined.
    pub(crate) fn hd95_of(&self, hospital: usize) -> Option<f64> {
        mean(self.0[hospital].iter().filter_map(|case| case.hd95_mm))
    }

    /// Mean HD95 of all scans where it is defined.
    pub(crate) fn hd95(&self) -> Option<f64> {
        mean(self.0.iter().flatten().filter_map(|case| case.hd95_mm))
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// A model from a file, as the plan shows it scans.
pub(crate) fn student(model: &Path, recipe: &Recipe, device: Device) -> Result<Student, ScoresError> {
    let patch = recipe.patch.map(|side| side as usize);
    Ok(Student::open(model, Some(recipe.groups as usize), device, recipe.spacing_mm[0], patch)?)
}

/// Scores `student` on the held-out scans of all hospitals.
pub(crate) fn score(
    student: &Student,
    hospitals: &[Hospital],
    when: &str,
    progress: &Progress,
) -> Result<Scores, ScoresError> {
    let mut scans: Vec<(usize, Scan)> = Vec::new();
    for (index, hospital) in hospitals.iter().enumerate() {
        scans.extend(Cohort::open(&hospital.held_out())?.labelled().map(|scan| (index, scan.clone())));
    }
    let bar = progress.count(&format!("scores {when}"), scans.len() as u64);
    let found = Mutex::new(Vec::with_capacity(scans.len()));
    let queue = Mutex::new(scans.into_iter().enumerate());
    let work = || {
        loop {
            // A worker that panicked is reported when its thread is joined; its lock protects nothing half done.
            let next = queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
            let Some((order, (hospital, scan))) = next else { return };
            let case = case(student, &scan);
            bar.step();
            found.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((order, hospital, case));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..super::cores() {
            scope.spawn(work);
        }
    });
    let mut found = found.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    found.sort_by_key(|(order, ..)| *order);
    let mut scores = vec![Vec::new(); hospitals.len()];
    for (_, hospital, case) in found {
        scores[hospital].push(case?);
    }
    Ok(Scores(scores))
}

fn case(student: &Student, scan: &Scan) -> Result<Case, ScoresError> {
    let (image, truth) = scan.read()?;
    let truth = truth.ok_or_else(|| ScoresError::Nothing(scan.image.clone()))?;
    let scores = metrics::score(&student.segment(&image)?, &truth)?;
    Ok(Case { name: scan.name.clone(), dice: scores.dice, hd95_mm: scores.mm.map(|distances| distances.hd95) })
}

/// Draws prediction and truth over the first held-out scan of a hospital.
pub(crate) fn picture(student: &Student, hospital: &Hospital, path: &Path) -> Result<(), ScoresError> {
    let cohort = Cohort::open(&hospital.held_out())?;
    let scan = cohort.labelled().next().ok_or_else(|| ScoresError::Nothing(hospital.held_out()))?;
    let (image, truth) = scan.read()?;
    let prediction = student.segment(&image)?;
    Ok(write_preview(path, &image, &prediction, truth.as_ref())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_leave_undefined_distances_out() {
        let case = |dice, hd95_mm| Case { name: String::new(), dice, hd95_mm };
        let scores = Scores(vec![vec![case(0.5, Some(4.0)), case(0.0, None)], vec![case(1.0, Some(2.0))]]);
        assert_eq!((scores.dice_of(0), scores.dice_of(1), scores.dice()), (0.25, 1.0, 0.5));
        assert_eq!((scores.hd95_of(0), scores.hd95()), (Some(4.0), Some(3.0)));
    }
}
