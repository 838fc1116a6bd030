//! The privacy ledger of one cohort: what a hospital has promised, spent and sent, and the rules that node and auditor
//! both apply to it (spec/privacy.md, section 8).
//!
//! A release runs RESERVE, COMMIT, ACKED. What is reserved is spent, whatever happens afterwards: a crash between
//! RESERVE and COMMIT becomes ABANDONED, without refund. After COMMIT only the same bytes are ever sent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    accounting::{Adjacency, Rho},
    decimal::Decimal,
    ids::{Digest, PublicKey, RoundNumber, SiteId},
    plan::{SIGMA, SignedPlan},
    policy::Policy,
    receipt::SignedReceipt,
};

mod rules;

pub use rules::LedgerViolation;

/// The mechanism that every release uses.
pub const MECHANISM: &str = "integer clip, discrete Gaussian, full participation";

/// One record of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LedgerEvent {
    /// The first record: whose ledger this is.
    Genesis {
        /// The site.
        site: SiteId,
        /// What people call it.
        name: String,
        /// The key that signs every record.
        key: PublicKey,
        /// The cohort whose budget this is.
        cohort: String,
    },
    /// The policy from here on.
    Policy {
        /// Floors and ceilings.
        policy: Policy,
    },
    /// A data protection officer approved a plan.
    Approved {
        /// Its digest.
        digest: Digest,
        /// Who approved.
        approver: String,
        /// The plan as the consortium signed it.
        plan: Box<SignedPlan>,
        /// The coordinator whose receipts count.
        coordinator: PublicKey,
    },
    /// Budget is spent, before anything private is noised.
    Reserve(Reserve),
    /// The release is on disk.
    Commit {
        /// The record that paid for it.
        reserve: u64,
        /// SHA-256 of the update.
        payload: Digest,
        /// How long it is.
        bytes: u64,
        /// How the clip was proved.
        clip_check: String,
        /// Where the noise came from.
        noise: String,
    },
    /// The coordinator has it.
    Acked {
        /// The record that committed it.
        commit: u64,
        /// The coordinator's word.
        receipt: SignedReceipt,
    },
    /// A crash or an error came between RESERVE and COMMIT; the budget is gone.
    Abandoned {
        /// The record that paid.
        reserve: u64,
        /// What happened.
        reason: String,
    },
    /// The node refused to release.
    Refused {
        /// The plan.
        plan: Digest,
        /// The round, if it came to one.
        round: Option<RoundNumber>,
        /// Which rule, and what would mend it.
        reason: String,
        /// Where the budget does not suffice: epsilon (add/remove) that the release would have led to, rounded up.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        requested: Option<Decimal>,
        /// And how much of the policy's ceiling is left, rounded down.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        remaining: Option<Decimal>,
    },
    /// What was committed is sent once more, byte for byte: no new charge.
    Retry {
        /// The record that committed it.
        commit: u64,
    },
    /// From here on, this program writes.
    Started(Program),
}

/// Which program writes a ledger, on which start of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Its name and version.
    pub software: String,
    /// SHA-256 of its file, where it can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<Digest>,
    /// What the machine calls the time since it was switched on: a clock that was set back does not change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
}

/// What is paid for, in the words of the mechanism.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserve {
    /// The approved plan.
    pub plan: Digest,
    /// The round.
    pub round: RoundNumber,
    /// The released model from which training starts.
    pub model: Digest,
    /// [`MECHANISM`].
    pub mechanism: String,
    /// Clip norm in grid units: the L2 sensitivity of the add/remove relation.
    pub sensitivity: u64,
    /// Noise scale in grid units.
    pub sigma: u64,
    /// Length of the released vector.
    pub coordinates: u64,
    /// Cost of this release (zCDP).
    pub rho: Decimal,
    /// Cost of everything so far, this release included.
    pub spent: Decimal,
    /// The policy's delta.
    pub delta: Decimal,
    /// Epsilon of `spent`: a patient's contribution zeroed out.
    pub epsilon_add_remove: Decimal,
    /// Epsilon of `spent`: a patient exchanged for another.
    pub epsilon_replace_one: Decimal,
    /// How much of the policy's ceiling (add/remove) is left afterwards, rounded down. Older ledgers do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining: Option<Decimal>,
}

/// A release that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The COMMIT record.
    pub commit: u64,
    /// The RESERVE record.
    pub reserve: u64,
    /// SHA-256 of the update.
    pub payload: Digest,
    /// How long it is.
    pub bytes: u64,
    /// The coordinator's receipt, once there is one.
    pub receipt: Option<SignedReceipt>,
}

/// Which question a release answers: the same question is never answered twice with fresh noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Query {
    /// The plan.
    pub plan: Digest,
    /// The round.
    pub round: RoundNumber,
    /// The model that training started from.
    pub model: Digest,
}

/// Whose ledger it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The site.
    pub site: SiteId,
    /// What people call it.
    pub name: String,
    /// The key that signs.
    pub key: PublicKey,
    /// The cohort.
    pub cohort: String,
}

