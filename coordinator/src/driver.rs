//! The sync core: one request, one tick, one fold at a time, with the time as an argument. No socket, no task, no clock.
//!
//! Whatever a site does wrong becomes a [`Rejection`] for that site, logged once; it never becomes an error of the
//! coordinator. Whatever the disk does wrong becomes [`Rejection::Storage`], and the same request may come again.

use std::{
    collections::{BTreeSet, HashSet},
    path::PathBuf,
};

use semisam_shared::{
    chain::Head,
    ids::{Digest, PublicKey, RoundNumber, SiteId, UnixMillis},
    message::{NEWEST_VERSION, OLDEST_VERSION, Request, Response, Task},
    plan::{Plan, ReleaseSpace},
    receipt::Receipt,
    round::{ASK_AGAIN_SECONDS, Charter, Command, Due, Event, Federation, OpenRound, Presence, Rejection},
    signing::SigningKey,
};

use crate::{
    disk::DiskError,
    folder::{Folder, FolderError},
    folding::{FoldDone, FoldJob},
    journal::{Journal, JournalError},
    spool::{Spool, Verified},
    store::{Store, StoreError},
};

mod report;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use report::{storage, whole};

/// The coordinator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// Its folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Its journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Its store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its spool.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// What a peer gets.
#[derive(Debug)]
pub enum Answer {
    /// This.
    Reply(Response),
    /// [`Response::Blob`], then the bytes of the file from the offset on.
    Blob {
        /// Which blob.
        blob: Digest,
        /// Where it is.
        path: PathBuf,
        /// Where to begin.
        offset: u64,
        /// How long it is.
        length: u64,
    },
    /// [`Response::Upload`]: the rules want this update. When it is on disk: [`Driver::accept`].
    Upload(Receipt),
}

/// What the newest model is, for whoever waits for the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The last model.
    pub model: Digest,
    /// Who is still taking part.
    pub active: BTreeSet<SiteId>,
}

/// The state of the coordinator and its disk.
#[derive(Debug)]
pub struct Driver {
    journal: Journal,
    store: Store,
    spool: Spool,
    key: SigningKey,
    folding: Option<RoundNumber>,
    refused: HashSet<(SiteId, u8)>,
}

impl Driver {
    /// Recovers from the folder: replays the journal, sweeps what a crash left unfinished.
    ///
    /// # Errors
    /// If anything that was acknowledged is damaged or out of reach.
    pub fn open(folder: &Folder) -> Result<Self, DriverError> {
        let key = folder.read_signing_key()?;
        let journal = Journal::open(&folder.journal(), &key)?;
        let (store, spool) = (Store::open(&folder.store())?, Spool::open(&folder.spool())?);
        let driver = Self { journal, store, spool, key, folding: None, refused: HashSet::new() };
        if driver.federation().open.is_none() {
            driver.spool.clear()?;
        }
        Ok(driver)
    }

