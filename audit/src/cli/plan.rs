//! `plan`: what a plan would cost and be worth, and whether a policy allows it, before anybody trains.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;
use semisam_shared::{
    accounting::Rho,
    plan::{
        ReadPlan,
        outlook::{Circumstances, Outlook},
    },
    policy::Policy,
};

use super::{Failure, Format, REFUSED};

#[derive(Debug, Args)]
pub(super) struct Question {
    /// The plan: the consortium's TOML, a plan as JSON, or the signed `plan.json`.
    plan: PathBuf,
    /// A hospital's `policy.toml`: says whether the plan is allowed, and which rule says no.
    #[arg(long)]
    policy: Option<PathBuf>,
    /// Patients of one site, if not the plan's public number.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    patients: Option<u32>,
    /// Sites that contribute to a round, if not the plan's quorum.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    sites: Option<u32>,
    /// How many numbers a site releases in a round, for a draft that does not say.
    #[arg(long, value_name = "K")]
    coordinates: Option<u64>,
    /// What this cohort has spent before, as zCDP: the `rho` of `semisam-node budget --format json`.
    #[arg(long, value_name = "RHO", default_value_t = 0.0, allow_negative_numbers = true)]
    spent: f64,
}

pub(super) fn run(question: &Question, format: Format, out: &mut dyn Write) -> Result<u8, Failure> {
    let spent = Rho::from_value(question.spent)
        .ok_or_else(|| Failure::Usage(format!("`--spent` is {}: give a number of 0 or more", question.spent)))?;
    let named = |path: &Path| format!("`{}`", path.display());
    let text = read(&question.plan)?;
    let plan = ReadPlan::parse(&text, question.coordinates).with_context(|| named(&question.plan))?;
    let policy = match &question.policy {
        Some(path) => Some(Policy::parse(&read(path)?).with_context(|| named(path))?),
        None => None,
    };
    let circumstances = Circumstances { patients: question.patients, sites: question.sites, spent };
    let outlook = Outlook::of(&plan, policy.as_ref(), &circumstances)?;
    match format {
        Format::Json => writeln!(out, "{}", serde_json::to_string(&outlook)?)?,
        Format::Text => write!(out, "{outlook}")?,
    }
    Ok(if outlook.is_allowed() { 0 } else { REFUSED })
}

fn read(path: &Path) -> Result<String, anyhow::Error> {
    fs::read_to_string(path).with_context(|| format!("cannot read `{}`: check the path", path.display()))
}
