//! The empirical audit (`semisam-sim audit`): is what leaves a hospital as private as the ledger says?
//!
//! Canaries, contributions that are easy to recognise, go through the very release path of a hospital beside a synthetic
//! cohort: ledger on disk, signed plan, clip, noise, payload, read back as a coordinator does. Then an attacker who
//! knows everything but the secret looks for them. If it finds them more often than the claim allows, the claim is wrong
//! (spec/privacy.md, section 13). An audit refutes a claim and never certifies one: a better attacker may exist.
//!
//! * [`hospital`]: the release path, as a mechanism from contributions to bytes
//! * [`cohort`]: the contributions that are there anyway
//! * [`one_run`]: who was in? Thousands of canaries, each by the toss of a coin, and a lower bound of epsilon
//! * [`one_shot`]: how far do canaries stand out? An estimate of mu, at the clip norm and far above it
//! * [`answers`]: the same question gets the same bytes, another one gets fresh noise
//! * [`report`]: what was found, for people and programs
//!
//! # False alarms
//! Noise has no seed, so a sound build must practically never fail. With the default options the chance that one audit
//! of a sound build fails is below 2e-8: fresh noise 1.01e-8 ([`answers`]), two estimates of 6 standard errors 1e-9
//! each ([`one_shot`]), one-run less than 1e-100 ([`one_run`], which also says what it is for small claims).

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use semisam_shared::{
    accounting::{Accountant, Adjacency, Failed, gdp, smallest_noise_multiplier},
    fold::{FoldError, add_update},
    ids::UnixMillis,
    plan::{Plan, PlanError},
    signing::SigningError,
};

use semisam_node::privacy::{book::BookError, release::ReleaseError};

use crate::demo::progress::Progress;

pub(crate) mod answers;
pub(crate) mod cohort;
pub(crate) mod hospital;
pub(crate) mod one_run;
pub(crate) mod one_shot;
pub mod report;

use cohort::Cohort;
use hospital::{Hospital, Mechanism};
use report::{Claim, Report};

/// The clip norm C. Any will do; it is not 1, so that a forgotten factor shows.
const CLIP_NORM: f64 = 0.5;

/// How long the canaries that probe the clip are, in units of C.
const LONG: f64 = 10.0;

/// What is audited, and how hard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Standard deviation of the noise divided by the clip norm.
    pub noise_multiplier: f64,
    /// Releases that every canary takes part in.
    pub rounds: u32,
    /// The delta of (epsilon, delta).
    pub delta: f64,
    /// Canaries of the one-run audit.
    pub canaries: usize,
    /// One-shot canary clients of each length.
    pub clients: usize,
    /// Length of a released vector.
    pub coordinates: usize,
    /// Seed of cohort, canaries and coins; never of the noise.
    pub seed: u64,
}

impl Options {
    /// The least noise multiplier of a plan with which the ledger charges at most `epsilon` (add/remove) for all rounds.
    ///
    /// # Errors
    /// If a figure is out of range, or it takes more noise than a plan may have.
    pub fn noise_multiplier_of(epsilon: f64, delta: f64, rounds: u32) -> Result<f64, CanaryError> {
        let ask = (epsilon, delta);
        let found = smallest_noise_multiplier(Accountant::Zcdp, ask, u64::from(rounds), 1.0, Adjacency::AddRemove)?;
        if found > hospital::MOST_NOISE {
            return Err(CanaryError::Noise { epsilon, multiplier: found });
        }
        Ok(found.max(hospital::LEAST_NOISE))
    }
}

