//! What an audit found, for people who decide: a page for a data protection officer, and a document for programs.
//!
//! The same folder always gives the same report: no date of today, no path, no machine stands in it.
//!
//! # Names
//! What the document calls `deployments` are entries of the Differential Privacy Deployments Registry (see [`registry`]).
//! The rest speaks as NIST SP 800-226 does: `unit_of_privacy`, `privacy_loss` (epsilon, delta), `privacy_budget` (the upper
//! bound on it that the hospital allows), `trust_model`. That guideline fixes words and no file format. The two relations of
//! neighbours keep this project's names, `add_remove` and `replace_one`, since both are always told.

use std::{collections::BTreeMap, path::Path};

use semisam_shared::{
    ids::{Digest, SiteId, UnixMillis},
    plan::{
        Plan, ReadPlan,
        outlook::{Circumstances, Outlook},
    },
};
use serde::Serialize;

use crate::verify::{Examined, Federation, Finding, JournalBook, Kind, SiteEpsilon, Verdict, VerifyError, examine};

mod chart;
mod hospital;
mod page;
pub mod registry;
mod timeline;
mod words;

pub use hospital::{Hospital, Limit, Outcome, Step};
pub use timeline::{Cell, Happening, Round, Timeline};

/// A finding, with what it means and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// Where and what.
    #[serde(flatten)]
    pub finding: Finding,
    /// What it means, for people who decide.
    pub meaning: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

/// A log that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Source {
    /// Relative to the folder that was checked.
    pub file: String,
    /// Whole and signed records.
    pub records: u64,
    /// SHA-256 of the last of them, which stands for all before it.
    pub head: Digest,
    /// When the first was written.
    pub from: Option<UnixMillis>,
    /// When the last was written.
    pub to: Option<UnixMillis>,
}

/// A plan in words, and what was to be expected of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanInWords {
    /// Its name.
    pub name: String,
    /// Its digest.
    pub digest: Digest,
    /// What it does, one sentence each.
    pub sentences: Vec<String>,
    /// What it costs and where it is weak, for the sites that took part.
    pub outlook: Option<Outlook>,
}

/// The whole report. The first fields are those of `verify`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `sound` or `unsound`.
    pub verdict: &'static str,
    /// Whether nothing was left at home: every ledger, journal and update that the logs speak of was here.
    pub complete: bool,
    /// What is wrong.
    pub findings: Vec<Explained>,
    /// What could not be checked, and what an auditor should know.
    pub notes: Vec<String>,
    /// What each site has spent, by name.
    pub epsilon: BTreeMap<String, SiteEpsilon>,
    /// Under whose keys the journals stand.
    pub federations: Vec<Federation>,
    /// Rounds that were closed.
    pub rounds: u64,
    /// Of these, how many models were computed again, bit for bit.
    pub rounds_recomputed: u64,
    /// Records in journals.
    pub journal_records: u64,
    /// Ledgers that were checked.
    pub ledgers: u64,
    /// The program that checked.
    pub checked_by: &'static str,
    /// What was read.
    pub sources: Vec<Source>,
    /// Each hospital.
    pub hospitals: Vec<Hospital>,
    /// Each federation, round by round.
    pub timelines: Vec<Timeline>,
    /// Each plan.
    pub plans: Vec<PlanInWords>,
    /// Whom a patient has to trust.
    pub trust_model: &'static str,
    /// What no log can show.
    pub not_covered: Vec<&'static str>,
    /// For the registry.
    pub deployments: Vec<registry::Entry>,
}

/// The program and its version.
const CHECKED_BY: &str = concat!("semisam-audit ", env!("CARGO_PKG_VERSION"));

