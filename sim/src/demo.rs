//! A federation from scans on disk to a better shared model, with one command. The story is in [`run`]:
//!
//! ```text
//! layout -> cohorts -> start, plan -> enrolment -> rounds (chaos) -> scores -> verdict -> summary
//! ```
//!
//! The programs are the real ones, each in a process of its own, and the noise is real. What this module computes itself
//! is what a researcher would: a start from synthetic volumes, and scores on scans that nobody learnt from.

use std::{path::PathBuf, time::Instant};

use semisam_node::device::{Device, DeviceChoice, DeviceError};
use semisam_shared::chain::file::ChainFileError;

mod chaos;
pub(crate) mod children;
pub mod cohorts;
pub(crate) mod disk;
mod enrolment;
pub(crate) mod layout;
pub mod plan;
pub mod progress;
mod rounds;
mod scores;
pub mod start;
pub mod summary;
mod tail;
mod verdict;

pub use self::{
    chaos::{Kill, Moment, checks::Checks},
    scores::Case,
    verdict::Spent,
};

use self::{
    chaos::{Chaos, checks},
    children::Launcher,
    cohorts::Dealing,
    enrolment::Charter,
    layout::{Hospital, Layout},
    plan::Recipe,
    progress::Progress,
    rounds::{Coordinator, Finished, Rounds},
    scores::Scores,
    start::Start,
    summary::{Audit, BeforeAfter, ChaosReport, Dice, Hd95, Outputs, Summary},
    verdict::Verdict,
};

/// What the user asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Where everything is written.
    pub out: PathBuf,
    /// Real scans, if any.
    pub data: Option<PathBuf>,
    /// How many hospitals, if not as the recipe says.
    pub hospitals: Option<u32>,
    /// How many rounds, if not as the recipe says.
    pub rounds: Option<u32>,
    /// Of scans, start and training.
    pub seed: u64,
    /// Of the kills, if there are to be any.
    pub chaos: Option<u64>,
    /// Voxel size, if not as the recipe says.
    pub spacing_mm: Option<f64>,
    /// How real scans are given to hospitals.
    pub dealing: Dealing,
    /// What to start from instead of a weakly trained student.
    pub anatomy: Option<start::Anatomy>,
    /// As little as shows that everything works.
    pub smallest: bool,
}