    /// Answers one request of the site that the connection's certificate belongs to.
    pub fn handle(&mut self, now: UnixMillis, site: SiteId, name: &str, request: Request) -> Answer {
        let answer = match request {
            Request::Hello { oldest, newest, software, ledger_key, ledger } => {
                self.hello(now, site, name, (oldest, newest), &software, ledger_key, ledger).map(Answer::Reply)
            }
            Request::Plan => self.plan_document(site).map(Answer::Reply),
            Request::Task => self.task(now, site).map(|task| Answer::Reply(Response::Task(task))),
            Request::Fetch { blob, offset } => self.fetch(site, blob, offset),
            Request::Submit { receipt } => self.announced(now, site, receipt),
        };
        answer.unwrap_or_else(|rejection| Answer::Reply(self.reject(site, name, rejection)))
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    fn hello(
        &mut self,
        now: UnixMillis,
        site: SiteId,
        name: &str,
        (oldest, newest): (u16, u16),
        software: &str,
        ledger_key: PublicKey,
        ledger: Head,
    ) -> Result<Response, Rejection> {
        let version = newest.min(NEWEST_VERSION);
        if version < oldest.max(OLDEST_VERSION) {
            return Err(Rejection::Version { ours_low: OLDEST_VERSION, ours_high: NEWEST_VERSION });
        }
        self.command(now, Command::Join { site, name: name.to_owned(), ledger_key })?;
        let seen = self.federation().members.get(&site).map_or(Head::EMPTY, |member| member.shown);
        report::greeted(site, name, software, ledger, seen);
        let Charter { digest, coordinator, .. } = *self.charter()?;
        Ok(Response::Welcome { version, coordinator, plan: digest, ledger: seen })
    }

    fn plan_document(&self, site: SiteId) -> Result<Response, Rejection> {
        self.expect_member(site)?;
        let document = serde_json::to_vec(&self.charter()?.plan);
        Ok(Response::Plan { document: document.map_err(|error| Rejection::OutOfOrder(error.to_string()))? })
    }

    fn task(&mut self, now: UnixMillis, site: SiteId) -> Result<Task, Rejection> {
        self.command(now, Command::Contact { site })?;
        match self.federation().task(site, now)? {
            // Whatever is sent now would come too late.
            Task::Train { round, .. } if self.folding == Some(round) => Ok(Task::Wait { seconds: ASK_AGAIN_SECONDS }),
            task => Ok(task),
        }
    }

    /// Published are the models and the basis; an update is nobody's business but the coordinator's and the auditor's.
    fn fetch(&self, site: SiteId, blob: Digest, offset: u64) -> Result<Answer, Rejection> {
        self.expect_member(site)?;
        let plan = &self.charter()?.plan.plan;
        let basis = match plan.privacy.release {
            ReleaseSpace::Basis { basis, .. } => Some(basis),
            ReleaseSpace::All { .. } | ReleaseSpace::Tensors { .. } => None,
        };
        let mut models = self.federation().closed.iter().map(|closed| closed.model);
        if blob != plan.initial_model && Some(blob) != basis && !models.any(|model| model == blob) {
            return Err(Rejection::NoSuchBlob(blob));
        }
        let (_, length) = self.store.open_blob(blob).map_err(|error| storage("a blob cannot be read", &error))?;
        if offset > length {
            return Err(Rejection::OutOfOrder(format!("offset {offset} is beyond the {length} bytes of the blob")));
        }
        Ok(Answer::Blob { blob, path: self.store.path(blob), offset, length })
    }

    /// Remembers the head of the ledger first: whatever becomes of the update, it may have left the hospital.
    fn announced(&mut self, now: UnixMillis, site: SiteId, receipt: Receipt) -> Result<Answer, Rejection> {
        if receipt.site != site {
            return Err(Rejection::OutOfOrder("the update names another site than the certificate".into()));
        }
        self.command(now, Command::Announce { receipt })?;
        self.submit(now, receipt)
    }

    fn submit(&mut self, now: UnixMillis, receipt: Receipt) -> Result<Answer, Rejection> {
        let wanted = !self.federation().decide(now, Command::Submit { receipt })?.is_empty();
        if wanted && self.folding == Some(receipt.round) {
            return Err(Rejection::RoundNotOpen(receipt.round));
        }
        if wanted { Ok(Answer::Upload(receipt)) } else { self.receipt(receipt).map(Answer::Reply) }
    }

    /// Takes an update into the store and the journal, if the rules still want it. The answer is the site's receipt.
    pub fn accept(&mut self, now: UnixMillis, name: &str, update: Verified) -> Response {
        let receipt = *update.receipt();
        let outcome = match self.submit(now, receipt) {
            Ok(Answer::Upload(_)) => self.store_update(now, name, &update),
            Ok(Answer::Reply(known)) => Ok(known),
            Ok(Answer::Blob { .. }) => Err(Rejection::NoSuchBlob(receipt.payload)),
            Err(rejection) => Err(rejection),
        };
        if !matches!(outcome, Err(Rejection::Storage)) {
            update.discard(); // nothing is left of it if the store has taken it over
        }
        outcome.unwrap_or_else(|rejection| self.reject(receipt.site, name, rejection))
    }

    fn store_update(&mut self, now: UnixMillis, name: &str, update: &Verified) -> Result<Response, Rejection> {
        let adopted = self.store.adopt(&update.path, update.receipt.payload);
        adopted.map_err(|error| storage("an update cannot be stored", &error))?;
        self.command(now, Command::Submit { receipt: update.receipt })?;
        report::accepted(&update.receipt, name);
        self.receipt(update.receipt)
    }

    fn receipt(&self, receipt: Receipt) -> Result<Response, Rejection> {
        let known = self.federation().receipt_of(receipt.round, receipt.site).copied().unwrap_or(receipt);
        let signed = known.sign(&self.key).map_err(|error| Rejection::OutOfOrder(error.to_string()))?;
        Ok(Response::Accepted(signed))
    }

    /// An upload was not what it was announced to be; it was thrown away.
    pub fn wrong_digest(&mut self, site: SiteId, name: &str) -> Response {
        self.reject(site, name, Rejection::WrongDigest)
    }

    /// Excludes a site that has joined.
    ///
    /// # Errors
    /// If the journal cannot be written; a site that never joined is kept out by its certificate alone.
    pub fn revoke(&mut self, now: UnixMillis, site: SiteId) -> Result<(), Rejection> {
        match self.command(now, Command::Revoke { site }) {
            Err(Rejection::NotJoined) => Ok(()),
            outcome => outcome,
        }
    }

    /// What time and contributions demand.
    pub fn due(&self, now: UnixMillis) -> Due {
        self.federation().due(now)
    }

    /// Opens a round, moves a deadline, or ends the federation, as [`Driver::due`] demands.
    ///
    /// # Errors
    /// If the journal cannot be written.
    pub fn tick(&mut self, now: UnixMillis) -> Result<(), Rejection> {
        self.command(now, Command::Tick)
    }

    /// Begins a fold: run the job without holding the driver, then [`Driver::finish_fold`] or [`Driver::give_up_fold`].
    /// Until then updates of the round are late.
    pub fn begin_fold(&mut self) -> Option<FoldJob> {
        let federation = self.federation();
        let (charter, open) = (federation.charter.as_ref()?, federation.open.as_ref()?);
        let (model, momentum) = federation.newest?;
        let updates = open.accepted.iter().map(|(site, receipt)| (*site, receipt.payload)).collect();
        let job = FoldJob { plan: charter.plan.plan.clone(), round: open.round, updates, model, momentum };
        self.folding = Some(job.round);
        Some(job)
    }

    /// Closes the round.
    ///
    /// # Errors
    /// If the journal cannot be written, or a contributor was excluded meanwhile; then the round is folded anew.
    pub fn finish_fold(&mut self, now: UnixMillis, done: FoldDone) -> Result<(), Rejection> {
        self.folding = None;
        let FoldDone { round, contributors, model, momentum } = done;
        self.command(now, Command::Close { round, contributors, model, momentum })?;
        if let Err(error) = self.spool.clear() {
            tracing::warn!("{error}");
        }
        Ok(())
    }

    /// The fold failed; it will be tried again.
    pub fn give_up_fold(&mut self) {
        self.folding = None;
    }

    /// Decides, journals, evolves. Nobody is answered before this returns.
    fn command(&mut self, now: UnixMillis, command: Command) -> Result<(), Rejection> {
        for event in self.federation().decide(now, command)? {
            let (members, opened) = (self.federation().members.len(), self.journal.opened());
            match self.journal.record(now, event.clone(), &self.key) {
                Ok(()) => {
                    if let Event::RoundOpened { .. } | Event::RoundClosed { .. } = event {
                        self.refused.clear();
                    }
                    report::happened(self.federation(), &event, now, members, opened);
                }
                Err(JournalError::Forbidden(rejection)) => return Err(rejection),
                Err(error) => return Err(storage("the journal cannot be written", &error)),
            }
        }
        Ok(())
    }

    fn reject(&mut self, site: SiteId, name: &str, rejection: Rejection) -> Response {
        if self.refused.insert((site, rejection.number())) {
            report::refused(site, name, &rejection);
        }
        Response::Rejected(rejection)
    }

    fn expect_member(&self, site: SiteId) -> Result<(), Rejection> {
        match self.federation().members.get(&site).map(|member| member.presence) {
            None => Err(Rejection::NotJoined),
            Some(Presence::Revoked) => Err(Rejection::Revoked),
            Some(_) => Ok(()),
        }
    }

    fn charter(&self) -> Result<&Charter, Rejection> {
        self.federation().charter.as_ref().ok_or(Rejection::NotFounded)
    }

    /// What the journal adds up to.
    pub fn federation(&self) -> &Federation {
        self.journal.federation()
    }

    /// The plan.
    pub fn plan(&self) -> Option<&Plan> {
        self.federation().charter.as_ref().map(|charter| &charter.plan.plan)
    }

    /// The round in progress.
    pub fn open_round(&self) -> Option<&OpenRound> {
        self.federation().open.as_ref()
    }

    /// The last model and who should have it, once all rounds are done.
    pub fn end(&self) -> Option<End> {
        let federation = self.federation();
        let (model, _) = federation.newest.filter(|_| federation.finished)?;
        let active = federation.members.iter().filter(|(_, member)| member.presence == Presence::Active);
        Some(End { model, active: active.map(|(site, _)| *site).collect() })
    }

    /// How many records the journal has: whether anything happened.
    pub fn records(&self) -> u64 {
        self.journal.length()
    }

    /// The latest moment in the journal: time never runs backwards from there.
    pub fn last(&self) -> UnixMillis {
        self.journal.last()
    }

    /// Where blobs are.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Where uploads are.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }
}