/// There is no finding.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// The claim makes no sense.
    #[error(transparent)]
    Claim(#[from] Failed),
    /// No plan has such noise.
    #[error(
        "epsilon `{epsilon}` takes a noise multiplier of {multiplier:.0}, and a plan has at most {}: claim a larger \
         epsilon, or fewer rounds",
        hospital::MOST_NOISE
    )]
    Noise {
        /// What was to be claimed.
        epsilon: f64,
        /// What it takes.
        multiplier: f64,
    },
    /// Something is there already.
    #[error("`{}` is not empty: an audit starts new ledgers; name a folder that does not exist yet", path.display())]
    Used {
        /// Where.
        path: PathBuf,
    },
    /// A folder or file cannot be written.
    #[error("`{}` cannot be written: see that the folder exists and has room", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The ledger of a hospital cannot be used.
    #[error(transparent)]
    Book(#[from] BookError),
    /// Nothing was released.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// The plan cannot be signed.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] SigningError),
    /// A payload is not what a coordinator takes.
    #[error(transparent)]
    Payload(#[from] FoldError),
}

/// Makes a mechanism for the hospital of this name under this plan: the real one, or in tests a broken one.
pub(crate) type Found<'a> = dyn Fn(&str, Plan) -> Result<Box<dyn Mechanism>, CanaryError> + 'a;

/// Audits the release path of this very program. Ledgers and payloads go below `folder`, which must be empty or new;
/// `audit.json` too.
///
/// # Errors
/// If the release path itself fails: then nothing was found out.
pub fn run(
    options: &Options,
    folder: &Path,
    now: fn() -> UnixMillis,
    progress: &Progress,
) -> Result<Report, CanaryError> {
    let write = |source| CanaryError::Write { path: folder.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(write)?;
    if std::fs::read_dir(folder).map_err(write)?.next().is_some() {
        return Err(CanaryError::Used { path: folder.to_owned() });
    }
    let found = |name: &str, plan: Plan| -> Result<Box<dyn Mechanism>, CanaryError> {
        Ok(Box::new(Hospital::found(&folder.join(name), name, plan, now)?))
    };
    let report = audit(options, &found, progress)?;
    let path = folder.join("audit.json");
    std::fs::write(&path, report.json() + "\n").map_err(|source| CanaryError::Write { path, source })?;
    Ok(report)
}

/// Audits the mechanisms that `found` makes.
pub(crate) fn audit(options: &Options, found: &Found<'_>, progress: &Progress) -> Result<Report, CanaryError> {
    let began = Instant::now();
    let cohort = Cohort::ordinary(options.coordinates, options.seed);
    progress.say("a question asked twice, and two questions about the same patients");
    let answers = answers::examine(options, &cohort, found)?;
    progress.say("one-shot canary clients");
    let short = one_shot::examine(options, &cohort, 1.0, found)?;
    let long = one_shot::examine(options, &cohort, LONG, found)?;
    progress.say("one run with many canaries");
    let one_run = one_run::examine(options, &cohort, found, progress)?;
    let charged = one_run.charged;
    let mu = (2.0 * charged.value()).sqrt();
    let claim = Claim {
        rho: charged.value(),
        mu,
        epsilon_add_remove: charged.epsilon(options.delta, Adjacency::AddRemove),
        epsilon_replace_one: charged.epsilon(options.delta, Adjacency::ReplaceOne),
        epsilon_gaussian: gdp::epsilon(mu, options.delta)?,
    };
    let estimates = [short.against(mu, options.delta)?, long.against(mu, options.delta)?];
    Ok(Report::new(*options, claim, one_run, estimates, answers, began.elapsed().as_secs_f64()))
}

/// The sum of the releases of rounds 1 to `rounds`, in units of the clip norm, without what the attacker knows: the
/// ordinary patients, clipped by its own arithmetic.
fn unexplained(
    mechanism: &mut dyn Mechanism,
    options: &Options,
    cohort: &Cohort,
    contributions: &[Vec<f64>],
) -> Result<Vec<f64>, CanaryError> {
    let mut sum = vec![0_i64; options.coordinates];
    for round in 1..=options.rounds {
        add_update(&mut sum, &mechanism.answer(round, contributions)?)?;
    }
    let (grid, rounds) = (hospital::plan(options, options.rounds).grid(), f64::from(options.rounds));
    let rest = |(total, known): (&i64, &f64)| (*total as f64 * grid - known * rounds) / CLIP_NORM;
    Ok(sum.iter().zip(&cohort.known).map(rest).collect())
}

#[cfg(test)]
mod tests;
