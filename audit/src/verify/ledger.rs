//! One hospital's ledger: chain, signatures, rules, figures, and what they add up to.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use semisam_shared::{
    accounting::{Adjacency, Failed, Releases, pld, rdp},
    decimal::Decimal,
    ids::{PublicKey, SiteId},
    ledger::{Ledger, LedgerEvent},
    plan::Unit,
    signing::Domain,
};

use super::{BothWays, SiteEpsilon, Verdict, VerifyError, log::Log};

/// A ledger that was replayed.
#[derive(Debug)]
pub(super) struct LedgerBook {
    pub(super) log: Log<LedgerEvent>,
    pub(super) state: Ledger,
}

fn owner_key(event: &LedgerEvent) -> Option<PublicKey> {
    match event {
        LedgerEvent::Genesis { key, .. } => Some(*key),
        _ => None,
    }
}

/// Checks the ledger at `path` by itself.
pub(super) fn check(verdict: &mut Verdict, root: &Path, path: &Path) -> Result<LedgerBook, VerifyError> {
    let log = Log::read(verdict, root, path, Domain::Ledger, "GENESIS", owner_key)?;
    let mut state = Ledger::default();
    for record in &log.records {
        if let Err(violation) = state.permits(record.seq, &record.event) {
            verdict.find(&log.file, Some(record.seq), violation.to_string());
        }
        if let LedgerEvent::Acked { commit, receipt } = &record.event {
            let head = receipt.receipt.ledger;
            if !log.had(head) || head.length <= *commit || head.length > record.seq {
                let problem = "the receipt names a head that this ledger did not have between COMMIT and ACKED";
                verdict.find(&log.file, Some(record.seq), problem);
            }
        }
        // A record that the rules forbid is counted all the same: what it spends is spent.
        state.evolve(record.seq, &record.event);
    }
    Ok(LedgerBook { log, state })
}

impl LedgerBook {
    /// Whose it is, if it has a first record.
    pub(super) fn site(&self) -> Option<SiteId> {
        self.state.owner.as_ref().map(|owner| owner.site)
    }

    /// What the site has spent, under its name; a second site of that name gets its id beside it.
    pub(super) fn add_epsilon(&self, epsilon: &mut BTreeMap<String, SiteEpsilon>) {
        let Some(owner) = &self.state.owner else { return };
        let count = |of: fn(&LedgerEvent) -> bool| self.log.records.iter().filter(|r| of(&r.event)).count() as u64;
        let published = |adjacency| {
            let value = self.state.epsilon(adjacency);
            Decimal::rounded_up(value).map_or(value, Decimal::get)
        };
        let units: BTreeSet<&str> = self
            .state
            .approved
            .values()
            .map(|approval| match approval.plan.plan.privacy.unit {
                Unit::Patient => "patient",
                Unit::Hospital => "hospital",
            })
            .collect();
        let policy = self.state.policy.as_ref();
        let spent = SiteEpsilon {
            site: owner.site,
            cohort: owner.cohort.clone(),
            unit: units.into_iter().collect::<Vec<_>>().join(", "),
            add_remove: published(Adjacency::AddRemove),
            replace_one: published(Adjacency::ReplaceOne),
            eps_rdp: self.by(|releases, delta, relation| rdp::epsilon(releases, delta, relation).map(|r| r.epsilon)),
            eps_pld: self.by(pld::epsilon),
            delta: policy.map(|policy| policy.delta.get()),
            epsilon_max: policy.map(|policy| policy.epsilon_max.get()),
            releases: count(|event| matches!(event, LedgerEvent::Commit { .. })),
            abandoned: count(|event| matches!(event, LedgerEvent::Abandoned { .. })),
            refused: count(|event| matches!(event, LedgerEvent::Refused { .. })),
        };
        let mut name = owner.name.clone();
        while epsilon.contains_key(&name) {
            name = format!("{name} ({})", owner.site.short());
        }
        epsilon.insert(name, spent);
    }

    /// Everything reserved, as `accountant` reckons it; none if it has no figure.
    fn by(&self, accountant: impl Fn(&[Releases], f64, Adjacency) -> Result<f64, Failed>) -> Option<BothWays> {
        let delta = self.state.policy.as_ref()?.delta.get();
        let mut kinds = BTreeMap::<(u64, u64), u64>::new();
        for record in &self.log.records {
            if let LedgerEvent::Reserve(reserve) = &record.event {
                *kinds.entry((reserve.sensitivity, reserve.sigma)).or_default() += 1;
            }
        }
        let releases = kinds
            .into_iter()
            .map(|((sensitivity, sigma), count)| Releases::of_integers(sensitivity, sigma, count).ok());
        let releases: Vec<Releases> = releases.collect::<Option<_>>()?;
        let epsilon = |adjacency| accountant(&releases, delta, adjacency).ok();
        Some(BothWays { add_remove: epsilon(Adjacency::AddRemove)?, replace_one: epsilon(Adjacency::ReplaceOne)? })
    }
}
