//! `semisam-node budget`: what this cohort has spent over all plans, what is left, and what comes next; with `--plan`, what a
//! plan would cost and be worth here, before it is approved.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use semisam_shared::{
    accounting::{Adjacency, Rho},
    decimal::Decimal,
    ids::Digest,
    ledger::Ledger,
    plan::{
        Plan, ReadPlan, ReadPlanError,
        outlook::{Circumstances, Outlook},
    },
    policy::Policy,
};
use serde::Serialize;

use super::{Dir, Exit, Failure, Format, Rim};
use crate::{privacy::book, site_folder::SiteFolder};

/// Arguments of `budget`.
#[derive(Clone, Debug, clap::Args)]
pub struct Budget {
    #[command(flatten)]
    site: Dir,
    /// A plan that is not approved yet: what it would cost here, what the policy thinks of it, whether it is worth it
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Patients of this site, if not the plan's public number
    #[arg(long, value_name = "N", requires = "plan", value_parser = clap::value_parser!(u32).range(1..))]
    patients: Option<u32>,
    /// Sites that contribute to a round, if not the plan's quorum
    #[arg(long, value_name = "N", requires = "plan", value_parser = clap::value_parser!(u32).range(1..))]
    sites: Option<u32>,
    /// How many numbers a site releases in a round, for a draft that does not say
    #[arg(long, value_name = "K", requires = "plan")]
    coordinates: Option<u64>,
}

/// A plan cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum BudgetError {
    /// It cannot be read.
    #[error("cannot read `{}`: check the path", path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is no plan.
    #[error("`{}`", path.display())]
    Plan {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ReadPlanError,
    },
}

/// A cost, in every notation; epsilons are rounded up at the sixth decimal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// zCDP of the add/remove relation.
    pub rho: f64,
    /// Epsilon: a unit's contribution zeroed out.
    pub add_remove: f64,
    /// Epsilon: a unit exchanged for another.
    pub replace_one: f64,
    /// At this delta.
    pub delta: f64,
}

impl Cost {
    /// What `rho` means at `delta`.
    pub fn of(rho: Rho, delta: f64) -> Self {
        let epsilon = |adjacency| rho.epsilon(delta, adjacency);
        let (add_remove, replace_one) = (epsilon(Adjacency::AddRemove), epsilon(Adjacency::ReplaceOne));
        Self { rho: rho.value(), add_remove, replace_one, delta }.rounded_up()
    }

    /// With epsilons as they are published.
    #[must_use]
    pub fn rounded_up(self) -> Self {
        let up = |value| Decimal::rounded_up(value).map_or(value, Decimal::get);
        Self { add_remove: up(self.add_remove), replace_one: up(self.replace_one), ..self }
    }

    /// For people: both relations, always.
    pub fn in_words(&self) -> String {
        // Rounded up: what was spent never looks smaller than it is.
        let up = |epsilon: f64| (epsilon * 1e4).ceil() / 1e4;
        let (add_remove, replace_one) = (up(self.add_remove), up(self.replace_one));
        format!("{add_remove:.4} add/remove, {replace_one:.4} replace-one, at delta {}", self.delta)
    }
}

/// What is left.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Left {
    /// Epsilon (add/remove) below the policy's ceiling.
    pub add_remove: f64,
}

impl Left {
    /// For people, rounded down.
    pub fn in_words(&self) -> String {
        format!("{:.4} add/remove", (self.add_remove * 1e4).floor() / 1e4)
    }
}

/// What an approved plan costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanCost {
    /// Its digest.
    pub digest: Digest,
    /// What people call it.
    pub name: String,
    /// Patient or hospital.
    pub unit: semisam_shared::plan::Unit,
    /// How many rounds it has.
    pub rounds: u32,
    /// How many of them this site has released.
    pub rounds_released: usize,
    /// One release alone.
    pub per_round: Cost,
    /// Everything that was spent and one more release.
    pub after_next: Cost,
    /// All rounds of the plan alone.
    pub whole: Cost,
    /// How many more releases the policy's ceiling allows, at most as many as the plan has left.
    pub rounds_affordable: u32,
}

/// The whole account.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Account {
    /// The site's number.
    pub site: String,
    /// What people call it.
    pub name: String,
    /// Whose budget it is.
    pub cohort: String,
    /// The policy in force.
    pub policy: Option<Policy>,
    /// What was spent.
    pub spent: Cost,
    /// What is left.
    pub left: Left,
    /// Approved plans.
    pub plans: Vec<PlanCost>,
}

