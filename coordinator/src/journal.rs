//! The journal: what the coordinator is. Every event is held against the rules, appended, fsynced, and only then taken
//! into account and answered (DESIGN, decision 2). Opening it is recovery.

use std::{cell::Cell, path::Path};

use semisam_shared::{
    chain::{
        Record,
        file::{self, ChainFile, ChainFileError},
    },
    ids::{PublicKey, UnixMillis},
    round::{Event, Federation, Rejection},
    signing::{Domain, SigningError, SigningKey},
};

/// The journal cannot be used or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The log itself.
    #[error(transparent)]
    Chain(#[from] ChainFileError),
    /// A record breaks a rule of federations.
    #[error("`{path}`, record {record}: {rejection}; restore the journal from a backup, or ask an auditor")]
    Rule {
        /// Which file.
        path: String,
        /// The record's number, counted from 0.
        record: u64,
        /// Which rule.
        rejection: Rejection,
    },
    /// An event that is about to be written breaks a rule.
    #[error("the rules forbid the event: {0}")]
    Forbidden(Rejection),
    /// No record at all.
    #[error("`{0}` is empty: a federation begins with its FOUNDED record, restore the journal from a backup")]
    Empty(String),
}

/// What a journal's records add up to.
#[derive(Debug, Default)]
pub struct Replayed {
    /// The federation after the last record.
    pub federation: Federation,
    /// When each record was written and what it says.
    pub records: Vec<(UnixMillis, Event)>,
}

/// The journal, open for writing, and the federation that it adds up to.
#[derive(Debug)]
pub struct Journal {
    file: ChainFile<Event>,
    federation: Federation,
    opened: Option<UnixMillis>,
    last: UnixMillis,
}

impl Journal {
    /// Opens the journal that `key` signs, checks every record and every rule, and cuts off what a crash left torn.
    ///
    /// # Errors
    /// Names the record that is wrong.
    pub fn open(path: &Path, key: &SigningKey) -> Result<Self, JournalError> {
        let public = key.public();
        let (file, records) = ChainFile::open(path, Domain::Journal, move |_| Ok(public))?;
        let mut journal = Self { file, federation: Federation::default(), opened: None, last: UnixMillis(0) };
        for record in records {
            check(path, &journal.federation, &record)?;
            journal.take(record.at, &record.event);
        }
        if journal.federation.charter.is_none() {
            return Err(JournalError::Empty(path.display().to_string()));
        }
        Ok(journal)
    }

    /// Begins a journal with its first record.
    ///
    /// # Errors
    /// If it cannot be written, or `founded` breaks a rule.
    pub fn found(path: &Path, key: &SigningKey, now: UnixMillis, founded: Event) -> Result<(), JournalError> {
        let public = key.public();
        let (file, _) = ChainFile::open(path, Domain::Journal, move |_| Ok(public))?;
        let mut journal = Self { file, federation: Federation::default(), opened: None, last: UnixMillis(0) };
        journal.record(now, founded, key)
    }

    /// Writes one event, if the rules permit it. When this returns it is on disk and taken into account.
    ///
    /// # Errors
    /// If it is forbidden or cannot be written; nothing has changed then.
    pub fn record(&mut self, now: UnixMillis, event: Event, key: &SigningKey) -> Result<(), JournalError> {
        self.federation.permits(&event).map_err(JournalError::Forbidden)?;
        let record = self.file.append(event, now, key)?;
        self.take(now, &record.event);
        Ok(())
    }

    fn take(&mut self, at: UnixMillis, event: &Event) {
        if let Event::RoundOpened { .. } = event {
            self.opened = Some(at);
        }
        self.last = self.last.max(at);
        self.federation.evolve(event);
    }

    /// What the records add up to.
    pub fn federation(&self) -> &Federation {
        &self.federation
    }

    /// How many records there are.
    pub fn length(&self) -> u64 {
        self.file.head().length
    }

    /// When the newest round was opened.
    pub fn opened(&self) -> Option<UnixMillis> {
        self.opened
    }

    /// The latest moment of any record.
    pub fn last(&self) -> UnixMillis {
        self.last
    }
}

