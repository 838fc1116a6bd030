//! Which trainings a table needs, and the command line of each.

use std::{
    ffi::OsStr,
    fmt,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use semisam_node::train::local::Method;
use semisam_shared::ids::Digest;
use serde::{Deserialize, Serialize};

use super::baselines::Baseline;
use crate::{
    bench::{inputs::Inputs, sides},
    demo::children::Invocation,
    programs::Program,
};

/// What a training starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// A student that was pre-trained on synthetic anatomy.
    Warm,
    /// Random weights.
    Scratch,
}

/// One training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Voxel size in millimetres.
    pub spacing_mm: f64,
    /// What it starts from.
    pub start: Start,
    /// What unlabelled scans are used for.
    pub method: Method,
    /// Labelled scans.
    pub labels: usize,
    /// Names the draws.
    pub seed: u64,
    /// Optimiser steps.
    pub steps: u64,
    /// First step size.
    pub learning_rate: f64,
    /// Factor of the agreement with the teacher.
    pub consistency_weight: f64,
    /// Sides of a crop in voxels.
    #[serde(default = "usual_patch", skip_serializing_if = "is_usual")]
    pub patch: [usize; 3],
    /// Whether the labelled scans are drawn by the seed; else they are the first ones by name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drawn: bool,
    /// Names scans, start, generalist and how that is asked, as far as it has to do with them.
    #[serde(default = "unknown")]
    pub inputs: Digest,
}

/// The files of records that do not name them; no others are the same.
fn unknown() -> Digest {
    Digest::ZERO
}

/// Sides of the crops of records that do not name them.
pub const PATCH: [usize; 3] = [64, 48, 32];

fn usual_patch() -> [usize; 3] {
    PATCH
}

fn is_usual(patch: &[usize; 3]) -> bool {
    *patch == PATCH
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, method) = (name(self.start), name(self.method));
        let drawn = if self.drawn { "drawn-" } else { "" };
        write!(f, "{}mm-{start}-{method}-{drawn}{}-seed{}", self.spacing_mm, self.labels, self.seed)
    }
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Of {
    /// A training.
    Training {
        /// Which.
        run: Run,
    },
    /// Something without training, by name, at a voxel size.
    Baseline {
        /// What.
        baseline: String,
        /// Voxel size in millimetres.
        spacing_mm: f64,
        /// Sides of a window in voxels.
        #[serde(default = "usual_patch", skip_serializing_if = "is_usual")]
        patch: [usize; 3],
        /// Names scans and models, as far as it has to do with them.
        #[serde(default = "unknown")]
        inputs: Digest,
    },
}

impl Of {
    /// This training.
    pub fn training(run: &Run) -> Self {
        Self::Training { run: run.clone() }
    }

    /// Whether it is a training of this kind, whatever its number of labels.
    pub fn is_of(&self, start: Start, method: Method, settings: &Settings) -> bool {
        let Self::Training { run } = self else { return false };
        (run.start, run.method, run.spacing_mm, run.patch) == (start, method, settings.spacing_mm, settings.patch)
    }

    /// This comparison.
    pub fn baseline(baseline: Baseline, settings: &Settings) -> Self {
        Self::Baseline {
            baseline: baseline.to_string(),
            spacing_mm: settings.spacing_mm,
            patch: settings.patch,
            inputs: settings.named(baseline.models(), ""),
        }
    }
}

/// Everything that a table is a function of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Voxel size in millimetres.
    pub spacing_mm: f64,
    /// What trainings start from.
    pub starts: Vec<Start>,
    /// Methods, in the order of rows.
    pub methods: Vec<Method>,
    /// Numbers of labelled scans, in the order of columns.
    pub labels: Vec<usize>,
    /// Trainings of each kind, with seeds from 1.
    pub seeds: u64,
    /// Optimiser steps from a warm start, and from random weights.
    pub steps: [u64; 2],
    /// First step size from a warm start, and from random weights.
    pub learning_rate: [f64; 2],
    /// Factor of the agreement with the teacher, for the methods that have one.
    pub consistency_weight: f64,
    /// Sides of a crop in voxels.
    pub patch: [usize; 3],
    /// The pre-trained student.
    pub init: Option<PathBuf>,
    /// Who is asked.
    pub generalist: Option<PathBuf>,
    /// Whether each seed draws its labelled scans; else all seeds have the first ones by name, as the usual protocols do.
    pub drawn: bool,
    /// What is in the files; known once they were read.
    pub inputs: Option<Inputs>,
}

