//! What came of measurements, one line of JSON each, written as soon as it is known. Whoever has the record open has the
//! folder of results: a second program there would take away the scans that the first one trains on.

use std::{
    fs::{File, TryLockError},
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::demo::disk::{self, DiskError};

/// Means over the held-out scans.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Overlap.
    pub dice: f64,
    /// 95th percentile of surface distances in millimetres, where they are defined.
    pub hd95_mm: Option<f64>,
    /// Mean surface distance of both directions in millimetres, where it is defined.
    pub assd_mm: Option<f64>,
    /// Scans without any: nothing was found.
    pub undefined: u64,
}

/// One line: what was measured, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Line<K> {
    #[serde(flatten)]
    of: K,
    score: Score,
    /// How long it took, where that was taken down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
}

/// What is known. `K` says what was measured.
#[derive(Debug)]
pub struct Record<K> {
    path: PathBuf,
    /// Locked.
    file: File,
    lines: Vec<Line<K>>,
}

/// What is written down cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file system said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A line that is none.
    #[error("line {line} of `{}` is not a result; remove it, and the training is made again", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// Another program is at it.
    #[error("another measurement is under way in this folder (`{}` is locked): wait for its end, or choose another --out", .0.display())]
    Busy(PathBuf),
    /// It cannot be locked.
    #[error("cannot lock `{}`; choose an --out on a local disk", .0.display())]
    Lock(PathBuf, #[source] std::io::Error),
    /// It cannot be written.
    #[error("cannot write `{}`; check that the disk has room", .0.display())]
    Write(PathBuf, #[source] std::io::Error),
    /// A program printed something else.
    #[error("`{0}` did not print scores as its last line")]
    NoScore(String),
}

impl Score {
    /// Of the last line of JSON that `train` or `evaluate` printed.
    ///
    /// # Errors
    /// If there is none.
    pub fn of_last_line(text: &str, command: &str) -> Result<Self, RecordError> {
        let value = last_line(text, command)?;
        let number = |name: &str| value.get(name).and_then(Value::as_f64);
        let dice = number("dice").ok_or_else(|| RecordError::NoScore(command.to_owned()))?;
        let undefined = value.get("undefined").and_then(Value::as_u64).unwrap_or(0);
        Ok(Self { dice, hd95_mm: number("hd95_mm"), assd_mm: number("assd_mm"), undefined })
    }
}

/// The last line of a program's output, which is JSON.
///
/// # Errors
/// If it is not.
pub fn last_line(text: &str, command: &str) -> Result<Value, RecordError> {
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    serde_json::from_str(last).map_err(|_| RecordError::NoScore(command.to_owned()))
}

impl<K: PartialEq + Serialize + DeserializeOwned> Record<K> {
    /// Reads what is known, in a folder that exists; nothing where there is no file.
    ///
    /// # Errors
    /// If another program has it open, or a line is no result.
    pub fn open(path: &Path) -> Result<Self, RecordError> {
        let file = disk::append(path)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => RecordError::Busy(path.into()),
            TryLockError::Error(source) => RecordError::Lock(path.into(), source),
        })?;
        let mut lines = Vec::new();
        for (at, text) in disk::read_text(path)?.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
            let line = serde_json::from_str(text);
            lines.push(line.map_err(|source| RecordError::Line { path: path.into(), line: at + 1, source })?);
        }
        Ok(Self { path: path.into(), file, lines })
    }

    /// What came of it, if it was measured.
    pub fn find(&self, wanted: &K) -> Option<Score> {
        self.lines.iter().find(|line| line.of == *wanted).map(|line| line.score)
    }

    /// Mean seconds of what `kind` picks; none where nothing is on record.
    pub fn seconds(&self, kind: impl Fn(&K) -> bool) -> Option<f64> {
        let seconds: Vec<f64> =
            self.lines.iter().filter(|line| kind(&line.of)).filter_map(|line| line.seconds).collect();
        Spread::of(&seconds).map(|seconds| seconds.mean)
    }

    /// Writes down what came of it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add(&mut self, of: K, score: Score, seconds: Option<f64>) -> Result<(), RecordError> {
        let line = Line { of, score, seconds };
        let text = serde_json::to_string(&line).expect("a result is plain numbers and names") + "\n";
        self.file.write_all(text.as_bytes()).map_err(|source| RecordError::Write(self.path.clone(), source))?;
        self.lines.push(line);
        Ok(())
    }
}

