//! One hospital: what it promised, what it spent, release by release, and what is left.

use std::collections::{BTreeMap, BTreeSet};

use semisam_shared::{
    accounting::{Adjacency, Releases, Rho, gdp, pld, rdp},
    ids::{Digest, RoundNumber, SiteId, UnixMillis},
    ledger::{LedgerEvent, Query, Reserve},
    plan::{Plan, outlook::BothWays},
    policy::Policy,
    receipt::Receipt,
};
use serde::Serialize;

use crate::verify::{JournalBook, LedgerBook, SiteEpsilon};

/// How many releases are put through the slower accountant, evenly spread and always the last.
const PLD_AT_MOST: usize = 48;

/// What became of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Sent, and the coordinator's receipt is in the ledger.
    Accepted,
    /// Sent and accepted, as the journal says; the receipt never arrived.
    AcceptedUnheard,
    /// Made and kept, and no log says that it arrived.
    Committed,
    /// Lost before it was made. Its cost stays spent.
    Abandoned,
    /// Neither made nor given up.
    Open,
}

/// One reservation and what it cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// The RESERVE record.
    pub record: u64,
    /// When.
    pub at: UnixMillis,
    /// The plan.
    pub plan: Digest,
    /// The round.
    pub round: RoundNumber,
    /// What became of it.
    pub outcome: Outcome,
    /// Of all reservations so far, by zCDP, at the delta of the policy in force at the end.
    pub eps_zcdp: BothWays,
    /// The same by privacy loss distributions; null where it was not computed because there are very many releases.
    pub eps_pld: Option<BothWays>,
}

/// One rule of the policy against what happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// The field of the policy.
    pub rule: &'static str,
    /// In words.
    pub what: &'static str,
    /// What is allowed.
    pub allows: String,
    /// What the ledger shows.
    pub found: String,
    /// Whether it was kept; null if no log can show it.
    pub kept: Option<bool>,
}

/// One hospital.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hospital {
    /// What people call it.
    pub name: String,
    /// Its certificate's key.
    pub site: SiteId,
    /// Its ledger.
    pub file: String,
    /// Whose budget it is.
    pub cohort: String,
    /// Patient or hospital.
    pub unit_of_privacy: String,
    /// Who approved plans.
    pub approvers: Vec<String>,
    /// The policy in force at the end.
    pub policy: Option<Policy>,
    /// Everything that was spent, by every accountant.
    pub privacy_loss: SiteEpsilon,
    /// The zCDP of it.
    pub rho: f64,
    /// Whether more may have been spent than the ledger shows: it is broken, or the coordinator has updates that it lacks.
    pub spent_at_least: bool,
    /// The most that the policy allows: epsilon (add/remove) by zCDP.
    pub privacy_budget: Option<f64>,
    /// What is left of it, rounded down.
    pub privacy_budget_left: Option<f64>,
    /// How often somebody who sees everything, and knows everything but whether one unit took part, guesses that rightly at
    /// best; 0.5 is a coin.
    pub best_guess: Option<f64>,
    /// The policy, rule by rule.
    pub limits: Vec<Limit>,
    /// Every reservation.
    pub steps: Vec<Step>,
    /// How to compute the figures again.
    pub recompute: Vec<String>,
}

impl Hospital {
    /// The hospital of `ledger`; none if that has no beginning.
    pub(super) fn of(ledger: &LedgerBook, journals: &[JournalBook]) -> Option<Self> {
        let owner = ledger.state.owner.as_ref()?;
        let mut epsilon = BTreeMap::new();
        ledger.add_epsilon(&mut epsilon);
        let privacy_loss = epsilon.into_values().next()?;
        let policy = ledger.state.policy.clone();
        let budget = policy.as_ref().map(|policy| policy.epsilon_max.get());
        let left = budget.map(|budget| ((budget - privacy_loss.add_remove) * 1e6).floor().max(0.0) / 1e6);
        let reserves = reserves(ledger);
        let releases = kinds(reserves.iter().map(|(_, _, reserve)| *reserve));
        let mu = releases.as_ref().and_then(|releases| gdp::mu(releases, Adjacency::AddRemove).ok());
        Some(Self {
            name: owner.name.clone(),
            site: owner.site,
            file: ledger.log.file.clone(),
            cohort: owner.cohort.clone(),
            unit_of_privacy: privacy_loss.unit.clone(),
            approvers: approvers(ledger),
            rho: ledger.state.spent.value(),
            spent_at_least: !ledger.log.whole || lacks_commit(ledger, journals),
            privacy_budget: budget,
            privacy_budget_left: left,
            best_guess: mu.map(gdp::best_guess),
            limits: policy.as_ref().map(|policy| limits(policy, ledger, &privacy_loss)).unwrap_or_default(),
            steps: steps(ledger, journals, &reserves, policy.as_ref()),
            recompute: recompute(&reserves, policy.as_ref()),
            privacy_loss,
            policy,
        })
    }
}