impl Report {
    /// Checks every log in and below `folder` and reports.
    ///
    /// # Errors
    /// If something cannot be read, or there is nothing to check.
    pub fn on(folder: &Path) -> Result<Self, VerifyError> {
        let examined = examine(folder)?;
        let hospitals: Vec<Hospital> =
            examined.ledgers.iter().filter_map(|ledger| Hospital::of(ledger, &examined.journals)).collect();
        let timelines = examined
            .journals
            .iter()
            .zip(&examined.recomputed)
            .filter_map(|(journal, recomputed)| Timeline::of(journal, recomputed, &examined.ledgers))
            .collect();
        let plans = plans(&examined);
        let deployments = registry::entries(&examined, &hospitals);
        let complete = is_complete(&examined);
        let sources = sources(&examined);
        let sound = examined.verdict.is_sound();
        let Verdict { findings, notes, epsilon, federations, rounds, rounds_recomputed, journal_records, ledgers } =
            examined.verdict;
        let explain = |finding: Finding| {
            let kind: Kind = finding.kind;
            Explained { finding, meaning: kind.meaning(), remedy: kind.remedy() }
        };
        Ok(Self {
            verdict: if sound { "sound" } else { "unsound" },
            complete,
            findings: findings.into_iter().map(explain).collect(),
            notes,
            epsilon,
            federations,
            rounds,
            rounds_recomputed,
            journal_records,
            ledgers,
            checked_by: CHECKED_BY,
            sources,
            hospitals,
            timelines,
            plans,
            trust_model: words::TRUST_MODEL,
            not_covered: words::NOT_COVERED.to_vec(),
            deployments,
        })
    }

    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// One HTML file that needs nothing outside it.
    ///
    /// # Errors
    /// Never for a report that was made here; the template engine's own word is passed on.
    pub fn to_html(&self) -> Result<String, page::PageError> {
        page::render(self)
    }
}

pub use page::PageError;

fn is_complete(examined: &Examined) -> bool {
    let has_ledger = |site: SiteId| examined.ledgers.iter().any(|ledger| ledger.site() == Some(site));
    let journals_have_ledgers =
        examined.journals.iter().all(|journal| journal.accepted().all(|(_, receipt)| has_ledger(receipt.site)));
    let has_journal = |plan: Digest| {
        let of = |journal: &JournalBook| journal.charter().is_some_and(|charter| charter.digest == plan);
        examined.journals.iter().any(of)
    };
    let ledgers_have_journals =
        examined.ledgers.iter().all(|ledger| ledger.state.releases.keys().all(|query| has_journal(query.plan)));
    let all_again = examined.verdict.rounds == examined.verdict.rounds_recomputed;
    !examined.journals.is_empty() && journals_have_ledgers && ledgers_have_journals && all_again
}

fn sources(examined: &Examined) -> Vec<Source> {
    let journals = examined.journals.iter().map(|journal| {
        let records = &journal.log.records;
        (journal.log.file.clone(), records.iter().map(|record| (record.at, record.hash)).collect::<Vec<_>>())
    });
    let ledgers = examined.ledgers.iter().map(|ledger| {
        let records = &ledger.log.records;
        (ledger.log.file.clone(), records.iter().map(|record| (record.at, record.hash)).collect::<Vec<_>>())
    });
    let source = |(file, records): (String, Vec<(UnixMillis, Digest)>)| Source {
        file,
        records: records.len() as u64,
        head: records.last().map_or(Digest::ZERO, |(_, hash)| *hash),
        from: records.first().map(|(at, _)| *at),
        to: records.last().map(|(at, _)| *at),
    };
    journals.chain(ledgers).map(source).collect()
}

/// Every plan that a journal was founded on or a ledger reserved for.
fn plans(examined: &Examined) -> Vec<PlanInWords> {
    let mut plans: BTreeMap<Digest, (Plan, u32)> = BTreeMap::new();
    for charter in examined.journals.iter().filter_map(|journal| Some((journal, journal.charter()?))) {
        let (journal, charter) = charter;
        let most = journal.state.closed.iter().map(|round| round.accepted.len()).max().unwrap_or(0);
        plans.insert(charter.digest, (charter.plan.plan.clone(), u32::try_from(most).unwrap_or(u32::MAX)));
    }
    for ledger in &examined.ledgers {
        for (digest, approval) in &ledger.state.approved {
            plans.entry(*digest).or_insert_with(|| (approval.plan.plan.clone(), 0));
        }
    }
    plans
        .into_iter()
        .map(|(digest, (plan, sites))| {
            let circumstances =
                Circumstances { sites: Some(sites).filter(|sites| *sites > 0), ..Circumstances::default() };
            let sentences = words::plan(&plan);
            let name = plan.name.clone();
            let read = ReadPlan { plan, signed_by: None, draft: false };
            // A plan that nobody could sign has no outlook; that it is wrong is a finding.
            let outlook = read.plan.check().ok().and_then(|()| Outlook::of(&read, None, &circumstances).ok());
            PlanInWords { name, digest, sentences, outlook }
        })
        .collect()
}
