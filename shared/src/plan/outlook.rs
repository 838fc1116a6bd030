//! What a plan would cost and be worth, before anybody trains: every accountant, in both relations, how far noise drowns
//! what hospitals say, what a policy thinks of it, and where to expect nothing (spec/privacy.md, section 14).
//!
//! # Noise to signal
//! A site's sum over N patients, each clipped to C, is at most N C long, and its noise has the expected length z C sqrt(k),
//! k being the length of the released vector. So noise is at least `z sqrt(k) / N` times as long as the signal of one site,
//! and `z sqrt(k) / (N sqrt(n))` times that of the average over n sites, since independent noise adds up as a square. Clipped
//! contributions of real patients point in different directions: their sum was a fifth to a third of the bound, so that the
//! true ratio is three to five times as bad. It warns; it is no law.

use serde::Serialize;

use super::{Plan, PlanError, ReadPlan, SIGMA, Unit};
use crate::{
    accounting::{Adjacency, Failed, Releases, Rho, gdp, pld, rdp},
    decimal::Decimal,
    ids::{Digest, PublicKey},
    policy::{Objection, Policy},
};

mod advice;
mod words;

pub use advice::{Advice, Weight, thresholds};

/// No outlook can be given.
#[derive(Debug, thiserror::Error)]
pub enum OutlookError {
    /// Nobody would take part.
    #[error("`{0}` must be at least 1")]
    Nobody(&'static str),
    /// An accountant has no figure.
    #[error("the plan's cost has no figure: {0}")]
    Accounting(#[from] Failed),
    /// The plan has no digest.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// Who would take part, and what was spent before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Circumstances {
    /// Patients of one site; the plan's public number if not given.
    pub patients: Option<u32>,
    /// Sites that contribute to a round; the plan's quorum if not given.
    pub sites: Option<u32>,
    /// What this cohort has spent on other plans.
    pub spent: Rho,
}

/// Epsilon in both relations, rounded up at the sixth decimal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BothWays {
    /// One unit's contribution is zeroed out.
    pub add_remove: f64,
    /// One unit is exchanged for another.
    pub replace_one: f64,
}

/// What releases cost, by every accountant.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Costs {
    /// zCDP of the add/remove relation.
    pub rho: f64,
    /// By zCDP: what a ledger charges and a policy's ceiling is held against.
    pub eps_zcdp: BothWays,
    /// By Renyi differential privacy.
    pub eps_rdp: BothWays,
    /// By privacy loss distributions: the smallest figure that can be promised.
    pub eps_pld: BothWays,
    /// How often somebody who sees every release, and knows everything but whether one unit took part, guesses that
    /// rightly at best; 0.5 is a coin.
    pub best_guess: f64,
}

/// How much longer the noise is than what it hides, at best.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct NoiseToSignal {
    /// Patients of one site that were reckoned with.
    pub patients: u32,
    /// Sites that were reckoned with.
    pub sites: u32,
    /// In what one site sends.
    pub one_site: f64,
    /// In the average over all sites.
    pub average: f64,
}

/// What a policy says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judgement {
    /// Whether nothing is against the plan.
    pub allowed: bool,
    /// What is.
    pub objections: Vec<Objection>,
    /// The ceiling on epsilon (add/remove, zCDP) over all plans.
    pub epsilon_max: f64,
    /// At this delta, at which the epsilons below are, too.
    pub delta: f64,
    /// What was spent before.
    pub spent: BothWays,
    /// What will have been spent after all rounds.
    pub after_all_rounds: BothWays,
    /// How many of the plan's rounds the ceiling allows.
    pub rounds_affordable: u32,
}

/// What is to be expected of a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outlook {
    /// The plan's name.
    pub name: String,
    /// Its digest, unless it is a draft.
    pub digest: Option<Digest>,
    /// Who signed it.
    pub signed_by: Option<PublicKey>,
    /// Patient or hospital.
    pub unit: Unit,
    /// How many rounds.
    pub rounds: u32,
    /// Length of the released vector.
    pub coordinates: u64,
    /// The clip norm C.
    pub clip_norm: Decimal,
    /// The noise multiplier z.
    pub noise_multiplier: Decimal,
    /// The plan's delta, at which costs are.
    pub delta: Decimal,
    /// One round alone.
    pub one_round: Costs,
    /// All rounds.
    pub all_rounds: Costs,
    /// How far noise drowns what sites say in one round.
    pub noise_to_signal: NoiseToSignal,
    /// What the policy says, if there is one.
    pub policy: Option<Judgement>,
    /// What somebody should know who decides.
    pub advice: Vec<Advice>,
}

impl Costs {
    /// `count` releases of `plan` at `delta`.
    ///
    /// # Privacy
    /// Sensitivity and noise are the integers that are released ([`Releases::of_integers`]). All figures are from above.
    ///
    /// # Errors
    /// If a figure is out of range.
    pub fn of(plan: &Plan, count: u32, delta: f64) -> Result<Self, Failed> {
        let one = plan.rho_per_round();
        let rho = (0..count).fold(Rho::default(), |sum, _| sum.plus(one));
        let releases = [Releases::of_integers(plan.sensitivity(), SIGMA, u64::from(count))?];
        let renyi = |adjacency| rdp::epsilon(&releases, delta, adjacency).map(|found| found.epsilon);
        // Both are proofs.
        let loss = |adjacency| Ok::<f64, Failed>(pld::epsilon(&releases, delta, adjacency)?.min(renyi(adjacency)?));
        Ok(Self {
            rho: rho.value(),
            eps_zcdp: BothWays::of(|adjacency| Ok::<f64, Failed>(rho.epsilon(delta, adjacency)))?,
            eps_rdp: BothWays::of(renyi)?,
            eps_pld: BothWays::of(loss)?,
            best_guess: gdp::best_guess(gdp::mu(&releases, Adjacency::AddRemove)?),
        })
    }
}

