//! The privacy ledger of this hospital on disk: no record is written that the shared rules forbid, and none is believed
//! that is not on disk (spec/privacy.md, section 8).
//!
//! The state of the rules and the file change together: first `permits`, then the fsynced line, then `evolve`. If the
//! disk is full nothing changes at all, and another attempt may follow.

use std::{
    cell::Cell,
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use semisam_shared::{
    chain::{
        Head, Record,
        file::{ChainFile, ChainFileError, ReadBack, read},
    },
    decimal::Decimal,
    disk::{Disk, RealDisk},
    ids::{Digest, PublicKey, RoundNumber, SiteId, UnixMillis},
    ledger::{Ledger, LedgerEvent, LedgerViolation, Program, Query},
    plan::{PlanError, SignedPlan},
    policy::Policy,
    receipt::SignedReceipt,
    signing::{Domain, SigningError, SigningKey},
};

/// The ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// There is none.
    #[error(
        "there is no ledger at `{}`: a new site runs `semisam-node init`; a ledger that was lost is restored from its \
         newest copy, because a new one means a new site that is enrolled and approved again", path.display()
    )]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// There is one already.
    #[error("`{}` exists already: a ledger is never started twice", path.display())]
    Exists {
        /// Where it is.
        path: PathBuf,
    },
    /// It has no first record.
    #[error("`{}` has no first record: `semisam-node init` was interrupted; remove the folder and run it again", path.display())]
    Empty {
        /// Where it is.
        path: PathBuf,
    },
    /// It belongs to another key.
    #[error("`{}` is signed by the key {}, not by this folder's `signing.key`: restore the key that belongs to it", path.display(), owner.short())]
    Owner {
        /// Where it is.
        path: PathBuf,
        /// The key that the first record names.
        owner: PublicKey,
    },
    /// A record that the rules forbid stands in it.
    #[error("`{}`, record {record}, breaks the rules of a ledger: keep the file for your auditor and release nothing", path.display())]
    Replay {
        /// Where it is.
        path: PathBuf,
        /// The record's number, counted from 0.
        record: u64,
        /// The rule.
        #[source]
        source: Box<LedgerViolation>,
    },
    /// The rules forbid a new record.
    #[error(transparent)]
    Forbidden(Box<LedgerViolation>),
    /// The disk did not take a new record.
    #[error(
        "the ledger took no new record, so nothing was released and nothing is lost: make room on the disk, see that \
         `{}` can be written, and start again", path.display()
    )]
    Append {
        /// Where it is.
        path: PathBuf,
        /// What happened.
        #[source]
        source: ChainFileError,
    },
    /// It cannot be opened or a line is wrong.
    #[error("the ledger cannot be used")]
    File(#[from] ChainFileError),
    /// A record was found wrong while only reading.
    #[error("`{}`, record {record}: {problem}; `semisam-node ledger verify` says more", path.display())]
    Unsound {
        /// Where it is.
        path: PathBuf,
        /// The record's number, counted from 0.
        record: u64,
        /// What is wrong.
        problem: String,
    },
    /// The plan has no digest.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl From<LedgerViolation> for BookError {
    fn from(source: LedgerViolation) -> Self {
        BookError::Forbidden(Box::new(source))
    }
}

/// The ledger, open for writing by this process alone.
#[derive(Debug)]
pub struct Book {
    file: ChainFile<LedgerEvent>,
    key: SigningKey,
    ledger: Ledger,
    /// The digest of each line, in order.
    lines: Vec<Digest>,
    refusals: BTreeSet<(Digest, Option<RoundNumber>, String)>,
    /// COMMIT records whose updates this process has sent again.
    retried: BTreeSet<u64>,
}

impl Book {
    /// Starts the ledger of a new site: GENESIS and POLICY.
    ///
    /// # Errors
    /// If there is a ledger already or the disk does not take it.
    pub fn create(
        path: &Path,
        key: SigningKey,
        owner: (SiteId, &str, &str),
        policy: Policy,
        now: UnixMillis,
    ) -> Result<Self, BookError> {
        Self::create_on(Arc::new(RealDisk), path, key, owner, policy, now)
    }

    /// The same on `disk`.
    ///
    /// # Errors
    /// If there is a ledger already or the disk does not take it.
    pub fn create_on(
        disk: Arc<dyn Disk>,
        path: &Path,
        key: SigningKey,
        (site, name, cohort): (SiteId, &str, &str),
        policy: Policy,
        now: UnixMillis,
    ) -> Result<Self, BookError> {
        if path.exists() {
            return Err(BookError::Exists { path: path.into() });
        }
        let public = key.public();
        let (file, _) = ChainFile::open_on(disk, path, Domain::Ledger, move |_| Ok(public))?;
        let mut book = Self {
            file,
            key,
            ledger: Ledger::default(),
            lines: Vec::new(),
            refusals: BTreeSet::new(),
            retried: BTreeSet::new(),
        };
        let (name, cohort) = (name.to_owned(), cohort.to_owned());
        book.append(LedgerEvent::Genesis { site, name, key: public, cohort }, now)?;
        book.policy(policy, now)?;
        Ok(book)
    }

