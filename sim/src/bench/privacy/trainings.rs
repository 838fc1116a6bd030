//! What is done with programs of their own: the basis, what each hospital trains for itself, and scores.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::Mutex,
};

use semisam_node::data::folder::{Cohort, FolderError};
use semisam_shared::ids::Digest;
use serde_json::Value;

use super::{Settings, runs::Training};
use crate::{
    bench::record::{RecordError, Score, Spread, last_line},
    demo::{
        children::{ChildError, Invocation, Launcher},
        disk::{self, DiskError},
        layout::Hospital,
    },
    programs::Program,
};

/// A program does not do what is needed.
#[derive(Debug, thiserror::Error)]
pub enum TrainingsError {
    /// It failed.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// It printed something else.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The scans.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The file system said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Starts programs.
pub(super) struct Trainings {
    pub(super) launcher: Launcher,
    /// At once, each on one thread.
    pub(super) jobs: usize,
    /// Millimetres and voxels, as the plan says.
    pub(super) spacing: String,
    pub(super) patch: String,
    /// The held-out scans.
    pub(super) test: PathBuf,
    pub(super) logs: PathBuf,
    /// Prepared scans.
    pub(super) cache: PathBuf,
}

type Words<'a> = &'a [&'a dyn AsRef<OsStr>];

/// Makes the basis; answers its file and the clip norm that fits it.
pub(super) fn basis(
    settings: &Settings,
    launcher: &Launcher,
    model: &Path,
    (out, threads): (&Path, usize),
) -> Result<(PathBuf, f64), TrainingsError> {
    let (how, basis) = (&settings.basis, out.join("basis.safetensors"));
    let (directions, patients) = (how.directions.to_string(), how.patients.to_string());
    let words: Words<'_> = &[
        &"student",
        &"basis",
        &"--plan",
        &settings.plan,
        &"--model",
        &model,
        &"--recipe",
        &how.recipe,
        &"--axes",
        &how.axes,
        &"--directions",
        &directions,
        &"--patients",
        &patients,
        &"--out",
        &basis,
        &"--format",
        &"json",
    ];
    let invocation = Invocation::new("the consortium", Program::Node, &out.join("logs").join("basis.log"), words);
    // The same command about the same files gives the same basis, and takes minutes.
    let inputs = [disk::read(&settings.plan)?, disk::read(model)?].map(|bytes| Digest::of(&bytes).to_string());
    let asked = format!("{}\n{}\n", invocation.command(), inputs.join("\n"));
    let kept = out.join("basis.txt");
    let known = if basis.exists() && kept.exists() { disk::read_text(&kept)? } else { String::new() };
    let told = match known.strip_prefix(&asked) {
        Some(told) => told.to_owned(),
        None => Launcher { threads, ..launcher.clone() }.succeed(&invocation)?,
    };
    let clip_norm = last_line(&told, &invocation.command())?.get("clip_norm").and_then(Value::as_f64);
    let clip_norm = clip_norm.ok_or_else(|| RecordError::NoScore(invocation.command()))?;
    disk::write(&kept, (asked + &told).as_bytes())?;
    Ok((basis, clip_norm))
}

impl Trainings {
    /// Scores of a model.
    pub(super) fn evaluate(&self, model: &Path) -> Result<Score, TrainingsError> {
        let words: Words<'_> = &[
            &"evaluate",
            &"--model",
            &model,
            &"--data",
            &self.test,
            &"--spacing",
            &self.spacing,
            &"--patch",
            &self.patch,
            &"--format",
            &"json",
        ];
        let invocation = Invocation::new("a score", Program::Node, &self.logs.join("evaluate.log"), words);
        Ok(Score::of_last_line(&self.launcher.succeed(&invocation)?, &invocation.command())?)
    }

    /// Each hospital trains from `start` for itself; means over hospitals.
    pub(super) fn each(
        &self,
        hospitals: &[Hospital],
        start: &Path,
        how: (Training, u64),
    ) -> Result<Score, TrainingsError> {
        let (queue, scores) = (Mutex::new(hospitals.iter()), Mutex::new(Vec::new()));
        let work = || -> Result<(), TrainingsError> {
            loop {
                // A worker that panicked is reported when its thread is joined; its lock protects nothing half done.
                let next = queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
                let Some(hospital) = next else { return Ok(()) };
                let score = self.one(hospital, start, how)?;
                scores.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(score);
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.jobs.max(1)).map(|_| scope.spawn(work)).collect();
            let ended = workers.into_iter().map(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            ended.collect::<Result<(), TrainingsError>>()
        })?;
        Ok(mean(&scores.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())))
    }

    /// One hospital: mean teacher, or supervised where nobody is without a label.
    fn one(
        &self,
        hospital: &Hospital,
        start: &Path,
        (training, seed): (Training, u64),
    ) -> Result<Score, TrainingsError> {
        let (data, out) = (hospital.scans(), hospital.node());
        let cohort = Cohort::open(&data)?;
        let (labelled, all) = (cohort.labelled().count(), cohort.scans().count());
        let method = if labelled == all { "supervised" } else { "mean-teacher" };
        let (steps, rate, seed) = (training.steps.to_string(), training.learning_rate.to_string(), seed.to_string());
        let words: Words<'_> = &[
            &"train",
            &"--method",
            &method,
            &"--data",
            &data,
            &"--test",
            &self.test,
            &"--init",
            &start,
            &"--steps",
            &steps,
            &"--learning-rate",
            &rate,
            &"--seed",
            &seed,
            &"--spacing",
            &self.spacing,
            &"--patch",
            &self.patch,
            &"--cache",
            &self.cache,
            &"--out",
            &out,
            &"--format",
            &"json",
        ];
        let log = self.logs.join(format!("{}.log", hospital.name));
        let invocation = Invocation::new(&hospital.name, Program::Node, &log, words);
        let text = self.launcher.succeed(&invocation)?;
        let score = Score::of_last_line(&text, &invocation.command())?;
        disk::remove_folder(&out)?;
        Ok(score)
    }
}

/// Means; of distances, over those that have one.
fn mean(scores: &[Score]) -> Score {
    let of = |number: fn(&Score) -> Option<f64>| {
        Spread::of(&scores.iter().filter_map(number).collect::<Vec<_>>()).map(|spread| spread.mean)
    };
    Score {
        dice: of(|score| Some(score.dice)).unwrap_or(0.0),
        hd95_mm: of(|score| score.hd95_mm),
        assd_mm: of(|score| score.assd_mm),
        undefined: scores.iter().map(|score| score.undefined).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_leave_out_what_is_not_defined() {
        let score = |dice, hd95_mm| Score { dice, hd95_mm, assd_mm: None, undefined: u64::from(hd95_mm.is_none()) };
        let found = mean(&[score(0.5, Some(4.0)), score(0.0, None), score(1.0, Some(8.0))]);
        assert_eq!(found, Score { dice: 0.5, hd95_mm: Some(6.0), assd_mm: None, undefined: 1 });
        assert_eq!(mean(&[]).dice, 0.0);
    }
}