fn reserves(ledger: &LedgerBook) -> Vec<(u64, UnixMillis, &Reserve)> {
    let mut reserves = Vec::new();
    for record in &ledger.log.records {
        if let LedgerEvent::Reserve(reserve) = &record.event {
            reserves.push((record.seq, record.at, reserve));
        }
    }
    reserves
}

/// Whether a journal accepted an update of this site that the ledger has not committed.
fn lacks_commit(ledger: &LedgerBook, journals: &[JournalBook]) -> bool {
    let committed: BTreeSet<Digest> = ledger.state.releases.values().map(|release| release.payload).collect();
    let own = |receipt: &Receipt| ledger.site() == Some(receipt.site);
    let mut accepted = journals.iter().flat_map(JournalBook::accepted).filter(|(_, receipt)| own(receipt));
    accepted.any(|(_, receipt)| !committed.contains(&receipt.payload))
}

fn approvers(ledger: &LedgerBook) -> Vec<String> {
    let mut names = Vec::new();
    for record in &ledger.log.records {
        if let LedgerEvent::Approved { approver, .. } = &record.event
            && !names.contains(approver)
        {
            names.push(approver.clone());
        }
    }
    names
}

/// Reservations of one kind together; none if one has no figure.
fn kinds<'a>(reserves: impl Iterator<Item = &'a Reserve>) -> Option<Vec<Releases>> {
    let mut kinds = BTreeMap::<(u64, u64), u64>::new();
    for reserve in reserves {
        *kinds.entry((reserve.sensitivity, reserve.sigma)).or_default() += 1;
    }
    kinds
        .into_iter()
        .map(|((sensitivity, sigma), count)| Releases::of_integers(sensitivity, sigma, count).ok())
        .collect()
}

fn steps(
    ledger: &LedgerBook,
    journals: &[JournalBook],
    reserves: &[(u64, UnixMillis, &Reserve)],
    policy: Option<&Policy>,
) -> Vec<Step> {
    let delta = policy.map(|policy| policy.delta.get());
    let stride = reserves.len().div_ceil(PLD_AT_MOST).max(1);
    let mut spent = Rho::default();
    let mut steps = Vec::new();
    for (index, (record, at, reserve)) in reserves.iter().enumerate() {
        spent = spent.plus(Rho::of_release(reserve.sensitivity, reserve.sigma));
        let zcdp = |adjacency| Ok::<f64, ()>(delta.map_or(f64::INFINITY, |delta| spent.epsilon(delta, adjacency)));
        let computed = index + 1 == reserves.len() || (index + 1).is_multiple_of(stride);
        let eps_pld = delta.filter(|_| computed).and_then(|delta| {
            let releases = kinds(reserves[..=index].iter().map(|(_, _, reserve)| *reserve))?;
            let both = |adjacency| {
                let renyi = rdp::epsilon(&releases, delta, adjacency)?.epsilon;
                Ok::<f64, semisam_shared::accounting::Failed>(pld::epsilon(&releases, delta, adjacency)?.min(renyi))
            };
            BothWays::of(both).ok()
        });
        let Ok(eps_zcdp) = BothWays::of(zcdp) else { continue };
        steps.push(Step {
            record: *record,
            at: *at,
            plan: reserve.plan,
            round: reserve.round,
            outcome: outcome(ledger, journals, *record, reserve),
            eps_zcdp,
            eps_pld,
        });
    }
    steps
}

