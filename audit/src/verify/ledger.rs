//! One hospital's ledger: chain, signatures, rules, figures, and what they add up to.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use semisam_shared::{
    accounting::{Adjacency, Failed, Releases, pld, rdp},
    chain::Record,
    decimal::Decimal,
    ids::{Digest, PublicKey, SiteId},
    ledger::{Ledger, LedgerEvent},
    plan::Unit,
    policy::Policy,
    signing::Domain,
};

use super::{BothWays, Kind, SiteEpsilon, Verdict, VerifyError, folder, log::Log};

/// A ledger that was replayed.
#[derive(Debug)]
pub(crate) struct LedgerBook {
    pub(crate) log: Log<LedgerEvent>,
    pub(crate) state: Ledger,
    folder: PathBuf,
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
            verdict.find(&log.file, Some(record.seq), Kind::of_violation(&violation), violation.to_string());
        }
        if let (LedgerEvent::Approved { plan, .. }, Some(policy)) = (&record.event, &state.policy) {
            let objections = policy.objections(&plan.plan);
            if !objections.is_empty() {
                let problem = format!("a plan was approved that the policy forbids: {}", objections.join("; "));
                verdict.find(&log.file, Some(record.seq), Kind::Policy, problem);
            }
        }
        if let LedgerEvent::Acked { commit, receipt } = &record.event {
            let head = receipt.receipt.ledger;
            if !log.had(head) || head.length <= *commit || head.length > record.seq {
                let problem = "the receipt names a head that this ledger did not have between COMMIT and ACKED";
                verdict.find(&log.file, Some(record.seq), Kind::CutOff, problem);
            }
        }
        // A record that the rules forbid is counted all the same: what it spends is spent.
        state.evolve(record.seq, &record.event);
    }
    Ok(LedgerBook { log, state, folder: path.parent().unwrap_or(root).to_owned() })
}

impl LedgerBook {
    /// Whose it is, if it has a first record.
    pub(crate) fn site(&self) -> Option<SiteId> {
        self.state.owner.as_ref().map(|owner| owner.site)
    }

    /// Holds the updates that lie beside the ledger against its COMMIT records.
    pub(super) fn check_payloads(&self, verdict: &mut Verdict, root: &Path) -> Result<(), VerifyError> {
        for release in self.state.releases.values() {
            let path = self.folder.join("payloads").join(format!("{}.bin", release.payload));
            if !path.is_file() {
                continue;
            }
            let bytes = std::fs::read(&path).map_err(|source| VerifyError::Read { path: path.clone(), source })?;
            let found = (Digest::of(&bytes), bytes.len() as u64);
            if found != (release.payload, release.bytes) {
                let problem = format!(
                    "`{}` is not the update that was committed: it has {} bytes and the digest {}",
                    folder::relative(root, &path),
                    found.1,
                    found.0
                );
                verdict.find(&self.log.file, Some(release.commit), Kind::Store, problem);
            }
        }
        Ok(())
    }

    /// What breaks no rule, and an auditor should know all the same.
    pub(super) fn note_what_stands_out(&self, verdict: &mut Verdict) {
        let file = &self.log.file;
        if let Some((record, _)) = self.state.open {
            verdict.note(format!(
                "`{file}`, record {record}: reserved, and neither committed nor abandoned: the node is at work, or was killed and \
                 not started again; the budget is spent either way"
            ));
        }
        let mut before: Option<&Policy> = None;
        for record in &self.log.records {
            if let LedgerEvent::Policy { policy } = &record.event {
                let what = before.map(|before| loosened(before, policy)).unwrap_or_default();
                if !what.is_empty() {
                    let what = what.join(", ");
                    verdict.note(format!("`{file}`, record {}: the policy was loosened: {what}", record.seq));
                }
                before = Some(policy);
            }
        }
        let back = |pair: &&[Record<LedgerEvent>]| pair[1].at < pair[0].at;
        if let Some(pair) = self.log.records.windows(2).find(back) {
            let (seq, from, to) = (pair[1].seq, pair[0].at, pair[1].at);
            verdict.note(format!("`{file}`, record {seq}: the hospital's clock went back from {from} to {to}"));
        }
    }

    /// What the site has spent, under its name; a second site of that name gets its id beside it.
    pub(crate) fn add_epsilon(&self, epsilon: &mut BTreeMap<String, SiteEpsilon>) {
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

/// Which limits of `after` let through what `before` did not.
fn loosened(before: &Policy, after: &Policy) -> Vec<String> {
    let mut what = Vec::new();
    let mut rule = |looser: bool, name: &str, from: String, to: String| {
        if looser {
            what.push(format!("`{name}` from {from} to {to}"));
        }
    };
    let text = |value: Decimal| value.to_string();
    let (was, is) = (before.epsilon_max, after.epsilon_max);
    rule(is > was, "epsilon_max", text(was), text(is));
    rule(after.delta > before.delta, "delta", text(before.delta), text(after.delta));
    let (was, is) = (before.noise_multiplier_min, after.noise_multiplier_min);
    rule(is < was, "noise_multiplier_min", text(was), text(is));
    let (was, is) = (before.patients_min, after.patients_min);
    rule(is < was, "patients_min", was.to_string(), is.to_string());
    rule(
        after.rounds_max > before.rounds_max,
        "rounds_max",
        before.rounds_max.to_string(),
        after.rounds_max.to_string(),
    );
    let list = |policy: &Policy| match policy.architectures.len() {
        0 => "any".to_owned(),
        count => format!("{count} listed"),
    };
    let listed = !before.architectures.is_empty();
    let more = after.architectures.is_empty() || after.architectures.iter().any(|a| !before.architectures.contains(a));
    rule(listed && more, "architectures", list(before), list(after));
    what
}