impl BothWays {
    /// `epsilon` of each relation, as it is published.
    ///
    /// # Errors
    /// Those of `epsilon`.
    pub fn of<E>(epsilon: impl Fn(Adjacency) -> Result<f64, E>) -> Result<Self, E> {
        let published = |adjacency| {
            let value = epsilon(adjacency)?;
            Ok(Decimal::rounded_up(value).map_or(value, Decimal::get))
        };
        Ok(Self { add_remove: published(Adjacency::AddRemove)?, replace_one: published(Adjacency::ReplaceOne)? })
    }
}

impl NoiseToSignal {
    fn of(plan: &Plan, circumstances: &Circumstances) -> Self {
        let patients = circumstances.patients.unwrap_or(plan.privacy.expected_patients);
        let sites = circumstances.sites.unwrap_or(plan.quorum);
        // Where a hospital is clipped as a whole, the sum is one contribution, however many patients it has.
        let contributions = if plan.privacy.unit == Unit::Hospital { 1 } else { patients };
        let length = plan.privacy.noise_multiplier.get() * (plan.privacy.release.coordinates() as f64).sqrt();
        let one_site = length / f64::from(contributions);
        Self { patients, sites, one_site, average: one_site / f64::from(sites).sqrt() }
    }
}

impl Judgement {
    fn of(policy: &Policy, read: &ReadPlan, circumstances: &Circumstances) -> Self {
        let (plan, delta) = (&read.plan, policy.delta.get());
        let mut objections = policy.judge(plan);
        if read.draft {
            // A draft has no architecture yet, which is not against it.
            objections.retain(|objection| objection.rule != "architectures");
        }
        if let Some(patients) = circumstances.patients.filter(|patients| *patients < policy.patients_min) {
            let problem = format!("{patients} patients are fewer than the policy's {}", policy.patients_min);
            objections.push(Objection { rule: "patients_min", problem });
        }
        let published = |rho: Rho| BothWays {
            add_remove: published(rho.epsilon(delta, Adjacency::AddRemove)),
            replace_one: published(rho.epsilon(delta, Adjacency::ReplaceOne)),
        };
        let (spent, after) = (circumstances.spent, circumstances.spent.plus(plan.rho_in_all()));
        let rounds_affordable = affordable(policy, plan, spent);
        if rounds_affordable < plan.rounds && !objections.iter().any(|objection| objection.rule == "epsilon_max") {
            let problem = format!(
                "with epsilon {:.3} spent before, only {rounds_affordable} of its {} rounds stay below the policy's {}",
                published(spent).add_remove,
                plan.rounds,
                policy.epsilon_max
            );
            objections.push(Objection { rule: "epsilon_max", problem });
        }
        Self {
            allowed: objections.is_empty(),
            objections,
            epsilon_max: policy.epsilon_max.get(),
            delta,
            spent: published(spent),
            after_all_rounds: published(after),
            rounds_affordable,
        }
    }
}

fn published(value: f64) -> f64 {
    Decimal::rounded_up(value).map_or(value, Decimal::get)
}

/// How many releases of `plan` stay at or below the ceiling after `spent`, as the rules of a ledger reckon.
pub fn affordable(policy: &Policy, plan: &Plan, mut spent: Rho) -> u32 {
    for round in 0..plan.rounds {
        spent = spent.plus(plan.rho_per_round());
        if published(policy.epsilon(spent)) > policy.epsilon_max.get() {
            return round;
        }
    }
    plan.rounds
}

impl Outlook {
    /// The outlook of `read`.
    ///
    /// # Errors
    /// If nobody takes part or a figure is out of range.
    pub fn of(read: &ReadPlan, policy: Option<&Policy>, circumstances: &Circumstances) -> Result<Self, OutlookError> {
        for (name, number) in [("patients", circumstances.patients), ("sites", circumstances.sites)] {
            if number == Some(0) {
                return Err(OutlookError::Nobody(name));
            }
        }
        let plan = &read.plan;
        let delta = plan.privacy.delta.get();
        let noise_to_signal = NoiseToSignal::of(plan, circumstances);
        let all_rounds = Costs::of(plan, plan.rounds, delta)?;
        Ok(Self {
            name: plan.name.clone(),
            digest: if read.draft { None } else { Some(plan.digest()?) },
            signed_by: read.signed_by,
            unit: plan.privacy.unit,
            rounds: plan.rounds,
            coordinates: plan.privacy.release.coordinates(),
            clip_norm: plan.privacy.clip_norm,
            noise_multiplier: plan.privacy.noise_multiplier,
            delta: plan.privacy.delta,
            one_round: Costs::of(plan, 1, delta)?,
            all_rounds,
            noise_to_signal,
            policy: policy.map(|policy| Judgement::of(policy, read, circumstances)),
            advice: advice::about(plan, &all_rounds, &noise_to_signal),
        })
    }

    /// Whether the policy, if there is one, has nothing against it.
    pub fn is_allowed(&self) -> bool {
        self.policy.as_ref().is_none_or(|judgement| judgement.allowed)
    }
}

#[cfg(test)]
mod tests;
