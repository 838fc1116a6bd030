//! `semisam-sim bench`: what is measured, and how long.

use std::{error::Error, io::Write, path::PathBuf, str::FromStr};

use clap::{Args, Subcommand, ValueEnum};
use semisam_node::{cli::parse_patch, train::local::Method};

use super::{DONE, FAILED, complain, spacing};
use crate::{
    bench::{
        accuracy::{
            self,
            runs::{Settings, Start},
        },
        privacy::{self, runs::Training, scans::Scans},
    },
    demo::{self, progress::Progress},
};

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// How good students become with few labels, method by method. What is done is kept: the same command goes on.
    Accuracy(AccuracyArgs),
    /// What a federation learns under noise, beside hospitals alone and beside a federation without noise. What is done is kept:
    /// the same command goes on.
    Privacy(PrivacyArgs),
}

#[derive(Debug, Args)]
pub(super) struct AccuracyArgs {
    /// A folder of labelled scans; those called `test_..` are held out, else the last fifth.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where results go: runs.jsonl, table.md, dice.svg.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The pre-trained student that warm starts begin with.
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// Whom the methods ask that ask a generalist.
    #[arg(long, value_name = "FILE")]
    generalist: Option<PathBuf>,
    /// Rows of the table.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Method::value_variants().to_vec())]
    methods: Vec<Method>,
    /// What trainings start from.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Start::Warm])]
    starts: Vec<Start>,
    /// Columns of the table: how many scans are labelled.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8], value_name = "N")]
    labels: Vec<usize>,
    /// Trainings of each kind.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Voxel size, in millimetres.
    #[arg(long, default_value_t = 2.5, value_name = "MM", value_parser = spacing)]
    spacing: f64,
    /// Sides of a training crop in voxels, multiples of 16; also of the windows of evaluation.
    #[arg(long, default_value = "64,48,32", value_name = "X,Y,Z", value_parser = parse_patch)]
    patch: [usize; 3],
    /// Optimiser steps from a warm start, and from random weights; or one number for both.
    #[arg(long, default_value = "300,600", value_name = "WARM,SCRATCH", value_parser = both::<u64>)]
    steps: [u64; 2],
    /// First step size from a warm start, and from random weights; or one number for both.
    #[arg(long, default_value = "0.01,0.05", value_name = "WARM,SCRATCH", value_parser = both::<f64>)]
    learning_rate: [f64; 2],
    /// Factor of the agreement with the teacher, for the methods that have one.
    #[arg(long, default_value_t = 50.0, value_name = "FACTOR")]
    consistency_weight: f64,
    /// Draw the labelled scans anew for each seed; else all seeds have the first ones by name.
    #[arg(long)]
    draw: bool,
    /// Trainings at once, each on one thread [default: as many as there are processors].
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

impl AccuracyArgs {
    fn options(&self) -> accuracy::Options {
        let settings = Settings {
            spacing_mm: self.spacing,
            starts: self.starts.clone(),
            methods: self.methods.clone(),
            labels: self.labels.clone(),
            seeds: self.seeds,
            steps: self.steps,
            learning_rate: self.learning_rate,
            consistency_weight: self.consistency_weight,
            patch: self.patch,
            init: self.init.clone(),
            generalist: self.generalist.clone(),
            drawn: self.draw,
            inputs: None,
        };
        let jobs = self.jobs.unwrap_or_else(demo::cores);
        accuracy::Options { data: self.data.clone(), out: self.out.clone(), settings, jobs }
    }
}

/// A number for each start, or one for both.
fn both<T: FromStr + Copy>(text: &str) -> Result<[T; 2], String> {
    let numbers = text.split(',').map(|number| number.trim().parse().ok()).collect::<Option<Vec<T>>>();
    match numbers.as_deref() {
        Some([both]) => Ok([*both; 2]),
        Some([warm, scratch]) => Ok([*warm, *scratch]),
        _ => Err("give one number, or two with a comma between them".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(super) struct PrivacyArgs {
    /// A folder of labelled scans; those called `test_..` are held out, else the last fifth.
    #[arg(long, value_name = "DIR", required_unless_present = "synthetic")]
    data: Option<PathBuf>,
    /// Instead, synthetic scans of so many patients for each hospital.
    #[arg(long, value_name = "PATIENTS", conflicts_with = "data", value_parser = clap::value_parser!(u32).range(3..=10_000))]
    synthetic: Option<u32>,
    /// Where results go: runs.jsonl, table.md, the models.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The plan; noise multiplier and clip norm are replaced by what an epsilon demands and what the basis says.
    #[arg(long, value_name = "FILE", default_value = "deploy/plan.toml")]
    plan: PathBuf,
    /// The model before round 1, or the name of a shipped one.
    #[arg(long, value_name = "FILE|NAME", default_value = "left-atrium-student")]
    init: PathBuf,
    /// The anatomy of the basis: a file, or the name of a shipped recipe.
    #[arg(long, value_name = "FILE|NAME", default_value = "left-atrium")]
    recipe: String,
    /// How voxels of the scans are stored: R or L, A or P, S or I.
    #[arg(long, value_name = "RAS", default_value = "LPS")]
    axes: String,
    /// Directions in which updates are released.
    #[arg(long, default_value_t = 64, value_name = "N")]
    directions: u32,
    /// Synthetic patients that span them.
    #[arg(long, default_value_t = 300, value_name = "N")]
    synthetic_patients: u32,
    /// How many hospitals share the patients.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=26))]
    hospitals: u32,
    /// Columns of the table: labelled patients of each hospital.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 5, 2], value_name = "N")]
    labelled: Vec<usize>,
    /// What private federations promise (add/remove, at the plan's delta).
    #[arg(long, value_delimiter = ',', default_values_t = [8.0, 3.0], value_name = "EPSILON")]
    epsilon: Vec<f64>,
    /// Measurements of each kind; each deals the patients anew.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Optimiser steps of a hospital that trains alone.
    #[arg(long, default_value_t = 300, value_name = "N")]
    alone_steps: u64,
    /// Its first step size.
    #[arg(long, default_value_t = 0.01, value_name = "RATE")]
    alone_learning_rate: f64,
    /// Optimiser steps of a hospital that goes on from the common model, for itself; 0 skips this.
    #[arg(long, default_value_t = 150, value_name = "N")]
    tune_steps: u64,
    /// Its first step size: with few labels a small one, which forgets less.
    #[arg(long, default_value_t = 0.01, value_name = "RATE")]
    tune_learning_rate: f64,
    /// Trainings at once, each on one thread [default: as many as there are processors].
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

impl PrivacyArgs {
    fn options(&self) -> privacy::Options {
        let basis = privacy::Basis {
            recipe: self.recipe.clone(),
            axes: self.axes.clone(),
            directions: self.directions,
            patients: self.synthetic_patients,
        };
        let data = || Scans::Folder(self.data.clone().unwrap_or_default());
        let settings = privacy::Settings {
            scans: self.synthetic.map_or_else(data, Scans::Synthetic),
            plan: self.plan.clone(),
            init: self.init.clone(),
            basis,
            hospitals: self.hospitals,
            labelled: self.labelled.clone(),
            epsilons: self.epsilon.clone(),
            seeds: self.seeds,
            alone: Training { steps: self.alone_steps, learning_rate: self.alone_learning_rate },
            tune: Training { steps: self.tune_steps, learning_rate: self.tune_learning_rate },
        };
        let jobs = self.jobs.unwrap_or_else(demo::cores);
        privacy::Options { out: self.out.clone(), settings, jobs }
    }
}

/// Measures, and prints the table.
pub(super) fn run(command: &BenchCommand, out: &mut dyn Write) -> u8 {
    let progress = Progress::on_stderr();
    match command {
        BenchCommand::Accuracy(args) => tell(accuracy::run(&args.options(), &progress), out),
        BenchCommand::Privacy(args) => tell(privacy::run(&args.options(), &progress), out),
    }
}

fn tell(measured: Result<String, impl Error + 'static>, out: &mut dyn Write) -> u8 {
    let told = match measured {
        Ok(table) => write!(out, "{table}").map_err(|error| Box::new(error) as Box<dyn Error>),
        Err(error) => Err(error.into()),
    };
    match told {
        Ok(()) => DONE,
        Err(error) => {
            complain(&*error);
            FAILED
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: BenchCommand,
    }

    #[test]
    fn numbers_for_both_starts_are_one_or_two() {
        let settings = |given: &[&str]| {
            let line = [&["bench", "accuracy", "--data", "d", "--out", "o"], given].concat();
            match Line::try_parse_from(line).map(|line| line.command) {
                Ok(BenchCommand::Accuracy(args)) => Some(args.options().settings),
                _ => None,
            }
        };
        let steps = |given: &str| settings(&["--steps", given]).map(|settings| settings.steps);
        assert_eq!([steps("7"), steps("7,9")], [Some([7, 7]), Some([7, 9])]);
        assert_eq!(["7,8,9", "", "7,", "x", "-1", "0.5"].map(steps), [None; 6]);
        let usual = settings(&[]).expect("defaults");
        assert_eq!((usual.steps, usual.learning_rate), ([300, 600], [0.01, 0.05]));
    }
}