/// A plan that a data protection officer approved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// The plan as signed.
    pub plan: SignedPlan,
    /// The coordinator whose receipts count.
    pub coordinator: PublicKey,
}

/// What the records so far add up to.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Whose it is; none before the first record.
    pub owner: Option<Owner>,
    /// The policy in force.
    pub policy: Option<Policy>,
    /// Approved plans.
    pub approved: BTreeMap<Digest, Approval>,
    /// Everything reserved, over all plans.
    pub spent: Rho,
    /// Committed releases.
    pub releases: BTreeMap<Query, Committed>,
    /// A reservation that is neither committed nor abandoned: its record number and what it was for.
    pub open: Option<(u64, Query)>,
    /// The program that writes, as far as it said so.
    pub program: Option<Program>,
}

impl Ledger {
    /// Takes one record into account. Never fails: ask [`Ledger::permits`] first.
    pub fn evolve(&mut self, seq: u64, event: &LedgerEvent) {
        match event {
            LedgerEvent::Genesis { site, name, key, cohort } => {
                self.owner = Some(Owner { site: *site, name: name.clone(), key: *key, cohort: cohort.clone() });
            }
            LedgerEvent::Policy { policy } => self.policy = Some(policy.clone()),
            LedgerEvent::Approved { digest, plan, coordinator, .. } => {
                let approval = Approval { plan: (**plan).clone(), coordinator: *coordinator };
                self.approved.insert(*digest, approval);
            }
            LedgerEvent::Reserve(reserve) => {
                self.spent = self.spent.plus(Rho::of_release(reserve.sensitivity, reserve.sigma));
                let Reserve { plan, round, model, .. } = *reserve;
                self.open = Some((seq, Query { plan, round, model }));
            }
            LedgerEvent::Commit { reserve, payload, bytes, .. } => {
                if let Some((_, query)) = self.open.take() {
                    let (reserve, payload, bytes) = (*reserve, *payload, *bytes);
                    self.releases.insert(query, Committed { commit: seq, reserve, payload, bytes, receipt: None });
                }
            }
            LedgerEvent::Acked { commit, receipt } => {
                if let Some(release) = self.releases.values_mut().find(|release| release.commit == *commit) {
                    release.receipt = Some(*receipt);
                }
            }
            LedgerEvent::Abandoned { .. } => self.open = None,
            LedgerEvent::Started(program) => self.program = Some(program.clone()),
            LedgerEvent::Refused { .. } | LedgerEvent::Retry { .. } => {}
        }
    }

    /// The record that would pay for `query`, if the rules allow it.
    ///
    /// # Privacy
    /// Charges the whole cohort for one Gaussian release of the plan's sensitivity, whether or not it is ever sent.
    ///
    /// # Errors
    /// The first rule that forbids it.
    pub fn reservation(&self, query: Query) -> Result<Reserve, LedgerViolation> {
        let approval = self.approved.get(&query.plan).ok_or(LedgerViolation::NotApproved(query.plan))?;
        let policy = self.policy.as_ref().ok_or(LedgerViolation::NoPolicy)?;
        let plan = &approval.plan.plan;
        let rho = plan.rho_per_round();
        let spent = self.spent.plus(rho);
        let published = |adjacency| {
            Decimal::rounded_up(spent.epsilon(policy.delta.get(), adjacency)).ok_or(LedgerViolation::NotFinite)
        };
        let reserve = Reserve {
            plan: query.plan,
            round: query.round,
            model: query.model,
            mechanism: MECHANISM.into(),
            sensitivity: plan.sensitivity(),
            sigma: SIGMA,
            coordinates: plan.privacy.release.coordinates(),
            rho: Decimal::new(rho.value()).ok_or(LedgerViolation::NotFinite)?,
            spent: Decimal::new(spent.value()).ok_or(LedgerViolation::NotFinite)?,
            delta: policy.delta,
            epsilon_add_remove: published(Adjacency::AddRemove)?,
            epsilon_replace_one: published(Adjacency::ReplaceOne)?,
            remaining: remaining(policy, published(Adjacency::AddRemove)?),
        };
        self.permits_reserve(&reserve)?;
        Ok(reserve)
    }

    /// How much of the policy's ceiling (add/remove) is left, rounded down; none without a policy.
    pub fn remaining(&self) -> Option<Decimal> {
        remaining(self.policy.as_ref()?, Decimal::rounded_up(self.epsilon(Adjacency::AddRemove))?)
    }

    /// Epsilon of everything spent so far, at the policy's delta; zero without a policy.
    pub fn epsilon(&self, adjacency: Adjacency) -> f64 {
        self.policy.as_ref().map_or(0.0, |policy| self.spent.epsilon(policy.delta.get(), adjacency))
    }
}

/// What `spent` (epsilon, add/remove) leaves of the policy's ceiling, rounded down at the sixth decimal; none below zero.
fn remaining(policy: &Policy, spent: Decimal) -> Option<Decimal> {
    let left = ((policy.epsilon_max.get() - spent.get()) * 1e6).floor() / 1e6;
    Decimal::new(left.max(0.0))
}

#[cfg(test)]
mod tests;