impl Settings {
    /// All trainings: every seed of everything before the next seed, so that a table that is not finished says something.
    pub fn runs(&self) -> Vec<Run> {
        let mut runs = Vec::new();
        for seed in 1..=self.seeds {
            for &start in &self.starts {
                for &labels in &self.labels {
                    runs.extend(self.methods.iter().map(|&method| self.run(start, method, labels, seed)));
                }
            }
        }
        runs
    }

    /// One training.
    pub fn run(&self, start: Start, method: Method, labels: usize, seed: u64) -> Run {
        let of = match start {
            Start::Warm => 0,
            Start::Scratch => 1,
        };
        let (steps, learning_rate) = (self.steps[of], self.learning_rate[of]);
        let (spacing_mm, patch, drawn) = (self.spacing_mm, self.patch, self.drawn);
        let consistency_weight = if method.has_teacher() { self.consistency_weight } else { 0.0 };
        // defaults of another version of this program are no part of the command line
        let guidance = serde_json::to_string(&method.guidance()).expect("settings are plain numbers and names");
        let inputs = self.named((start == Start::Warm, asks(method)), &guidance);
        Run { spacing_mm, start, method, labels, seed, steps, learning_rate, consistency_weight, patch, drawn, inputs }
    }

    /// The digest of what is in the scans' files and in those of the models that something has to do with, and of `more`.
    fn named(&self, (student, generalist): (bool, bool), more: &str) -> Digest {
        let Some(inputs) = self.inputs else { return unknown() };
        let models = [inputs.init.filter(|_| student), inputs.generalist.filter(|_| generalist)];
        let names = models.map(|model| model.map_or("none".to_owned(), |model| model.to_string()));
        Digest::of(format!("{} {} {more}", inputs.scans, names.join(" ")).as_bytes())
    }

    /// Its command line: `semisam-node train`, which opens the labels of the first scans alone and those of the test.
    pub(super) fn invocation(
        &self,
        run: &Run,
        (train, test): (&Path, &Path),
        (cache, out): (&Path, &Path),
        log: &Path,
    ) -> Invocation {
        let words = [
            ("--method", name(run.method)),
            ("--labels", run.labels.to_string()),
            ("--spacing", run.spacing_mm.to_string()),
            ("--patch", sides(run.patch)),
            ("--steps", run.steps.to_string()),
            ("--learning-rate", run.learning_rate.to_string()),
            ("--consistency-weight", run.consistency_weight.to_string()),
            ("--seed", run.seed.to_string()),
            ("--format", "json".to_owned()),
        ];
        let mut args: Vec<&dyn AsRef<OsStr>> = vec![&"train"];
        words.iter().for_each(|(option, value)| args.extend([option as &dyn AsRef<OsStr>, value]));
        let folders = [("--data", train), ("--test", test), ("--cache", cache), ("--out", out)];
        folders.iter().for_each(|(option, path)| args.extend([option as &dyn AsRef<OsStr>, path]));
        let init = self.init.as_ref().filter(|_| run.start == Start::Warm);
        if let Some(init) = &init {
            args.extend([&"--init" as &dyn AsRef<OsStr>, *init]);
        }
        let generalist = self.generalist.as_ref().filter(|_| asks(run.method));
        if let Some(generalist) = &generalist {
            args.extend([&"--generalist" as &dyn AsRef<OsStr>, *generalist]);
        }
        Invocation::new("a training", Program::Node, log, &args)
    }
}

/// Whether a method needs a generalist.
pub fn asks(method: Method) -> bool {
    matches!(method, Method::Semisam | Method::SemisamPlus | Method::SemisamO1)
}

