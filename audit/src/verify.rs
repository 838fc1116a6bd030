//! Holds a folder of logs against the rules, and the logs against each other (spec/privacy.md, section 10).
//!
//! Each log is chained and signed, but whoever holds a key can sign another history, and whoever holds a file can cut
//! its end off. So the logs of different parties are compared: what one says it got, the other must have paid for.
//! What cannot be seen: the end of a log that no other party has heard of.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use semisam_shared::{
    chain::file::ChainFileError,
    ids::{Digest, PublicKey, RoundNumber, SiteId},
};
use serde::Serialize;

mod cross;
mod folder;
mod journal;
mod kind;
mod ledger;
mod log;
mod store;

pub use kind::Kind;
pub(crate) use {journal::JournalBook, ledger::LedgerBook};

/// The folder could not be checked: nothing is known about it.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The file system said no.
    #[error("cannot read `{}`: check the path, and that this user may read it", path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A log could not be read.
    #[error(transparent)]
    Log(#[from] ChainFileError),
    /// There is nothing to check.
    #[error(
        "there is no `journal.jsonl` and no `ledger.jsonl` in or below `{}`: name the folder of a coordinator, of a node, or one that holds both",
        .0.display()
    )]
    Nothing(PathBuf),
}

/// Something that an honest party does not leave behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which file, relative to the folder that was checked.
    pub file: String,
    /// Which record of it, counted from 0.
    pub record: Option<u64>,
    /// What sort of thing it is.
    pub kind: Kind,
    /// What is wrong.
    pub problem: String,
}

/// Epsilon of one accountant, in both relations.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BothWays {
    /// One unit's contribution is zeroed out.
    pub add_remove: f64,
    /// One unit is exchanged for another.
    pub replace_one: f64,
}

/// What one cohort has spent, re-computed from the integers in its ledger.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteEpsilon {
    /// The site.
    pub site: SiteId,
    /// The cohort whose budget it is.
    pub cohort: String,
    /// Whose presence is hidden (patient, hospital), as the approved plans say.
    pub unit: String,
    /// Epsilon where one unit's contribution is zeroed out; null if it is infinite.
    pub add_remove: f64,
    /// Epsilon where one unit is exchanged for another; null if it is infinite.
    pub replace_one: f64,
    /// The same by Renyi differential privacy, for continuous noise of variance sigma² - 1/12; null without a policy, or
    /// where the noise is out of range. For comparison: the ceiling is on `add_remove`, which is zCDP.
    pub eps_rdp: Option<BothWays>,
    /// The same by privacy loss distributions.
    pub eps_pld: Option<BothWays>,
    /// The delta of all of them; null without a policy.
    pub delta: Option<f64>,
    /// The policy's ceiling on `add_remove`; null without a policy.
    pub epsilon_max: Option<f64>,
    /// Releases that were committed.
    pub releases: u64,
    /// Reservations that were lost without a release, and stay spent.
    pub abandoned: u64,
    /// Times that the node refused.
    pub refused: u64,
}

/// Under whose keys a journal stands. The logs cannot prove that these keys are the right ones: ask their owners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Federation {
    /// The plan's name.
    pub name: String,
    /// The plan's digest.
    pub plan: Digest,
    /// The key that signed the plan.
    pub consortium: PublicKey,
    /// The key that signed journal and receipts.
    pub coordinator: PublicKey,
}

/// What checking a folder found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// What is wrong; empty exactly if the folder is sound.
    pub findings: Vec<Finding>,
    /// What could not be checked, and what an auditor should know.
    pub notes: Vec<String>,
    /// What each site has spent, by its name.
    pub epsilon: BTreeMap<String, SiteEpsilon>,
    /// The federation of each journal.
    pub federations: Vec<Federation>,
    /// Rounds that were closed.
    pub rounds: u64,
    /// Of these, how many models were computed again from their updates, bit for bit.
    pub rounds_recomputed: u64,
    /// Records in journals.
    pub journal_records: u64,
    /// Ledgers that were checked.
    pub ledgers: u64,
}

impl Verdict {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    fn find(&mut self, file: &str, record: Option<u64>, kind: Kind, problem: impl Into<String>) {
        self.findings.push(Finding { file: file.to_owned(), record, kind, problem: problem.into() });
    }

    fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

/// What was found, and the logs that it was found in.
#[derive(Debug)]
pub(crate) struct Examined {
    pub(crate) verdict: Verdict,
    pub(crate) journals: Vec<JournalBook>,
    pub(crate) ledgers: Vec<LedgerBook>,
    /// The rounds of each journal whose model was computed again, bit for bit.
    pub(crate) recomputed: Vec<Vec<RoundNumber>>,
}

/// Checks every log in and below `folder`.
///
/// # Errors
/// If something cannot be read, or there is nothing to check. What is wrong with the logs is in the answer.
pub fn verify(folder: &Path) -> Result<Verdict, VerifyError> {
    examine(folder).map(|examined| examined.verdict)
}

/// [`verify`], with the logs.
pub(crate) fn examine(folder: &Path) -> Result<Examined, VerifyError> {
    let found = folder::search(folder)?;
    if found.journals.is_empty() && found.ledgers.is_empty() {
        return Err(VerifyError::Nothing(folder.to_owned()));
    }
    let mut verdict = Verdict { notes: found.notes.clone(), ..Verdict::default() };
    let mut journals = Vec::new();
    for path in &found.journals {
        journals.push(journal::check(&mut verdict, folder, path)?);
    }
    let mut ledgers = Vec::new();
    for path in &found.ledgers {
        ledgers.push(ledger::check(&mut verdict, folder, path)?);
    }
    for path in &found.plans {
        journal::check_plan(&mut verdict, folder, path, &journals)?;
    }
    cross::set_copies_aside(&mut verdict, &mut journals, &mut ledgers);
    verdict.federations = journals.iter().filter_map(JournalBook::federation).collect();
    verdict.journal_records = journals.iter().map(|journal| journal.log.records.len() as u64).sum();
    verdict.ledgers = ledgers.len() as u64;
    verdict.rounds = journals.iter().map(|journal| journal.state.closed.len() as u64).sum();
    cross::compare(&mut verdict, &journals, &ledgers);
    let blobs = store::check(&mut verdict, folder, &found.stores)?;
    let mut recomputed = Vec::new();
    for journal in &journals {
        let again = store::fold_again(&mut verdict, journal, &blobs)?;
        verdict.rounds_recomputed += again.len() as u64;
        recomputed.push(again);
    }
    for ledger in &ledgers {
        ledger.check_payloads(&mut verdict, folder)?;
        ledger.note_what_stands_out(&mut verdict);
        ledger.add_epsilon(&mut verdict.epsilon);
    }
    cross::note_second_budgets(&mut verdict, &ledgers);
    Ok(Examined { verdict, journals, ledgers, recomputed })
}