/// What some values have in common, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Their mean.
    pub mean: f64,
    /// Their sample standard deviation; one value has none.
    pub deviation: Option<f64>,
}

impl Spread {
    /// That of `values`, if there are any.
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt());
        (!values.is_empty()).then_some(Self { mean, deviation })
    }

    /// The cell of a table over seeds.
    pub fn cell(self, digits: usize) -> String {
        let Self { mean, deviation } = self;
        match deviation {
            Some(deviation) => format!("{mean:.digits$} ± {deviation:.digits$}"),
            None => format!("{mean:.digits$} (1 seed)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Of {
        Training { steps: u64, seed: u64 },
        Baseline { baseline: String },
    }

    #[test]
    fn what_is_written_down_is_found_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("runs.jsonl");
        let mut record = Record::open(&path).expect("nothing yet");
        let text =
            "{\"step\":10}\n{\"case\":\"mean\",\"dice\":0.5,\"hd95_mm\":null,\"assd_mm\":2.0,\"undefined\":3}\n\n";
        let score = Score::of_last_line(text, "train").expect("scores");
        assert_eq!(score, Score { dice: 0.5, hd95_mm: None, assd_mm: Some(2.0), undefined: 3 });
        let training = |seed| Of::Training { steps: 10, seed };
        let atlas = Of::Baseline { baseline: "atlas".into() };
        record.add(training(1), score, Some(4.0)).expect("written");
        record.add(training(2), score, Some(6.0)).expect("written");
        record.add(atlas.clone(), score, None).expect("written");
        let lines = record.lines;
        drop(record.file);
        let again = Record::open(&path).expect("three lines");
        assert_eq!(again.lines, lines);
        assert_eq!((again.find(&training(1)), again.find(&training(3))), (Some(score), None));
        assert_eq!(again.find(&atlas), Some(score));
        // a training with another number of steps is another training
        assert_eq!(again.find(&Of::Training { steps: 11, seed: 1 }), None);
        assert_eq!(again.seconds(|of| matches!(of, Of::Training { .. })), Some(5.0));
        assert_eq!(again.seconds(|of| *of == atlas), None);
    }

    #[test]
    fn two_measurements_in_one_folder_are_one_too_many() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("runs.jsonl");
        let first = Record::<Of>::open(&path).expect("nothing yet");
        let error = Record::<Of>::open(&path).expect_err("the first is not done").to_string();
        assert!(error.contains("another measurement") && error.contains("--out"), "{error}");
        drop(first);
        assert!(Record::<Of>::open(&path).is_ok());
    }

    #[test]
    fn a_damaged_line_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("runs.jsonl");
        disk::write(&path, b"\n{\"run\":").expect("written");
        assert!(Record::<Of>::open(&path).expect_err("damaged").to_string().starts_with("line 2 of"));
        assert!(Score::of_last_line("error\n", "semisam-node train").is_err());
    }

    #[test]
    fn spread_is_mean_and_sample_deviation() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[0.5]), Some(Spread { mean: 0.5, deviation: None }));
        assert_eq!(Spread::of(&[1.0, 3.0]), Some(Spread { mean: 2.0, deviation: Some(2.0_f64.sqrt()) }));
    }

    #[test]
    fn one_seed_claims_no_deviation() {
        let cell = |values: &[f64]| Spread::of(values).expect("values").cell(3);
        assert_eq!([cell(&[0.5]), cell(&[0.5, 0.5])], ["0.500 (1 seed)", "0.500 ± 0.000"]);
    }
}
