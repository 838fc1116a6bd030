//! Which record may follow which. The node asks before it appends, the auditor asks again afterwards.

use super::{Committed, Ledger, LedgerEvent, MECHANISM, Query, Reserve, remaining};
use crate::{
    accounting::{Adjacency, Rho},
    decimal::Decimal,
    ids::{Digest, RoundNumber},
    plan::{PlanError, SIGMA},
    policy::Policy,
    receipt::SignedReceipt,
    signing::SigningError,
};

/// The largest delta that a policy may name.
const DELTA_MAX: f64 = 1e-2;

/// A record that the rules forbid.
#[derive(Debug, thiserror::Error)]
pub enum LedgerViolation {
    /// The first record is not GENESIS, or another one is.
    #[error("GENESIS must be the first record and no other")]
    Genesis,
    /// Nothing may be approved or reserved before there is a policy.
    #[error("there is no policy yet: write one and record it with `semisam-node policy set`")]
    NoPolicy,
    /// A plan that was not approved.
    #[error(
        "plan {0} is not approved: your data protection officer reads it and runs `semisam-node policy approve {0}`"
    )]
    NotApproved(Digest),
    /// The digest of an approved plan is not that plan's.
    #[error("the approved digest {0} is not the digest of the plan beside it")]
    WrongDigest(Digest),
    /// The plan is unsound or not signed.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Policy forbids the plan.
    #[error("policy forbids plan {plan}: {}", objections.join("; "))]
    Policy {
        /// The plan.
        plan: Digest,
        /// What policy objects to.
        objections: Vec<String>,
    },
    /// The budget does not suffice.
    #[error("the budget is exhausted: epsilon would be {would_be} and the policy's ceiling is {ceiling}")]
    Budget {
        /// What it would be (add/remove).
        would_be: Decimal,
        /// The policy's ceiling.
        ceiling: Decimal,
    },
    /// A reservation is still open.
    #[error("record {0} is reserved and neither committed nor abandoned")]
    Open(u64),
    /// The question was answered already.
    #[error("round {0} was already released from this model: the same bytes are sent again, never fresh noise")]
    Twice(RoundNumber),
    /// The plan has fewer rounds.
    #[error("the plan has no round {0}")]
    NoSuchRound(RoundNumber),
    /// A figure differs from what it must be.
    #[error("`{field}` is {found} but must be {expected}")]
    Figure {
        /// The field.
        field: &'static str,
        /// What the record says.
        found: String,
        /// What the rules give.
        expected: String,
    },
    /// The record refers to another one that does not fit.
    #[error("it refers to record {0}, which is not the one that it must follow")]
    Reference(u64),
    /// The receipt is not for this release.
    #[error("the receipt is for something else")]
    Receipt,
    /// The receipt is not signed by the coordinator.
    #[error("the receipt: {0}")]
    ReceiptSignature(SigningError),
    /// A figure has no finite value.
    #[error("the cost is not a finite number")]
    NotFinite,
}

fn same<T: PartialEq + ToString>(field: &'static str, found: &T, expected: &T) -> Result<(), LedgerViolation> {
    if found == expected {
        return Ok(());
    }
    Err(LedgerViolation::Figure { field, found: found.to_string(), expected: expected.to_string() })
}

/// At a delta of one every mechanism has epsilon zero, so the ceiling would hold nothing; a plan is held to the same bound.
fn permits_policy(policy: &Policy) -> Result<(), LedgerViolation> {
    let delta = policy.delta.get();
    if delta > 0.0 && delta <= DELTA_MAX {
        return Ok(());
    }
    let expected = format!("above 0 and at most {DELTA_MAX}");
    Err(LedgerViolation::Figure { field: "delta", found: delta.to_string(), expected })
}

