//! What no training on the scans is worth: the pre-trained student as it is, what a generalist makes of its prediction, a
//! generalist with clicks from the truth, and the mean mask of the training labels.
//!
//! The mean mask looks at no image: training labels are stretched to the extents of a held-out scan and averaged, and what at
//! least half of them cover is the prediction. Where scans are cut-outs around the object it is the yardstick that any
//! network must beat, because the cut alone tells where the object lies.

use std::ffi::OsStr;

use semisam_node::data::{
    folder::{Cohort, FolderError},
    metrics::{MetricsError, score},
    nifti::{self, NiftiError},
    volume::LabelMap,
};
use serde_json::Value;

use super::{
    Places,
    runs::{Of, Settings},
};
use crate::{
    bench::{
        record::{Record, RecordError, Score, Spread, last_line},
        sides,
    },
    demo::{
        children::{ChildError, Invocation, Launcher},
        progress::Progress,
    },
    programs::Program,
};

/// Clicks after which a generalist is scored.
pub const CLICKS: [u64; 4] = [1, 3, 5, 10];

/// A comparison without training fails.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// A program.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// Writing it down.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The scans.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A label.
    #[error(transparent)]
    Nifti(#[from] NiftiError),
    /// A mask on another grid.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// Measures what is not on record yet.
pub(super) fn measure(
    settings: &Settings,
    places: &Places,
    launcher: &Launcher,
    record: &mut Record<Of>,
    progress: &Progress,
) -> Result<(), BaselineError> {
    for (name, labels) in atlases(settings) {
        if record.find(&Of::baseline(&name, settings)).is_none() {
            let score = atlas(places, labels)?;
            progress.say(&format!("{name}: dice {:.3}", score.dice));
            record.add(Of::baseline(&name, settings), score, None)?;
        }
    }
    let (log, test) = (places.logs.join("baselines.log"), &places.test);
    let (millimetres, patch) = (settings.spacing_mm.to_string(), sides(settings.patch));
    let node = |args: &[&dyn AsRef<OsStr>]| {
        let common: [&dyn AsRef<OsStr>; 4] = [&"--data", test, &"--format", &"json"];
        Invocation::new("a comparison", Program::Node, &log, &[args, &common].concat())
    };
    let windows: [&dyn AsRef<OsStr>; 4] = [&"--spacing", &millimetres, &"--patch", &patch];
    if let Some(init) = settings.init.as_ref().filter(|_| record.find(&Of::baseline(ZERO_SHOT, settings)).is_none()) {
        let invocation = node(&[&[&"evaluate" as &dyn AsRef<OsStr>, &"--model", init], &windows[..]].concat());
        let score = Score::of_last_line(&launcher.succeed(&invocation)?, &invocation.command())?;
        record.add(Of::baseline(ZERO_SHOT, settings), score, None)?;
    }
    let Some(generalist) = &settings.generalist else { return Ok(()) };
    if record.find(&Of::baseline(&clicks(CLICKS[0]), settings)).is_none() {
        let wanted = CLICKS.map(|clicks| clicks.to_string()).join(",");
        let invocation = node(&[&"sam", &"evaluate", &"--checkpoint", generalist, &"--clicks", &wanted]);
        let dice = last_line(&launcher.succeed(&invocation)?, &invocation.command())?;
        for count in CLICKS {
            let score = overlap(&dice, &["dice", &count.to_string()], &invocation)?;
            record.add(Of::baseline(&clicks(count), settings), score, None)?;
        }
    }
    if let Some(init) = settings.init.as_ref().filter(|_| record.find(&Of::baseline(REFINED, settings)).is_none()) {
        let refine: [&dyn AsRef<OsStr>; 6] = [&"sam", &"refine", &"--checkpoint", generalist, &"--student", init];
        let invocation = node(&[&refine, &windows[..]].concat());
        let found = last_line(&launcher.succeed(&invocation)?, &invocation.command())?;
        record.add(Of::baseline(REFINED, settings), overlap(&found, &["generalist", "mask"], &invocation)?, None)?;
    }
    Ok(())
}

/// The pre-trained student.
pub const ZERO_SHOT: &str = "pre-trained student, no real scan";
/// A generalist that sees the pre-trained student's prediction.
pub const REFINED: &str = "generalist, prompted with that student's map";

/// A generalist with clicks from the truth.
pub fn clicks(count: u64) -> String {
    format!("generalist, {count} clicks from the truth")
}

/// Mean masks of the first labels, and of all; by name, with how many.
pub fn atlases(settings: &Settings) -> Vec<(String, Option<usize>)> {
    let of = |count: &usize| (format!("mean mask of {count} training labels"), Some(*count));
    settings.labels.iter().map(of).chain([("mean mask of all training labels".to_owned(), None)]).collect()
}

fn overlap(value: &Value, path: &[&str], invocation: &Invocation) -> Result<Score, BaselineError> {
    let found = path.iter().try_fold(value, |value, name| value.get(name)).and_then(Value::as_f64);
    let dice = found.ok_or_else(|| RecordError::NoScore(invocation.command()))?;
    Ok(Score { dice, hd95_mm: None, assd_mm: None, undefined: 0 })
}

/// Scores of the mean mask of the first `labels` training labels on the held-out scans.
fn atlas(places: &Places, labels: Option<usize>) -> Result<Score, BaselineError> {
    let train = Cohort::open(&places.train)?;
    let masks = train.labelled().take(labels.unwrap_or(usize::MAX)).filter_map(|scan| scan.label.as_ref());
    let masks = masks.map(|path| nifti::read_labels(path)).collect::<Result<Vec<_>, _>>()?;
    let (mut dice, mut hd95, mut assd, mut undefined) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for path in Cohort::open(&places.test)?.labelled().filter_map(|scan| scan.label.as_ref()) {
        let truth = nifti::read_labels(path)?;
        let scores = score(&mean_mask(&masks, &truth), &truth)?;
        dice.push(scores.dice);
        match scores.mm {
            Some(distances) => (hd95.push(distances.hd95), assd.push(distances.assd)).0,
            None => undefined += 1,
        }
    }
    let mean = |values: &[f64]| Spread::of(values).map(|spread| spread.mean);
    Ok(Score { dice: mean(&dice).unwrap_or(0.0), hd95_mm: mean(&hd95), assd_mm: mean(&assd), undefined })
}

/// What at least half of `masks` cover, each stretched to the extents of `like`.
fn mean_mask(masks: &[LabelMap], like: &LabelMap) -> LabelMap {
    let [nx, ny, nz] = like.shape;
    let covered = |at: usize| {
        let place = [at / nz / ny, at / nz % ny, at % nz];
        let covers = |mask: &&LabelMap| {
            let [x, y, z]: [usize; 3] =
                std::array::from_fn(|axis| (2 * place[axis] + 1) * mask.shape[axis] / (2 * like.shape[axis]));
            mask.values[mask.index(x, y, z)] > 0
        };
        u8::from(2 * masks.iter().filter(covers).count() >= masks.len().max(1))
    };
    LabelMap { shape: like.shape, affine: like.affine, values: (0..nx * ny * nz).map(covered).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(shape: [usize; 3], inside: impl Fn(usize) -> bool) -> LabelMap {
        let affine = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
        let [nx, ny, nz] = shape;
        LabelMap { shape, affine, values: (0..nx * ny * nz).map(|at| u8::from(inside(at / nz / ny))).collect() }
    }

    #[test]
    fn a_mean_mask_is_what_half_of_the_stretched_masks_cover() {
        let masks = [mask([4, 2, 2], |x| x < 2), mask([8, 3, 5], |x| x < 2), mask([2, 2, 2], |_| false)];
        let like = mask([8, 2, 3], |_| false);
        assert_eq!(mean_mask(&masks, &like), mask([8, 2, 3], |x| x < 2));
        assert_eq!(mean_mask(&masks[..1], &like), mask([8, 2, 3], |x| x < 4));
        assert_eq!(mean_mask(&masks[2..], &like), like);
    }
}
