//! A federation round by round: who contributed, who lost a release, who refused; and what else happened.

use std::collections::BTreeMap;

use semisam_shared::{
    ids::{Digest, RoundNumber, SiteId, UnixMillis},
    ledger::LedgerEvent,
    round::Event,
};
use serde::Serialize;

use crate::verify::{JournalBook, LedgerBook};

/// What one hospital did in one round.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// Its update is part of the model, or waits in the open round.
    pub accepted: bool,
    /// Releases that were paid for and lost.
    pub abandoned: u32,
    /// Times that its node refused.
    pub refused: u32,
    /// Whether its ledger was here to ask.
    pub ledger_here: bool,
}

/// One round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Round {
    /// Its number.
    pub round: RoundNumber,
    /// When it was opened.
    pub opened: UnixMillis,
    /// When it was closed; null if it is still open.
    pub closed: Option<UnixMillis>,
    /// How often the deadline passed without a quorum.
    pub deadlines_moved: u32,
    /// Each hospital, in the order of [`Timeline::sites`].
    pub cells: Vec<Cell>,
    /// The model that it gave.
    pub model: Option<Digest>,
    /// Whether that was computed again, bit for bit.
    pub recomputed: bool,
}

/// Something that happened beside the rounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Happening {
    /// When, by the clock of who wrote it.
    pub at: UnixMillis,
    /// Where it is written.
    pub file: String,
    /// In which record.
    pub record: u64,
    /// To whom.
    pub who: String,
    /// What.
    pub what: String,
}

/// A federation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Timeline {
    /// The plan's name.
    pub name: String,
    /// The plan's digest.
    pub plan: Digest,
    /// How many rounds it is meant to have.
    pub rounds_planned: u32,
    /// Whether all are done.
    pub finished: bool,
    /// The names of those who joined.
    pub sites: Vec<String>,
    /// The rounds.
    pub rounds: Vec<Round>,
    /// What else happened, in order.
    pub happenings: Vec<Happening>,
}

impl Timeline {
    /// The timeline of `journal`; none if that has no beginning.
    pub(super) fn of(journal: &JournalBook, recomputed: &[RoundNumber], ledgers: &[LedgerBook]) -> Option<Self> {
        let charter = journal.charter()?;
        let mut members: Vec<(&str, SiteId)> =
            journal.state.members.iter().map(|(site, member)| (member.name.as_str(), *site)).collect();
        members.sort_unstable();
        let sites: Vec<SiteId> = members.iter().map(|(_, site)| *site).collect();
        let of_site = |site: SiteId| ledgers.iter().filter(move |ledger| ledger.site() == Some(site));
        let mut rounds: BTreeMap<RoundNumber, Round> = BTreeMap::new();
        for record in &journal.log.records {
            match &record.event {
                Event::RoundOpened { round, .. } => {
                    rounds.entry(*round).or_insert_with(|| open(*round, record.at, sites.len()));
                }
                Event::DeadlineMoved { round, .. } => {
                    if let Some(row) = rounds.get_mut(round) {
                        row.deadlines_moved += 1;
                    }
                }
                Event::UpdateAccepted { receipt } => {
                    let place = sites.iter().position(|site| *site == receipt.site);
                    if let (Some(row), Some(place)) = (rounds.get_mut(&receipt.round), place) {
                        row.cells[place].accepted = true;
                    }
                }
                Event::RoundClosed { round, model, .. } => {
                    if let Some(row) = rounds.get_mut(round) {
                        (row.closed, row.model) = (Some(record.at), Some(*model));
                        row.recomputed = recomputed.contains(round);
                    }
                }
                _ => {}
            }
        }
        for (place, site) in sites.iter().enumerate() {
            for ledger in of_site(*site) {
                count(ledger, charter.digest, place, &mut rounds);
            }
        }
        let mut happenings = of_journal(journal);
        happenings.extend(sites.iter().flat_map(|site| of_site(*site).flat_map(of_ledger)));
        happenings.sort_by_key(|happening| happening.at);
        Some(Self {
            name: charter.plan.plan.name.clone(),
            plan: charter.digest,
            rounds_planned: charter.plan.plan.rounds,
            finished: journal.state.finished,
            sites: members.iter().map(|(name, _)| (*name).to_owned()).collect(),
            rounds: rounds.into_values().collect(),
            happenings,
        })
    }
}