    /// Opens the ledger for writing and replays it under the rules. An open reservation stays open: see
    /// [`Book::abandon_open`].
    ///
    /// # Errors
    /// If it is missing, in use by another process, written by another key, or any record is wrong.
    pub fn open(path: &Path, key: SigningKey) -> Result<Self, BookError> {
        Self::open_on(Arc::new(RealDisk), path, key)
    }

    /// The same on `disk`.
    ///
    /// # Errors
    /// If it is missing, in use by another process, written by another key, or any record is wrong.
    pub fn open_on(disk: Arc<dyn Disk>, path: &Path, key: SigningKey) -> Result<Self, BookError> {
        if !path.exists() {
            return Err(BookError::Missing { path: path.into() });
        }
        // The first record names its own key, so that a foreign ledger is told apart from a damaged one.
        let owner = Cell::new(None);
        let (file, records) = ChainFile::open_on(disk, path, Domain::Ledger, first_key(&owner))?;
        let mut ledger = Ledger::default();
        let mut refusals = BTreeSet::new();
        for Record { seq, event, .. } in &records {
            let wrong = |source| BookError::Replay { path: path.into(), record: *seq, source: Box::new(source) };
            ledger.permits(*seq, event).map_err(wrong)?;
            ledger.evolve(*seq, event);
            if let LedgerEvent::Refused { plan, round, reason, .. } = event {
                refusals.insert((*plan, *round, reason.clone()));
            }
        }
        let lines = records.iter().map(|record| record.hash).collect();
        match &ledger.owner {
            None => Err(BookError::Empty { path: path.into() }),
            Some(owner) if owner.key != key.public() => Err(BookError::Owner { path: path.into(), owner: owner.key }),
            Some(_) => Ok(Self { file, key, ledger, lines, refusals, retried: BTreeSet::new() }),
        }
    }

    /// Appends one record if the rules permit it; it is on disk when this returns its number.
    ///
    /// # Errors
    /// The rule that forbids it, or what the disk said; the ledger is then as before.
    pub fn append(&mut self, event: LedgerEvent, now: UnixMillis) -> Result<u64, BookError> {
        self.ledger.permits(self.file.head().length, &event)?;
        let path = self.file.path().to_owned();
        let record = self.file.append(event, now, &self.key).map_err(|source| BookError::Append { path, source })?;
        self.ledger.evolve(record.seq, &record.event);
        self.lines.push(record.hash);
        Ok(record.seq)
    }

    /// Records a policy; it holds from here on.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn policy(&mut self, policy: Policy, now: UnixMillis) -> Result<u64, BookError> {
        self.append(LedgerEvent::Policy { policy }, now)
    }

    /// Records that `approver` approved a plan, and answers its digest. A plan that policy forbids is not approved.
    ///
    /// # Errors
    /// If the signature is not the consortium's, policy objects, or the disk does not take it.
    pub fn approve(
        &mut self,
        plan: SignedPlan,
        coordinator: PublicKey,
        approver: &str,
        now: UnixMillis,
    ) -> Result<Digest, BookError> {
        let digest = plan.plan.digest()?;
        let policy = self.ledger.policy.as_ref().ok_or(LedgerViolation::NoPolicy)?;
        let objections = policy.objections(&plan.plan);
        if !objections.is_empty() {
            return Err(LedgerViolation::Policy { plan: digest, objections }.into());
        }
        let approver = approver.to_owned();
        self.append(LedgerEvent::Approved { digest, approver, plan: Box::new(plan), coordinator }, now)?;
        Ok(digest)
    }

    /// Records a refusal once: the same refusal asked for again changes nothing. `reason` must hold nothing private.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn refused(
        &mut self,
        plan: Digest,
        round: Option<RoundNumber>,
        reason: &str,
        now: UnixMillis,
    ) -> Result<(), BookError> {
        self.refused_for(plan, round, reason, None, now)
    }

    /// The same with the epsilon that was `requested`, where the budget does not suffice.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn refused_for(
        &mut self,
        plan: Digest,
        round: Option<RoundNumber>,
        reason: &str,
        requested: Option<Decimal>,
        now: UnixMillis,
    ) -> Result<(), BookError> {
        let refusal = (plan, round, reason.to_owned());
        if self.refusals.contains(&refusal) {
            return Ok(());
        }
        let remaining = requested.and_then(|_| self.ledger.remaining());
        self.append(LedgerEvent::Refused { plan, round, reason: reason.to_owned(), requested, remaining }, now)?;
        self.refusals.insert(refusal);
        Ok(())
    }

    /// Records the coordinator's receipt for the release that answered `query`; a receipt that is known already is no
    /// error.
    ///
    /// # Errors
    /// If nothing was released for it, or the receipt is for something else or not signed by the plan's coordinator.
    pub fn acked(&mut self, query: &Query, receipt: SignedReceipt, now: UnixMillis) -> Result<(), BookError> {
        let release = self.ledger.releases.get(query).ok_or(LedgerViolation::Receipt)?;
        if release.receipt.is_some() {
            return Ok(());
        }
        let commit = release.commit;
        self.append(LedgerEvent::Acked { commit, receipt }, now).map(|_| ())
    }

    /// Records that a committed update is sent again; once for each start of the program, however often the network fails.
    ///
    /// # Errors
    /// If nothing unconfirmed was released for `query`, or the disk does not take it.
    pub fn retry(&mut self, query: &Query, now: UnixMillis) -> Result<(), BookError> {
        let commit = self.ledger.releases.get(query).ok_or(LedgerViolation::Receipt)?.commit;
        if !self.retried.contains(&commit) {
            self.append(LedgerEvent::Retry { commit }, now)?;
            self.retried.insert(commit);
        }
        Ok(())
    }

    /// Records which program writes from here on, unless it is the one that wrote before.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn started(&mut self, program: Program, now: UnixMillis) -> Result<(), BookError> {
        if self.ledger.program.as_ref() != Some(&program) {
            self.append(LedgerEvent::Started(program), now)?;
        }
        Ok(())
    }

    /// Gives up a reservation that was never committed, and answers its record. Its budget stays spent: whatever was
    /// noised under it may have been seen.
    ///
    /// # Errors
    /// If the disk does not take the record.
    pub fn abandon_open(&mut self, reason: &str, now: UnixMillis) -> Result<Option<u64>, BookError> {
        let Some((reserve, _)) = self.ledger.open else { return Ok(None) };
        self.append(LedgerEvent::Abandoned { reserve, reason: reason.to_owned() }, now)?;
        Ok(Some(reserve))
    }

    /// What the records add up to.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Where the chain ends.
    pub fn head(&self) -> Head {
        self.file.head()
    }

    /// Whether this ledger once ended at `head`. If somebody has seen a head that it does not contain, this is an older
    /// copy, or a clone has gone another way: it must not be used (spec/privacy.md, 8.1).
    pub fn contains(&self, head: Head) -> bool {
        match head.length.checked_sub(1) {
            None => head == Head::EMPTY,
            Some(last) => usize::try_from(last).is_ok_and(|last| self.lines.get(last) == Some(&head.hash)),
        }
    }

    /// The key that signs the records.
    pub fn key(&self) -> PublicKey {
        self.key.public()
    }

    /// The disk that it is on, and the updates beside it.
    pub(super) fn disk(&self) -> Arc<dyn Disk> {
        self.file.disk()
    }

    /// Where the ledger is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }
}