impl Account {
    /// The account of a ledger.
    pub fn of(ledger: &Ledger) -> Self {
        let ceiling = ledger.policy.as_ref().map_or(0.0, |policy| policy.epsilon_max.get());
        let delta = ledger.policy.as_ref().map_or(0.0, |policy| policy.delta.get());
        // Without a policy nothing can have been spent.
        let nothing = Cost { rho: 0.0, add_remove: 0.0, replace_one: 0.0, delta };
        let spent = if ledger.policy.is_some() { Cost::of(ledger.spent, delta) } else { nothing };
        let plans = ledger.approved.iter().map(|(digest, approval)| {
            let (digest, plan) = (*digest, &approval.plan.plan);
            let rounds_released = ledger.releases.keys().filter(|query| query.plan == digest).count();
            let released = u32::try_from(rounds_released).unwrap_or(u32::MAX);
            let open = plan.rounds.saturating_sub(released);
            PlanCost {
                digest,
                name: plan.name.clone(),
                unit: plan.privacy.unit,
                rounds: plan.rounds,
                rounds_released,
                per_round: Cost::of(plan.rho_per_round(), delta),
                after_next: Cost::of(ledger.spent.plus(plan.rho_per_round()), delta),
                whole: Cost::of(plan.rho_in_all(), delta),
                rounds_affordable: affordable(ledger, plan, ceiling, delta).min(open),
            }
        });
        Self {
            site: ledger.owner.as_ref().map(|owner| owner.site.to_string()).unwrap_or_default(),
            name: ledger.owner.as_ref().map(|owner| owner.name.clone()).unwrap_or_default(),
            cohort: ledger.owner.as_ref().map(|owner| owner.cohort.clone()).unwrap_or_default(),
            policy: ledger.policy.clone(),
            spent,
            left: Left { add_remove: ((ceiling - spent.add_remove) * 1e6).floor().max(0.0) / 1e6 },
            plans: plans.collect(),
        }
    }
}

/// How many more releases of `plan` stay below the ceiling, as the ledger's rules will reckon it.
fn affordable(ledger: &Ledger, plan: &Plan, ceiling: f64, delta: f64) -> u32 {
    let mut spent = ledger.spent;
    (0..plan.rounds)
        .take_while(|_| {
            spent = spent.plus(plan.rho_per_round());
            Cost::of(spent, delta).add_remove <= ceiling
        })
        .count()
        .try_into()
        .unwrap_or(plan.rounds)
}

impl Budget {
    pub(super) fn run(self, rim: &mut Rim<'_>) -> Result<Exit, Failure> {
        let folder = SiteFolder::open(&self.site.dir)?;
        let ledger = book::sound(&folder.ledger())?.ledger;
        if let Some(path) = &self.plan {
            return self.before_training(path, &ledger, rim);
        }
        let account = Account::of(&ledger);
        if rim.format == Format::Json {
            rim.json(&account)?;
            return Ok(Exit::Done);
        }
        let ceiling = account.policy.as_ref().map_or("none".to_owned(), |policy| {
            format!("{} add/remove, over all plans, at delta {}", policy.epsilon_max, policy.delta)
        });
        rim.table(&[
            ("site", format!("{} ({})", account.name, &account.site[..account.site.len().min(8)])),
            ("cohort", account.cohort.clone()),
            ("epsilon at most", ceiling),
            ("epsilon spent", account.spent.in_words()),
            ("epsilon left", account.left.in_words()),
        ])?;
        if account.plans.is_empty() {
            writeln!(rim.out, "\nno plan is approved: semisam-node policy approve DIGEST")?;
        }
        for plan in &account.plans {
            writeln!(rim.out, "\nplan {} ({}), unit: {:?}", plan.name, plan.digest.short(), plan.unit)?;
            rim.table(&[
                ("  rounds released", format!("{} of {}", plan.rounds_released, plan.rounds)),
                ("  epsilon of one round alone", plan.per_round.in_words()),
                ("  epsilon of all its rounds", plan.whole.in_words()),
                ("  epsilon spent after the next", plan.after_next.in_words()),
                ("  rounds that the budget allows", plan.rounds_affordable.to_string()),
            ])?;
        }
        Ok(Exit::Done)
    }

    /// What the plan in `path` would cost and be worth, after what this cohort has spent on others.
    fn before_training(&self, path: &Path, ledger: &Ledger, rim: &mut Rim<'_>) -> Result<Exit, Failure> {
        let text = fs::read_to_string(path).map_err(|source| BudgetError::Read { path: path.into(), source })?;
        let plan = ReadPlan::parse(&text, self.coordinates)
            .map_err(|source| BudgetError::Plan { path: path.into(), source })?;
        let spent = spent_on_others(ledger, &plan);
        let circumstances = Circumstances { patients: self.patients, sites: self.sites, spent };
        let outlook = Outlook::of(&plan, ledger.policy.as_ref(), &circumstances)?;
        match rim.format {
            Format::Json => rim.json(&outlook)?,
            Format::Text => write!(rim.out, "{outlook}")?,
        }
        Ok(if outlook.is_allowed() { Exit::Done } else { Exit::Refused })
    }
}

/// What was spent without the releases of `plan` itself, if it is under way already. Rounded up.
fn spent_on_others(ledger: &Ledger, plan: &ReadPlan) -> Rho {
    let digest = plan.plan.digest().ok().filter(|_| !plan.draft);
    let own = ledger.releases.keys().filter(|query| Some(query.plan) == digest).count();
    let own = own as f64 * plan.plan.rho_per_round().value() * (1.0 - 1e-9);
    Rho::from_value((ledger.spent.value() - own).max(0.0)).unwrap_or(ledger.spent)
}