impl Ledger {
    /// Whether `event` may be record number `seq`.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn permits(&self, seq: u64, event: &LedgerEvent) -> Result<(), LedgerViolation> {
        if (seq == 0) != matches!(event, LedgerEvent::Genesis { .. }) {
            return Err(LedgerViolation::Genesis);
        }
        match event {
            LedgerEvent::Genesis { .. } | LedgerEvent::Refused { .. } | LedgerEvent::Started(_) => Ok(()),
            LedgerEvent::Retry { commit } => self.unconfirmed(*commit).map(|_| ()),
            LedgerEvent::Policy { policy } => permits_policy(policy),
            LedgerEvent::Approved { digest, plan, .. } => {
                if plan.plan.digest()? != *digest {
                    return Err(LedgerViolation::WrongDigest(*digest));
                }
                plan.verify(plan.key)?;
                self.policy.as_ref().map(|_| ()).ok_or(LedgerViolation::NoPolicy)
            }
            LedgerEvent::Reserve(reserve) => self.permits_reserve(reserve),
            LedgerEvent::Commit { reserve, bytes, .. } => {
                let query = self.follows(*reserve)?;
                let approval = self.approved.get(&query.plan).ok_or(LedgerViolation::NotApproved(query.plan))?;
                same("bytes", bytes, &approval.plan.plan.update_bytes())
            }
            LedgerEvent::Abandoned { reserve, .. } => self.follows(*reserve).map(|_| ()),
            LedgerEvent::Acked { commit, receipt } => self.permits_receipt(*commit, receipt),
        }
    }

    fn follows(&self, reserve: u64) -> Result<Query, LedgerViolation> {
        match self.open {
            Some((seq, query)) if seq == reserve => Ok(query),
            _ => Err(LedgerViolation::Reference(reserve)),
        }
    }

    pub(super) fn permits_reserve(&self, reserve: &Reserve) -> Result<(), LedgerViolation> {
        let Reserve { plan: digest, round, model, .. } = *reserve;
        if let Some((seq, _)) = self.open {
            return Err(LedgerViolation::Open(seq));
        }
        if self.releases.contains_key(&Query { plan: digest, round, model }) {
            return Err(LedgerViolation::Twice(round));
        }
        let plan = &self.approved.get(&digest).ok_or(LedgerViolation::NotApproved(digest))?.plan.plan;
        let policy = self.policy.as_ref().ok_or(LedgerViolation::NoPolicy)?;
        if round.0 == 0 || round.0 > plan.rounds {
            return Err(LedgerViolation::NoSuchRound(round));
        }
        let objections = policy.objections(plan);
        if !objections.is_empty() {
            return Err(LedgerViolation::Policy { plan: digest, objections });
        }
        same("mechanism", &reserve.mechanism, &MECHANISM.to_owned())?;
        same("sensitivity", &reserve.sensitivity, &plan.sensitivity())?;
        same("sigma", &reserve.sigma, &SIGMA)?;
        same("coordinates", &reserve.coordinates, &plan.privacy.release.coordinates())?;
        same("delta", &reserve.delta, &policy.delta)?;
        let rho = Rho::of_release(reserve.sensitivity, reserve.sigma);
        let spent = self.spent.plus(rho);
        let decimal = |value: Option<Decimal>| value.ok_or(LedgerViolation::NotFinite);
        let epsilon = |adjacency| Decimal::rounded_up(spent.epsilon(policy.delta.get(), adjacency));
        let would_be = decimal(epsilon(Adjacency::AddRemove))?;
        same("rho", &reserve.rho, &decimal(Decimal::new(rho.value()))?)?;
        same("spent", &reserve.spent, &decimal(Decimal::new(spent.value()))?)?;
        same("epsilon_add_remove", &reserve.epsilon_add_remove, &would_be)?;
        same("epsilon_replace_one", &reserve.epsilon_replace_one, &decimal(epsilon(Adjacency::ReplaceOne))?)?;
        if let (Some(found), Some(expected)) = (&reserve.remaining, &remaining(policy, would_be)) {
            same("remaining", found, expected)?;
        }
        if would_be > policy.epsilon_max {
            return Err(LedgerViolation::Budget { would_be, ceiling: policy.epsilon_max });
        }
        Ok(())
    }

    /// The release that record `commit` committed and nobody confirmed yet.
    fn unconfirmed(&self, commit: u64) -> Result<(&Query, &Committed), LedgerViolation> {
        let mut releases = self.releases.iter();
        let found = releases.find(|(_, release)| release.commit == commit && release.receipt.is_none());
        found.ok_or(LedgerViolation::Reference(commit))
    }

    fn permits_receipt(&self, commit: u64, signed: &SignedReceipt) -> Result<(), LedgerViolation> {
        let (query, release) = self.unconfirmed(commit)?;
        let approval = self.approved.get(&query.plan).ok_or(LedgerViolation::NotApproved(query.plan))?;
        signed.verify(approval.coordinator).map_err(LedgerViolation::ReceiptSignature)?;
        let receipt = signed.receipt;
        let ours = self.owner.as_ref().is_some_and(|owner| owner.site == receipt.site)
            && (receipt.plan, receipt.round) == (query.plan, query.round)
            && (receipt.payload, receipt.bytes) == (release.payload, release.bytes);
        if ours { Ok(()) } else { Err(LedgerViolation::Receipt) }
    }
}
