//! What must hold in the logs however often programs were killed: no round lost, nothing counted twice, no release
//! charged twice, the same bytes everywhere. The auditor checks signatures and rules; this compares the parties.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use semisam_shared::{
    chain::file::{self, ChainFileError},
    ids::{Digest, PublicKey, RoundNumber, SiteId},
    ledger::LedgerEvent,
    receipt::Receipt,
    round::Event,
    signing::Domain,
};
use serde::Serialize;

use crate::demo::layout::{Hospital, Layout};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Checks {
    /// Every round of the plan was opened, in order, and closed.
    pub all_rounds_closed: bool,
    /// A round sums each site's update at most once, and only updates that were accepted.
    pub counted_once: bool,
    /// A hospital wrote at most one release for a round.
    pub one_commit_per_round: bool,
    /// RESERVE records are as many as COMMIT and ABANDONED together: each release was paid once, each crash once.
    pub charged_once: bool,
    /// Ledger, journal and both folders hold the same bytes.
    pub same_bytes: bool,
    /// The receipts in the ledgers say what the journal says.
    pub same_receipts: bool,
    /// At least five programs were killed.
    pub killed_five_times: bool,
    /// At least one kill fell between two records of a ledger.
    pub killed_between_records: bool,
    /// What does not hold, in words.
    pub problems: Vec<String>,
}

impl Checks {
    /// Whether everything holds.
    pub(crate) fn hold(&self) -> bool {
        self.problems.is_empty()
    }
}

/// The logs of a federation.
pub(crate) struct Logs {
    /// How many rounds the plan has.
    pub(crate) rounds: u32,
    /// The coordinator's.
    pub(crate) journal: Vec<Event>,
    /// Of each hospital: its name and its records.
    pub(crate) ledgers: Vec<(String, Vec<LedgerEvent>)>,
}

/// Digest and length of each file that the named hospital and the coordinator keep of an update; none where it is missing.
pub(crate) type Copies<'a> = &'a dyn Fn(&str, Digest) -> Vec<Option<(Digest, u64)>>;

/// Reads the logs; the signatures are checked on the way.
pub(crate) fn read(layout: &Layout, hospitals: &[Hospital], rounds: u32) -> Result<Logs, ChainFileError> {
    let coordinator = Cell::new(None);
    let journal = log(&layout.journal(), Domain::Journal, |event| {
        if let Event::Founded { coordinator: key, .. } = event {
            coordinator.set(Some(*key));
        }
        coordinator.get()
    })?;
    let ledger = |hospital: &Hospital| {
        let owner = Cell::new(None);
        let events = log(&hospital.ledger(), Domain::Ledger, |event| {
            if let LedgerEvent::Genesis { key, .. } = event {
                owner.set(Some(*key));
            }
            owner.get()
        })?;
        Ok((hospital.name.clone(), events))
    };
    Ok(Logs { rounds, journal, ledgers: hospitals.iter().map(ledger).collect::<Result<_, ChainFileError>>()? })
}

fn log<E: Serialize + serde::de::DeserializeOwned>(
    path: &Path,
    domain: Domain,
    key: impl Fn(&E) -> Option<PublicKey>,
) -> Result<Vec<E>, ChainFileError> {
    // Without a first record there is no key, and no signature fits a key of zeros.
    let found = file::read(path, domain, |event| Ok(key(event).unwrap_or(PublicKey([0; 32]))))?;
    match found.broken {
        None => Ok(found.records.into_iter().map(|record| record.event).collect()),
        Some((record, source)) => Err(ChainFileError::Record { path: path.into(), record, source }),
    }
}

/// Compares the logs with each other, and with the files that the parties keep.
pub(crate) fn compare(logs: &Logs, bytes_of: Copies<'_>) -> Checks {
    let mut problems = Vec::new();
    let mut check = |found: Vec<String>| {
        let holds = found.is_empty();
        problems.extend(found);
        holds
    };
    let all_rounds_closed = check(rounds_lost(logs));
    let counted_once = check(counted_twice(logs));
    let one_commit_per_round = check(logs.ledgers.iter().flat_map(|(name, log)| second_commits(name, log)).collect());
    let charged_once = check(logs.ledgers.iter().flat_map(|(name, log)| charges(name, log)).collect());
    let same_bytes = check(logs.ledgers.iter().flat_map(|ledger| other_bytes(logs, ledger, bytes_of)).collect());
    let same_receipts = check(logs.ledgers.iter().flat_map(|(name, log)| other_receipts(logs, name, log)).collect());
    Checks {
        all_rounds_closed,
        counted_once,
        one_commit_per_round,
        charged_once,
        same_bytes,
        same_receipts,
        killed_five_times: false,
        killed_between_records: false,
        problems,
    }
}

/// Adds what the kills themselves must have been.
pub(crate) fn judge_kills(checks: &mut Checks, kills: &[super::Kill]) {
    let between = [super::Moment::BetweenReserveAndCommit, super::Moment::BetweenCommitAndReceipt];
    checks.killed_five_times = kills.len() >= 5;
    checks.killed_between_records = kills.iter().any(|kill| kill.met && between.contains(&kill.moment));
    if !checks.killed_five_times {
        checks.problems.push(format!("only {} programs were killed: give it more --rounds", kills.len()));
    }
    if !checks.killed_between_records {
        checks.problems.push("no kill fell between two records of a ledger: try another seed or more --rounds".into());
    }
}

