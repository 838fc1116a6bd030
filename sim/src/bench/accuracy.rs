//! `semisam-sim bench accuracy`: how good students become with few labels, method by method, on scans that nobody learnt
//! from (issue: accuracy table). In reading order: [`runs`] (which trainings there are), [`baselines`] (what no training is
//! worth), [`table`] and [`plot`].
//!
//! Every training is `semisam-node train`, a process of its own, with what the command says and nothing else. What is done is
//! written down at once, so that the same command goes on where it was stopped. Scores are of the held-out scans, after the
//! last step: nothing is chosen by them.

pub mod baselines;
pub mod plot;
pub mod runs;
pub mod table;

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
};

use semisam_node::data::folder::{Cohort, FolderError};

use self::{
    baselines::BaselineError,
    runs::{Of, Run, Settings},
};
use crate::{
    bench::{
        inputs::{Inputs, InputsError},
        record::{Record, RecordError, Score},
    },
    demo::{
        children::{ChildError, Launcher},
        cohorts::{CohortsError, in_drawn_order, part},
        disk::{self, DiskError},
        progress::Progress,
    },
};

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Scans with labels; those called `test_..` are held out, else the last fifth.
    pub data: PathBuf,
    /// Where everything is written.
    pub out: PathBuf,
    /// What is trained.
    pub settings: Settings,
    /// Trainings at once, each on one thread.
    pub jobs: usize,
}

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum AccuracyError {
    /// The file system said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The scans cannot be parted.
    #[error(transparent)]
    Cohorts(#[from] CohortsError),
    /// The scans.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A program failed.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// What is known already.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// What is measured cannot be read.
    #[error(transparent)]
    Inputs(#[from] InputsError),
    /// A comparison without training.
    #[error(transparent)]
    Baseline(#[from] BaselineError),
    /// This executable cannot be found, so it cannot start programs.
    #[error("cannot find this program's own file, which is needed to start the others")]
    Executable(#[source] std::io::Error),
    /// More labels than scans.
    #[error("--labels {asked} asks for more labelled scans than `{}` has to learn from ({there})", data.display())]
    Labels {
        /// The folder.
        data: PathBuf,
        /// How many are asked for.
        asked: usize,
        /// How many there are.
        there: usize,
    },
    /// A start from a model that is not given.
    #[error("warm starts need a model to start from: give --init FILE, or ask for `--starts scratch` alone")]
    NoInit,
    /// A method without what it needs.
    #[error("`{0}` asks a generalist: give --generalist FILE, or leave it out with --methods")]
    NoGeneralist(String),
}

/// The files of a measurement.
struct Places {
    train: PathBuf,
    test: PathBuf,
    cache: PathBuf,
    logs: PathBuf,
    runs: PathBuf,
    record: PathBuf,
}

impl Places {
    fn below(out: &Path) -> Self {
        let at = |name: &str| out.join(name);
        Self {
            train: at("train"),
            test: at("test"),
            cache: at("cache"),
            logs: at("logs"),
            runs: at("runs"),
            record: at("runs.jsonl"),
        }
    }

    /// The scans of a training.
    fn train_of(&self, run: &Run) -> PathBuf {
        if run.drawn { self.drawn(run.seed) } else { self.train.clone() }
    }

    /// The scans in an order that a seed draws.
    fn drawn(&self, seed: u64) -> PathBuf {
        self.train.with_file_name(format!("train-{seed}"))
    }
}

/// Trains what is not on record yet, and writes `table.md` and `dice.svg`. Answers the table.
///
/// # Errors
/// If scans are missing, a training fails, or a result cannot be written. What was done is kept.
pub fn run(options: &Options, progress: &Progress) -> Result<String, AccuracyError> {
    let places = Places::below(&disk::absolute(&options.out)?);
    check(&options.settings)?;
    disk::create_folder(&options.out)?;
    let record = Record::open(&places.record)?;
    prepare(options, &places)?;
    let options = &with_inputs(options)?;
    let executable = std::env::current_exe().map_err(AccuracyError::Executable)?;
    let launcher = Launcher { executable, threads: 1 };
    let runs = options.settings.runs();
    let missing: Vec<Run> = runs.iter().filter(|run| record.find(&Of::training(run)).is_none()).cloned().collect();
    progress.say(&format!("{} trainings, {} of them done before", runs.len(), runs.len() - missing.len()));
    let record = Mutex::new(record);
    train(options, &places, &launcher, (&missing, &record), progress)?;
    let mut record = record.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    baselines::measure(&options.settings, &places, &launcher, &mut record, progress)?;
    let table = table::table(&options.settings, &record);
    disk::write(&options.out.join("table.md"), table.as_bytes())?;
    disk::write(&options.out.join("dice.svg"), plot::plot(&options.settings, &record).as_bytes())?;
    Ok(table)
}

/// Refuses trainings that lack a file.
fn check(settings: &Settings) -> Result<(), AccuracyError> {
    if settings.starts.contains(&runs::Start::Warm) && settings.init.is_none() {
        return Err(AccuracyError::NoInit);
    }
    if let Some(method) = settings.methods.iter().find(|method| runs::asks(**method))
        && settings.generalist.is_none()
    {
        return Err(AccuracyError::NoGeneralist(runs::name(*method)));
    }
    Ok(())
}

/// The same, with what is in the files: results of others are not theirs.
fn with_inputs(options: &Options) -> Result<Options, InputsError> {
    let Settings { init, generalist, .. } = &options.settings;
    let inputs = Inputs::read(&options.data, init.as_deref(), generalist.as_deref())?;
    Ok(Options { settings: Settings { inputs: Some(inputs), ..options.settings.clone() }, ..options.clone() })
}

/// Makes the folders and parts the scans.
fn prepare(options: &Options, places: &Places) -> Result<(), AccuracyError> {
    let settings = &options.settings;
    for folder in [&places.logs, &places.runs] {
        disk::create_folder(folder)?;
    }
    let seeds = (1..=settings.seeds).filter(|_| settings.drawn);
    let drawn: Vec<(u64, PathBuf)> = seeds.map(|seed| (seed, places.drawn(seed))).collect();
    for folder in drawn.iter().map(|(_, folder)| folder).chain([&places.train, &places.test]) {
        if folder.exists() {
            disk::remove_folder(folder)?;
        }
    }
    let (there, _) = part(&options.data, &places.train, &places.test)?;
    for (seed, folder) in &drawn {
        in_drawn_order(&places.train, folder, *seed)?;
    }
    let asked = settings.labels.iter().copied().max().unwrap_or(0);
    Cohort::open(&places.train)?.require_labelled()?;
    if asked > there {
        return Err(AccuracyError::Labels { data: options.data.clone(), asked, there });
    }
    Ok(())
}

/// Runs trainings, several at once, and writes down each as it ends.
fn train(
    options: &Options,
    places: &Places,
    launcher: &Launcher,
    (runs, record): (&[Run], &Mutex<Record<Of>>),
    progress: &Progress,
) -> Result<(), AccuracyError> {
    let queue = Mutex::new(runs.iter());
    let bar = progress.count("trainings", runs.len() as u64);
    let work = || -> Result<(), AccuracyError> {
        loop {
            // A worker that panicked is reported when its thread is joined; its lock protects nothing half done.
            let next = queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
            let Some(run) = next else { return Ok(()) };
            let began = std::time::Instant::now();
            let score = one(options, places, launcher, run)?;
            let seconds = began.elapsed().as_secs_f64();
            progress.say(&format!("{run}: dice {:.3} in {seconds:.0} s", score.dice));
            bar.step();
            record.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).add(
                Of::training(run),
                score,
                Some(seconds),
            )?;
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        let ended = workers.into_iter().map(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        ended.collect()
    })
}

/// Trains once; only its scores are kept.
fn one(options: &Options, places: &Places, launcher: &Launcher, run: &Run) -> Result<Score, AccuracyError> {
    // what an interrupted training of other files left is not gone on with
    let folder = places.runs.join(format!("{run}-{}", run.inputs.short()));
    let log = places.logs.join(format!("{run}.log"));
    let train = places.train_of(run);
    let invocation = options.settings.invocation(run, (&train, &places.test), (&places.cache, &folder), &log);
    let text = launcher.succeed(&invocation)?;
    let score = Score::of_last_line(&text, &invocation.command())?;
    disk::remove_folder(&folder)?;
    Ok(score)
}