/// The key of a chain whose first record names it.
fn first_key(known: &Cell<Option<PublicKey>>) -> impl Fn(&LedgerEvent) -> Result<PublicKey, SigningError> {
    move |event| match (known.get(), event) {
        (Some(key), _) => Ok(key),
        (None, LedgerEvent::Genesis { key, .. }) => {
            known.set(Some(*key));
            Ok(*key)
        }
        // No key has signed it: zero is no key, so the record is refused.
        (None, _) => Err(SigningError::Key(PublicKey([0; 32]))),
    }
}

/// A ledger that was only read.
#[derive(Debug)]
pub struct Reading {
    /// What the sound records add up to.
    pub ledger: Ledger,
    /// How many sound records there are.
    pub records: u64,
    /// When the last sound record was written.
    pub last: Option<UnixMillis>,
    /// The first record that is wrong and why; nothing behind it was read.
    pub finding: Option<(u64, String)>,
    /// Bytes of an unfinished line at the end, as a crash leaves them.
    pub torn: usize,
}

/// Reads the ledger without changing or locking it.
///
/// # Errors
/// If it cannot be read at all; what is wrong inside is in the answer.
pub fn reading(path: &Path) -> Result<Reading, BookError> {
    if !path.exists() {
        return Err(BookError::Missing { path: path.into() });
    }
    let owner = Cell::new(None);
    let ReadBack { records, broken, torn } = read(path, Domain::Ledger, first_key(&owner))?;
    let mut reading = Reading { ledger: Ledger::default(), records: 0, last: None, finding: None, torn };
    for Record { seq, at, event, .. } in &records {
        if let Err(violation) = reading.ledger.permits(*seq, event) {
            reading.finding = Some((*seq, violation.to_string()));
            return Ok(reading);
        }
        reading.ledger.evolve(*seq, event);
        reading.records = seq + 1;
        reading.last = Some(*at);
    }
    reading.finding = broken.map(|(record, error)| (record, error.to_string()));
    Ok(reading)
}

/// Reads a ledger that must be sound; an unfinished last line is left for the next start of the node.
///
/// # Errors
/// If it is missing, or any record is wrong.
pub fn sound(path: &Path) -> Result<Reading, BookError> {
    let reading = reading(path)?;
    match (&reading.finding, &reading.ledger.owner) {
        (Some((record, problem)), _) => {
            Err(BookError::Unsound { path: path.into(), record: *record, problem: problem.clone() })
        }
        (None, None) => Err(BookError::Empty { path: path.into() }),
        (None, Some(_)) => Ok(reading),
    }
}