fn open(round: RoundNumber, opened: UnixMillis, sites: usize) -> Round {
    let cells = vec![Cell::default(); sites];
    Round { round, opened, closed: None, deadlines_moved: 0, cells, model: None, recomputed: false }
}

/// Adds what only the ledger knows.
fn count(ledger: &LedgerBook, plan: Digest, place: usize, rounds: &mut BTreeMap<RoundNumber, Round>) {
    rounds.values_mut().for_each(|row| row.cells[place].ledger_here = true);
    let mut reserved = BTreeMap::new();
    for record in &ledger.log.records {
        match &record.event {
            LedgerEvent::Reserve(reserve) if reserve.plan == plan => {
                reserved.insert(record.seq, reserve.round);
            }
            LedgerEvent::Abandoned { reserve, .. } => {
                let row = reserved.get(reserve).and_then(|round| rounds.get_mut(round));
                row.into_iter().for_each(|row| row.cells[place].abandoned += 1);
            }
            LedgerEvent::Refused { plan: refused, round: Some(round), .. } if *refused == plan => {
                rounds.get_mut(round).into_iter().for_each(|row| row.cells[place].refused += 1);
            }
            _ => {}
        }
    }
}

fn of_journal(journal: &JournalBook) -> Vec<Happening> {
    let mut seen = Vec::new();
    let mut happenings = Vec::new();
    for record in &journal.log.records {
        let (site, what) = match &record.event {
            Event::SiteJoined { site, .. } => (Some(*site), "joined".to_owned()),
            Event::SiteReturned { site } if seen.contains(site) => (Some(*site), "came back".to_owned()),
            Event::SiteReturned { site } => {
                seen.push(*site);
                (Some(*site), "asked for work for the first time".to_owned())
            }
            Event::SiteRevoked { site } => (Some(*site), "was excluded by the consortium".to_owned()),
            Event::DeadlineMoved { round, deadline } => {
                (None, format!("round {round} had no quorum at its deadline, which moved to {deadline}"))
            }
            Event::Finished { .. } => (None, "all rounds are done".to_owned()),
            _ => continue,
        };
        let name = |site: SiteId| journal.state.members.get(&site).map_or(site.short(), |member| member.name.clone());
        happenings.push(Happening {
            at: record.at,
            file: journal.log.file.clone(),
            record: record.seq,
            who: site.map_or_else(|| "the coordinator".to_owned(), name),
            what,
        });
    }
    happenings
}

fn of_ledger(ledger: &LedgerBook) -> Vec<Happening> {
    let who = ledger.state.owner.as_ref().map(|owner| owner.name.clone()).unwrap_or_default();
    let mut policies = 0;
    let mut happenings = Vec::new();
    for record in &ledger.log.records {
        let what = match &record.event {
            LedgerEvent::Policy { policy } => {
                policies += 1;
                let verb = if policies == 1 { "set" } else { "changed" };
                format!("{verb} its policy: epsilon at most {} at delta {}", policy.epsilon_max, policy.delta)
            }
            LedgerEvent::Approved { digest, approver, .. } => {
                format!("plan {} was approved by {approver}", digest.short())
            }
            LedgerEvent::Abandoned { reserve, reason } => {
                format!("lost the release of record {reserve}, which stays paid for: {reason}")
            }
            LedgerEvent::Refused { round: Some(round), reason, .. } => format!("refused round {round}: {reason}"),
            LedgerEvent::Refused { plan, round: None, reason, .. } => {
                format!("refused plan {}: {reason}", plan.short())
            }
            LedgerEvent::Started(program) => format!("goes on with {} on a new start", program.software),
            LedgerEvent::Retry { commit } => format!("sent the bytes of record {commit} once more"),
            _ => continue,
        };
        let (at, record, file) = (record.at, record.seq, ledger.log.file.clone());
        happenings.push(Happening { at, file, record, who: who.clone(), what });
    }
    happenings
}