/// As the command line names it.
pub fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const INPUTS: Inputs =
        Inputs { scans: Digest([1; 32]), init: Some(Digest([2; 32])), generalist: Some(Digest([3; 32])) };

    /// Three seeds of two methods from both starts.
    pub(in crate::bench::accuracy) fn settings() -> Settings {
        Settings {
            spacing_mm: 2.5,
            starts: vec![Start::Warm, Start::Scratch],
            methods: vec![Method::MeanTeacher, Method::Semisam],
            labels: vec![1, 4],
            seeds: 3,
            steps: [300, 600],
            learning_rate: [0.01, 0.05],
            consistency_weight: 50.0,
            patch: [64, 48, 32],
            init: Some("start.safetensors".into()),
            generalist: Some("small.safetensors".into()),
            drawn: false,
            inputs: Some(INPUTS),
        }
    }

    #[test]
    fn a_seed_of_everything_comes_before_the_next_seed() {
        let runs = settings().runs();
        assert_eq!(runs.len(), 24);
        assert!(runs[..8].iter().all(|run| run.seed == 1) && runs[16..].iter().all(|run| run.seed == 3));
        let names: std::collections::BTreeSet<String> = runs.iter().map(Run::to_string).collect();
        assert_eq!(names.len(), 24, "every training has a name of its own");
        let drawn = Settings { drawn: true, ..settings() };
        assert!(drawn.runs().iter().all(|run| !names.contains(&run.to_string())));
    }

    #[test]
    fn what_was_measured_with_other_crops_is_not_taken_for_the_same() {
        let (usual, other) = (settings(), Settings { patch: [96, 80, 48], ..settings() });
        let baseline = |settings: &Settings| Of::baseline(Baseline::ZeroShot, settings);
        assert_ne!(baseline(&usual), baseline(&other));
        let training = |settings: &Settings| Of::training(&settings.run(Start::Warm, Method::Semisam, 4, 1));
        assert!(training(&usual).is_of(Start::Warm, Method::Semisam, &usual));
        assert!(!training(&usual).is_of(Start::Warm, Method::Semisam, &other));
    }

    #[test]
    fn what_was_measured_of_other_files_is_not_taken_for_the_same() {
        let usual = settings();
        let with = |inputs: Inputs| Settings { inputs: Some(inputs), ..settings() };
        let another = Digest([9; 32]);
        let (scans, init) = (with(Inputs { scans: another, ..INPUTS }), with(Inputs { init: Some(another), ..INPUTS }));
        let generalist = with(Inputs { generalist: Some(another), ..INPUTS });
        let changed = |start, method| {
            [&scans, &init, &generalist].map(|other| usual.run(start, method, 1, 1) != other.run(start, method, 1, 1))
        };
        assert_eq!(changed(Start::Warm, Method::Semisam), [true, true, true]);
        assert_eq!(changed(Start::Warm, Method::MeanTeacher), [true, true, false], "nobody is asked");
        assert_eq!(changed(Start::Scratch, Method::Semisam), [true, false, true]);
        let changed = |baseline| {
            [&scans, &init, &generalist].map(|other| Of::baseline(baseline, &usual) != Of::baseline(baseline, other))
        };
        assert_eq!(changed(Baseline::ZeroShot), [true, true, false]);
        assert_eq!(changed(Baseline::Refined), [true, true, true]);
        assert_eq!(changed(Baseline::Clicks(3)), [true, false, true]);
        assert_eq!(changed(Baseline::Atlas(None)), [true, false, false]);
        // records from before crops and files had a say can be read, and are of nothing that is measured now
        let old = format!(r#"{{"baseline":"{}","spacing_mm":2.5}}"#, Baseline::ZeroShot);
        let read: Of = serde_json::from_str(&old).expect("a record");
        assert_ne!(read, Of::baseline(Baseline::ZeroShot, &usual));
        assert_eq!(read, Of::baseline(Baseline::ZeroShot, &Settings { inputs: None, ..settings() }));
    }

    #[test]
    fn a_training_is_told_what_it_needs_and_no_more() {
        let settings = settings();
        let line = |start, method| {
            let run = settings.run(start, method, 4, 2);
            let folders = (Path::new("train"), Path::new("test"));
            settings.invocation(&run, folders, (Path::new("cache"), Path::new("out")), Path::new("log")).command()
        };
        let warm = line(Start::Warm, Method::Semisam);
        assert!(
            warm.starts_with("semisam-node train --method semisam --labels 4 --spacing 2.5 --patch 64,48,32"),
            "{warm}"
        );
        assert!(warm.contains("--steps 300 --learning-rate 0.01"), "{warm}");
        assert!(warm.contains("--init start.safetensors") && warm.contains("--generalist small.safetensors"), "{warm}");
        let scratch = line(Start::Scratch, Method::MeanTeacher);
        assert!(scratch.contains("--steps 600 --learning-rate 0.05"), "{scratch}");
        assert!(!scratch.contains("--init") && !scratch.contains("--generalist"), "{scratch}");
    }
}