fn outcome(ledger: &LedgerBook, journals: &[JournalBook], record: u64, reserve: &Reserve) -> Outcome {
    let query = Query { plan: reserve.plan, round: reserve.round, model: reserve.model };
    let Some(release) = ledger.state.releases.get(&query).filter(|release| release.reserve == record) else {
        let open = ledger.state.open.is_some_and(|(open, _)| open == record);
        return if open { Outcome::Open } else { Outcome::Abandoned };
    };
    if release.receipt.is_some() {
        return Outcome::Accepted;
    }
    let same = |receipt: &Receipt| {
        (receipt.plan, receipt.round, receipt.payload) == (query.plan, query.round, release.payload)
            && ledger.site() == Some(receipt.site)
    };
    let known = journals.iter().any(|journal| journal.accepted().any(|(_, receipt)| same(receipt)));
    if known { Outcome::AcceptedUnheard } else { Outcome::Committed }
}

fn limits(policy: &Policy, ledger: &LedgerBook, spent: &SiteEpsilon) -> Vec<Limit> {
    let plans: Vec<&Plan> = ledger.state.approved.values().map(|approval| &approval.plan.plan).collect();
    let lowest = plans.iter().map(|plan| plan.privacy.noise_multiplier.get()).fold(f64::INFINITY, f64::min);
    let delta = plans.iter().map(|plan| plan.privacy.delta.get()).fold(0.0, f64::max);
    let rounds = plans.iter().map(|plan| plan.rounds).max().unwrap_or(0);
    let listed = |plan: &&Plan| policy.architectures.contains(&plan.student.architecture);
    let none = plans.is_empty();
    let or_none = |text: String| if none { "no plan approved".to_owned() } else { text };
    let limit = |rule, what, allows: String, found: String, kept| Limit { rule, what, allows, found, kept };
    vec![
        limit(
            "epsilon_max",
            "epsilon over all plans, at most (add/remove)",
            format!("{} at delta {}", policy.epsilon_max, policy.delta),
            spent.add_remove.to_string(),
            Some(spent.add_remove <= policy.epsilon_max.get()),
        ),
        limit(
            "delta",
            "delta of a plan, at most",
            policy.delta.to_string(),
            or_none(delta.to_string()),
            Some(delta <= policy.delta.get()),
        ),
        limit(
            "noise_multiplier_min",
            "noise multiplier of a plan, at least",
            policy.noise_multiplier_min.to_string(),
            or_none(lowest.to_string()),
            Some(lowest >= policy.noise_multiplier_min.get()),
        ),
        limit(
            "rounds_max",
            "rounds of a plan, at most",
            policy.rounds_max.to_string(),
            or_none(rounds.to_string()),
            Some(rounds <= policy.rounds_max),
        ),
        limit(
            "architectures",
            "networks that may be trained",
            if policy.architectures.is_empty() {
                "any".into()
            } else {
                format!("{} listed", policy.architectures.len())
            },
            or_none(format!("of {} approved plan{}", plans.len(), if plans.len() == 1 { "" } else { "s" })),
            Some(policy.architectures.is_empty() || plans.iter().all(listed)),
        ),
        limit(
            "patients_min",
            "patients of the hospital, at least",
            policy.patients_min.to_string(),
            "stands in no log".into(),
            None,
        ),
    ]
}

/// The commands that give the same figures, if all releases are of one kind.
fn recompute(reserves: &[(u64, UnixMillis, &Reserve)], policy: Option<&Policy>) -> Vec<String> {
    let (Some((_, _, first)), Some(policy)) = (reserves.first(), policy) else { return vec![] };
    let kind = (first.sensitivity, first.sigma);
    if first.sensitivity == 0 || reserves.iter().any(|(_, _, reserve)| (reserve.sensitivity, reserve.sigma) != kind) {
        return vec![];
    }
    let sigma = first.sigma as f64 / first.sensitivity as f64;
    let command = |adjacency| {
        format!(
            "semisam-audit epsilon --mechanism gaussian --sigma {sigma} --steps {} --delta {} --adjacency {adjacency}",
            reserves.len(),
            policy.delta
        )
    };
    ["add-remove", "replace-one"].map(command).to_vec()
}