/// The copies of an update that its hospital and the coordinator keep.
pub(crate) fn copies(layout: &Layout, hospital: &Hospital, payload: Digest) -> Vec<Option<(Digest, u64)>> {
    let name = payload.to_string();
    let kept: [PathBuf; 2] = [
        hospital.node().join("payloads").join(format!("{name}.bin")),
        layout.coordinator().join("store").join(&name[..2]).join(&name),
    ];
    let look = |path: &PathBuf| std::fs::read(path).ok().map(|bytes| (Digest::of(&bytes), bytes.len() as u64));
    kept.iter().map(look).collect()
}

fn rounds_lost(logs: &Logs) -> Vec<String> {
    let numbers = |pick: fn(&Event) -> Option<RoundNumber>| -> Vec<u32> {
        logs.journal.iter().filter_map(pick).map(|round| round.0).collect()
    };
    let opened = numbers(|event| match event {
        Event::RoundOpened { round, .. } => Some(*round),
        _ => None,
    });
    let closed = numbers(|event| match event {
        Event::RoundClosed { round, .. } => Some(*round),
        _ => None,
    });
    let all: Vec<u32> = (1..=logs.rounds).collect();
    let say = |what: &str, found: &[u32]| (found != all).then(|| format!("rounds {found:?} were {what}, not {all:?}"));
    say("opened", &opened).into_iter().chain(say("closed", &closed)).collect()
}

fn accepted(logs: &Logs) -> impl Iterator<Item = &Receipt> {
    logs.journal.iter().filter_map(|event| match event {
        Event::UpdateAccepted { receipt } => Some(receipt),
        _ => None,
    })
}

fn counted_twice(logs: &Logs) -> Vec<String> {
    let mut seen: BTreeSet<(RoundNumber, SiteId)> = BTreeSet::new();
    let mut problems = Vec::new();
    for receipt in accepted(logs) {
        if !seen.insert((receipt.round, receipt.site)) {
            problems.push(format!("round {}: site {} was accepted twice", receipt.round, receipt.site.short()));
        }
    }
    for event in &logs.journal {
        let Event::RoundClosed { round, contributors, .. } = event else { continue };
        let distinct: BTreeSet<_> = contributors.iter().collect();
        let known = contributors.iter().all(|site| seen.contains(&(*round, *site)));
        if distinct.len() != contributors.len() || !known {
            problems.push(format!("round {round} sums a site twice, or one that sent nothing"));
        }
    }
    problems
}

fn second_commits(name: &str, ledger: &[LedgerEvent]) -> Vec<String> {
    let mut commits: BTreeMap<(Digest, RoundNumber), u32> = BTreeMap::new();
    let mut open = None;
    for event in ledger {
        match event {
            LedgerEvent::Reserve(reserve) => open = Some((reserve.plan, reserve.round)),
            LedgerEvent::Commit { .. } => *open.map_or(&mut 0, |key| commits.entry(key).or_default()) += 1,
            _ => {}
        }
    }
    let twice = commits.into_iter().filter(|(_, count)| *count > 1);
    twice.map(|((_, round), count)| format!("{name}: {count} releases for round {round}")).collect()
}

fn charges(name: &str, ledger: &[LedgerEvent]) -> Vec<String> {
    let count = |pick: fn(&LedgerEvent) -> bool| ledger.iter().filter(|event| pick(event)).count();
    let reserved = count(|event| matches!(event, LedgerEvent::Reserve(_)));
    let committed = count(|event| matches!(event, LedgerEvent::Commit { .. }));
    let abandoned = count(|event| matches!(event, LedgerEvent::Abandoned { .. }));
    if reserved == committed + abandoned {
        return vec![];
    }
    vec![format!("{name}: {reserved} RESERVE records for {committed} COMMIT and {abandoned} ABANDONED")]
}

fn site(ledger: &[LedgerEvent]) -> Option<SiteId> {
    ledger.iter().find_map(|event| match event {
        LedgerEvent::Genesis { site, .. } => Some(*site),
        _ => None,
    })
}

/// Updates of this hospital that are not the same bytes in ledger, journal, and both folders.
fn other_bytes(logs: &Logs, (name, ledger): &(String, Vec<LedgerEvent>), bytes_of: Copies<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut committed = BTreeMap::new();
    for event in ledger {
        if let LedgerEvent::Commit { payload, bytes, .. } = event {
            committed.insert(*payload, *bytes);
        }
    }
    for receipt in accepted(logs).filter(|receipt| Some(receipt.site) == site(ledger)) {
        let Receipt { round, payload, bytes, .. } = *receipt;
        if committed.get(&payload) != Some(&bytes) {
            problems.push(format!("{name}, round {round}: the journal has an update that the ledger has not"));
        }
        if bytes_of(name, payload).iter().any(|copy| *copy != Some((payload, bytes))) {
            problems.push(format!("{name}, round {round}: hospital and coordinator do not keep the same bytes"));
        }
    }
    problems
}

fn other_receipts(logs: &Logs, name: &str, ledger: &[LedgerEvent]) -> Vec<String> {
    let ours: Vec<&Receipt> = accepted(logs).filter(|receipt| Some(receipt.site) == site(ledger)).collect();
    let kept: Vec<&Receipt> = ledger
        .iter()
        .filter_map(|event| match event {
            LedgerEvent::Acked { receipt, .. } => Some(&receipt.receipt),
            _ => None,
        })
        .collect();
    let foreign = kept.iter().filter(|receipt| !ours.contains(receipt));
    let foreign =
        foreign.map(|receipt| format!("{name}, round {}: the receipt differs from the journal", receipt.round));
    let mut problems: Vec<String> = foreign.collect();
    // Who is killed just before the last receipt asks for it again before it ends, so none may be missing.
    if kept.len() != ours.len() {
        problems.push(format!("{name}: {} receipts for {} accepted updates", kept.len(), ours.len()));
    }
    problems
}

#[cfg(test)]
mod tests;
