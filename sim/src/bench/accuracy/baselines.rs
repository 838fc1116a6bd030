//! What no training on the scans is worth: the pre-trained student as it is, what a generalist makes of its prediction, a
//! generalist with clicks from the truth, and the mean mask of the training labels.
//!
//! The mean mask looks at no image: training labels are stretched to the extents of a held-out scan and averaged, and what at
//! least half of them cover is the prediction. Where scans are cut-outs around the object it is the yardstick that any
//! network must beat, because the cut alone tells where the object lies.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    path::PathBuf,
};

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
const CLICKS: [u64; 4] = [1, 3, 5, 10];

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Baseline {
    /// The pre-trained student as it is.
    ZeroShot,
    /// A generalist that sees the pre-trained student's prediction.
    Refined,
    /// A generalist with so many clicks from the truth.
    Clicks(u64),
    /// The mean mask of the first so many training labels, or of all.
    Atlas(Option<usize>),
}

impl Baseline {
    /// All that a table needs, in the order of its rows.
    pub fn all(settings: &Settings) -> impl Iterator<Item = Self> {
        let atlases = settings.labels.iter().map(|count| Some(*count)).chain([None]).map(Self::Atlas);
        [Self::ZeroShot, Self::Refined].into_iter().chain(CLICKS.map(Self::Clicks)).chain(atlases)
    }

    /// Whether the models are given that it needs.
    fn possible(self, settings: &Settings) -> bool {
        let (student, generalist) = self.models();
        (!student || settings.init.is_some()) && (!generalist || settings.generalist.is_some())
    }

    /// Whether the pre-trained student and a generalist have to do with it.
    pub fn models(self) -> (bool, bool) {
        (matches!(self, Self::ZeroShot | Self::Refined), matches!(self, Self::Refined | Self::Clicks(_)))
    }
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZeroShot => f.write_str("pre-trained student, no real scan"),
            Self::Refined => f.write_str("generalist, prompted with that student's map"),
            Self::Clicks(count) => write!(f, "generalist, {count} clicks from the truth"),
            Self::Atlas(Some(count)) => write!(f, "mean mask of {count} training labels"),
            Self::Atlas(None) => f.write_str("mean mask of all training labels"),
        }
    }
}

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
    let bench = Bench { settings, places, launcher };
    for baseline in Baseline::all(settings).filter(|baseline| baseline.possible(settings)) {
        if record.find(&Of::baseline(baseline, settings)).is_none() {
            for (baseline, score) in bench.scores(baseline)? {
                progress.say(&format!("{baseline}: dice {:.3}", score.dice));
                record.add(Of::baseline(baseline, settings), score, None)?;
            }
        }
    }
    Ok(())
}

/// What comparisons share.
struct Bench<'a> {
    settings: &'a Settings,
    places: &'a Places,
    launcher: &'a Launcher,
}

impl Bench<'_> {
    /// On the held-out scans: of all clicks at once, else of this one.
    fn scores(&self, baseline: Baseline) -> Result<Vec<(Baseline, Score)>, BaselineError> {
        let Settings { init, generalist, spacing_mm, patch, .. } = self.settings;
        let windows = words(&format!("--spacing {spacing_mm} --patch {}", sides(*patch)));
        let score = match baseline {
            Baseline::Atlas(labels) => atlas(self.places, labels)?,
            Baseline::ZeroShot => {
                let (text, command) = self.node([words("evaluate"), model("--model", init), windows].concat())?;
                Score::of_last_line(&text, &command)?
            }
            Baseline::Refined => {
                let models = [model("--checkpoint", generalist), model("--student", init)].concat();
                let (text, command) = self.node([words("sam refine"), models, windows].concat())?;
                overlap(&last_line(&text, &command)?, ["generalist", "mask"], &command)?
            }
            Baseline::Clicks(_) => {
                let clicks = words(&format!("--clicks {}", CLICKS.map(|count| count.to_string()).join(",")));
                let line = [words("sam evaluate"), model("--checkpoint", generalist), clicks].concat();
                let (text, command) = self.node(line)?;
                let dice = last_line(&text, &command)?;
                let of =
                    |count: u64| Ok((Baseline::Clicks(count), overlap(&dice, ["dice", &count.to_string()], &command)?));
                return CLICKS.into_iter().map(of).collect();
            }
        };
        Ok(vec![(baseline, score)])
    }

    /// What `semisam-node` prints with `line` about the held-out scans, and that command.
    fn node(&self, line: Vec<OsString>) -> Result<(String, String), ChildError> {
        let common: [&dyn AsRef<OsStr>; 4] = [&"--data", &self.places.test, &"--format", &"json"];
        let args: Vec<&dyn AsRef<OsStr>> = line.iter().map(|word| word as _).chain(common).collect();
        let log = self.places.logs.join("baselines.log");
        let invocation = Invocation::new("a comparison", Program::Node, &log, &args);
        Ok((self.launcher.succeed(&invocation)?, invocation.command()))
    }
}

/// Words of a command line, none of which holds a space.
fn words(text: &str) -> Vec<OsString> {
    text.split(' ').map(OsString::from).collect()
}

/// An option with a model, if that is given.
fn model(option: &str, path: &Option<PathBuf>) -> Vec<OsString> {
    path.iter().flat_map(|path| [OsString::from(option), path.into()]).collect()
}

/// The overlap alone, which is what a command about generalists prints below these names.
fn overlap(value: &Value, names: [&str; 2], command: &str) -> Result<Score, BaselineError> {
    let found = names.iter().try_fold(value, |value, name| value.get(name)).and_then(Value::as_f64);
    let dice = found.ok_or_else(|| RecordError::NoScore(command.to_owned()))?;
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