/// Reads a journal that another process may be writing. The first record names the key of all.
///
/// # Errors
/// Names the record that is wrong. An unfinished last line is not wrong: it is being written.
pub fn read(path: &Path) -> Result<Replayed, JournalError> {
    let key: Cell<Option<PublicKey>> = Cell::new(None);
    let found = file::read(path, Domain::Journal, |event: &Event| {
        if let (None, Event::Founded { coordinator, .. }) = (key.get(), event) {
            key.set(Some(*coordinator));
        }
        key.get().ok_or(SigningError::KeyFile)
    })?;
    if let Some((record, source)) = found.broken {
        return Err(ChainFileError::Record { path: path.into(), record, source }.into());
    }
    let mut replayed = Replayed::default();
    for record in found.records {
        check(path, &replayed.federation, &record)?;
        replayed.federation.evolve(&record.event);
        replayed.records.push((record.at, record.event));
    }
    if replayed.federation.charter.is_none() {
        return Err(JournalError::Empty(path.display().to_string()));
    }
    Ok(replayed)
}

fn check(path: &Path, federation: &Federation, record: &Record<Event>) -> Result<(), JournalError> {
    federation.permits(&record.event).map_err(|rejection| JournalError::Rule {
        path: path.display().to_string(),
        record: record.seq,
        rejection,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::tests::example_plan;
    use semisam_shared::{
        ids::{Digest, RoundNumber, SiteId},
        plan::SignedPlan,
    };

    fn founded(key: &SigningKey) -> Event {
        let consortium = SigningKey::generate().expect("entropy");
        let plan = Box::new(SignedPlan::sign(example_plan(3), &consortium).expect("sound"));
        Event::Founded { plan, coordinator: key.public(), momentum: Digest::of(b"momentum") }
    }

    #[test]
    fn a_journal_is_read_back_by_writer_and_reader() {
        let folder = tempfile::tempdir().expect("folder");
        let (path, key) = (folder.path().join("journal.jsonl"), SigningKey::generate().expect("entropy"));
        Journal::found(&path, &key, UnixMillis(5), founded(&key)).expect("founded");
        let mut journal = Journal::open(&path, &key).expect("opened");
        let site = SiteId([1; 32]);
        let joined = Event::SiteJoined { site, name: "north".into(), ledger_key: key.public() };
        journal.record(UnixMillis(9), joined.clone(), &key).expect("permitted");
        assert!(matches!(journal.record(UnixMillis(9), joined, &key), Err(JournalError::Forbidden(_))));
        let replayed = read(&path).expect("read while it is open");
        assert_eq!(&replayed.federation, journal.federation());
        assert_eq!((replayed.records.len(), journal.last()), (2, UnixMillis(9)));
        assert!(Journal::open(&path, &key).is_err(), "two writers");
        drop(journal);
        let other = SigningKey::generate().expect("entropy");
        assert!(Journal::open(&path, &other).is_err(), "another key");
    }

    #[test]
    fn a_journal_that_breaks_a_rule_is_refused_by_name_and_number() {
        let folder = tempfile::tempdir().expect("folder");
        let (path, key) = (folder.path().join("journal.jsonl"), SigningKey::generate().expect("entropy"));
        let public = key.public();
        let (mut file, _) = ChainFile::open(&path, Domain::Journal, move |_| Ok(public)).expect("new");
        file.append(founded(&key), UnixMillis(0), &key).expect("appended");
        let closed = Event::RoundClosed {
            round: RoundNumber(1),
            contributors: vec![],
            model: Digest::ZERO,
            momentum: Digest::ZERO,
        };
        file.append(closed, UnixMillis(1), &key).expect("appended");
        drop(file);
        for error in [Journal::open(&path, &key).map(|_| ()), read(&path).map(|_| ())] {
            let text = error.expect_err("forbidden").to_string();
            assert!(text.contains("journal.jsonl`, record 1") && text.contains("round 1 is not open"), "{text}");
        }
        std::fs::write(&path, "").expect("emptied");
        assert!(matches!(Journal::open(&path, &key), Err(JournalError::Empty(_))));
    }
}