/// The demonstration failed.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The folder.
    #[error(transparent)]
    Layout(#[from] layout::LayoutError),
    /// A file.
    #[error(transparent)]
    Disk(#[from] disk::DiskError),
    /// The scans.
    #[error(transparent)]
    Cohorts(#[from] cohorts::CohortsError),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The starting model.
    #[error(transparent)]
    Start(#[from] start::StartError),
    /// Certificates and approvals.
    #[error(transparent)]
    Enrolment(#[from] enrolment::EnrolmentError),
    /// A program.
    #[error(transparent)]
    Child(#[from] children::ChildError),
    /// The rounds.
    #[error(transparent)]
    Rounds(#[from] rounds::RoundsError),
    /// Scores.
    #[error(transparent)]
    Scores(#[from] scores::ScoresError),
    /// The auditor.
    #[error(transparent)]
    Verdict(#[from] verdict::VerdictError),
    /// The logs, read again after the kills.
    #[error(transparent)]
    Logs(#[from] ChainFileError),
    /// This executable has no path.
    #[error("cannot find this executable, which the programs are part of")]
    Executable(#[source] std::io::Error),
}

impl Options {
    fn recipe(&self) -> Recipe {
        let recipe = match (self.smallest, &self.data) {
            (true, _) => Recipe::smallest(),
            (false, Some(_)) if self.anatomy.is_some() => Recipe::anatomical(),
            (false, Some(_)) => Recipe::real(),
            (false, None) => Recipe::synthetic(),
        };
        let spacing_mm = self.spacing_mm.map_or(recipe.spacing_mm, |mm| [mm; 3]);
        let hospitals = self.hospitals.unwrap_or(recipe.hospitals);
        Recipe { hospitals, rounds: self.rounds.unwrap_or(recipe.rounds), spacing_mm, ..recipe }
    }
}

/// How many things this machine does at once.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Everything that is fixed before the first round.
struct Prepared {
    layout: Layout,
    recipe: Recipe,
    hospitals: Vec<Hospital>,
    scans: String,
    device: Device,
    start: Start,
    launcher: Launcher,
}

/// What came out of the rounds.
struct Outcome {
    plan: String,
    finished: Finished,
    before: Scores,
    after: Scores,
    verdict: Verdict,
    outputs: Outputs,
    chaos: Option<ChaosReport>,
}

/// Runs the whole demonstration.
///
/// # Errors
/// Names what failed, where its log is, and what to do. Programs that were started are ended.
pub fn run(options: &Options, progress: &Progress) -> Result<Summary, DemoError> {
    let began = Instant::now();
    let prepared = prepare(options, progress)?;
    let outcome = federate(options, &prepared, progress)?;
    let summary = summarise(&prepared, outcome, began.elapsed().as_secs_f64());
    disk::write(&prepared.layout.root().join("summary.json"), summary.json_pretty().as_bytes())?;
    Ok(summary)
}

fn prepare(options: &Options, progress: &Progress) -> Result<Prepared, DemoError> {
    let recipe = options.recipe();
    let layout = Layout::prepare(&options.out)?;
    let hospitals =
        (0..recipe.hospitals as usize).map(|index| layout.hospital(index)).collect::<Result<Vec<_>, _>>()?;
    let scans = match &options.data {
        None => {
            cohorts::synthesise(&hospitals, &recipe, options.seed)?;
            let (patients, labelled) = (recipe.cohort.patients, recipe.cohort.labelled);
            format!("synthetic scans of {patients} patients each, {labelled} of them labelled")
        }
        Some(data) => {
            let (learning, held_out) = cohorts::deal(data, &hospitals, (options.dealing, cohorts::LABELLED))?;
            format!("{learning} patients of `{}`, two labelled in each hospital, {held_out} held out", data.display())
        }
    };
    progress.say(&format!("{} hospitals in `{}`: {scans}", hospitals.len(), layout.out.display()));
    let device = DeviceChoice::Auto.resolve()?.device;
    let how = (&recipe, options.anatomy.as_ref(), options.seed);
    let start = start::make(how, device, &layout.consortium(), progress)?;
    progress.say(&format!("starting model: {}", start.description));
    let executable = std::env::current_exe().map_err(DemoError::Executable)?;
    let launcher = Launcher { executable, threads: (cores() / hospitals.len()).max(1) };
    Ok(Prepared { layout, recipe, hospitals, scans, device, start, launcher })
}

fn federate(options: &Options, prepared: &Prepared, progress: &Progress) -> Result<Outcome, DemoError> {
    let Prepared { layout, recipe, hospitals, device, start, launcher, .. } = prepared;
    let first = scores::student(&start.model, recipe, *device)?;
    let before = scores::score(&first, hospitals, "before", progress)?;
    progress.say(&format!("Dice on held-out scans before: {:.3}", before.dice()));

    let plan = layout.consortium().join("plan.toml");
    disk::write(&plan, recipe.plan_toml(start.clip_norm).as_bytes())?;
    let charter = Charter { plan: &plan, model: &start.model, basis: &start.basis };
    let founded = enrolment::found(launcher, layout, &charter)?;
    progress.say(&format!("the coordinator listens on {}; plan {}", founded.address, founded.plan.short()));
    for hospital in hospitals {
        enrolment::enrol(launcher, layout, &founded, hospital)?;
        progress.say(&format!("{}: certificate installed, plan approved", hospital.name));
    }

    let coordinator = Coordinator { running: founded.running, again: founded.again };
    let rounds = Rounds::start(launcher, layout, hospitals, coordinator, recipe.rounds, progress)?;
    let chaos = options.chaos.map(|seed| Chaos::new(seed, hospitals.len(), recipe.rounds));
    let finished = rounds.run(chaos)?;

    let outputs = outputs(layout, hospitals);
    let model = layout.root().join("model.safetensors");
    launcher.succeed(&enrolment::export(layout, &model))?;
    let last = scores::student(&model, recipe, *device)?;
    let after = scores::score(&last, hospitals, "after", progress)?;
    progress.say(&format!("Dice on held-out scans after: {:.3}", after.dice()));
    scores::picture(&first, &hospitals[0], &layout.root().join("prediction-before.png"))?;
    scores::picture(&last, &hospitals[0], &layout.root().join("prediction.png"))?;

    let verdict = verdict::audit(launcher, layout)?;
    let chaos = options.chaos.map(|seed| judge(prepared, seed, &finished)).transpose()?;
    Ok(Outcome { plan: founded.plan.to_string(), finished, before, after, verdict, outputs, chaos })
}

fn judge(prepared: &Prepared, seed: u64, finished: &Finished) -> Result<ChaosReport, ChainFileError> {
    let Prepared { layout, hospitals, recipe, .. } = prepared;
    let logs = checks::read(layout, hospitals, recipe.rounds)?;
    let mut checks = checks::compare(&logs, &|name, payload| {
        let hospital = hospitals.iter().find(|hospital| hospital.name == name);
        hospital.map(|hospital| checks::copies(layout, hospital, payload)).unwrap_or_default()
    });
    checks::judge_kills(&mut checks, &finished.kills);
    Ok(ChaosReport { seed, kills: finished.kills.clone(), checks })
}

fn outputs(layout: &Layout, hospitals: &[Hospital]) -> Outputs {
    let inside = |name: &str| layout.shown(&layout.root().join(name));
    Outputs {
        model: inside("model.safetensors"),
        journal: layout.shown(&layout.journal()),
        ledgers: hospitals.iter().map(|hospital| layout.shown(&hospital.ledger())).collect(),
        picture: inside("prediction.png"),
        picture_before: inside("prediction-before.png"),
        summary: inside("summary.json"),
    }
}

fn summarise(prepared: &Prepared, outcome: Outcome, wall_s: f64) -> Summary {
    let Outcome { plan, finished, before, after, verdict, outputs, chaos } = outcome;
    let names = || prepared.hospitals.iter().map(|hospital| hospital.name.clone()).enumerate();
    let dice = |index: usize| BeforeAfter { before: before.dice_of(index), after: after.dice_of(index) };
    let hd95 = |index: usize| BeforeAfter { before: before.hd95_of(index), after: after.hd95_of(index) };
    let cases = |index: usize| BeforeAfter { before: before.0[index].clone(), after: after.0[index].clone() };
    Summary {
        rounds: finished.rounds,
        rounds_planned: prepared.recipe.rounds,
        hospitals: prepared.hospitals.len(),
        wall_s,
        rounds_s: finished.seconds,
        start: prepared.start.description.clone(),
        scans: prepared.scans.clone(),
        plan,
        noise_multiplier: prepared.recipe.noise_multiplier(),
        dice: Dice {
            before: before.dice(),
            after: after.dice(),
            per_site: names().map(|(index, name)| (name, dice(index))).collect(),
        },
        hd95_mm: Hd95 {
            before: before.hd95(),
            after: after.hd95(),
            per_site: names().map(|(index, name)| (name, hd95(index))).collect(),
        },
        held_out: names().map(|(index, name)| (name, cases(index))).collect(),
        audit: Audit::of(&verdict),
        epsilon: verdict.epsilon,
        outputs,
        chaos,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_says_goes_before_the_recipe() {
        let mut options = Options {
            out: "demo".into(),
            data: None,
            hospitals: None,
            rounds: None,
            seed: 1,
            chaos: None,
            spacing_mm: None,
            dealing: Dealing::RoundRobin,
            anatomy: None,
            smallest: false,
        };
        assert_eq!(options.recipe(), Recipe::synthetic());
        options.smallest = true;
        assert_eq!((options.recipe().hospitals, options.recipe().rounds), (2, 2));
        options.smallest = false;
        options.data = Some("la".into());
        assert_eq!((options.recipe().hospitals, options.recipe().spacing_mm), (4, [2.5; 3]));
        let anatomy = start::Anatomy { model: "start".into(), recipe: "left-atrium".into(), axes: vec![] };
        options.anatomy = Some(anatomy);
        assert_eq!((options.recipe().rounds, options.recipe().coordinates), (4, 64));
        options.anatomy = None;
        (options.hospitals, options.rounds, options.spacing_mm) = (Some(5), Some(7), Some(3.0));
        let recipe = options.recipe();
        assert_eq!((recipe.hospitals, recipe.rounds, recipe.spacing_mm), (5, 7, [3.0; 3]));
    }
}
