//! A site in a federation: asks the coordinator what to do, trains, releases, sends, and asks again.
//!
//! Everything that must survive is in the ledger, so a start after a crash is the same as any other start:
//! what was committed is sent again, byte for byte; what was only reserved is lost and paid; the rest is asked anew.

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use semisam_shared::{
    clock,
    ids::{Digest, RoundNumber, SiteId},
    ledger::{Program, Query},
    message::Task,
    plan::Plan,
    round::Rejection,
    transport::TransportError,
};
use tokio::sync::watch;

use crate::{
    client::{Client, ClientError, SOFTWARE, Session, pause_before_attempt},
    data::cache::key::digest_of_file,
    privacy::{
        book::{Book, BookError},
        release::{self, Release, ReleaseError},
    },
};

pub mod contribution;

use contribution::{ContributionError, Contributor};

/// How long to wait before asking again in a round that this site must let pass.
const PASS_A_ROUND: Duration = Duration::from_secs(5);

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All rounds are done; the last model is here.
    Done {
        /// Where the last model is.
        model: PathBuf,
        /// How many rounds there were.
        rounds: u32,
    },
    /// Somebody asked to stop. The next start goes on.
    Stopped,
}

/// A run cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ParticipantError {
    /// The wire.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The ledger.
    #[error(transparent)]
    Book(#[from] BookError),
    /// The privacy mechanism.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// Scans or training.
    #[error(transparent)]
    Contribution(#[from] ContributionError),
    /// The plan was not approved here.
    #[error(
        "plan {plan} is not approved at this site: your data protection officer reads it with `semisam-node policy approve {plan}`, which also approves it"
    )]
    NotApproved {
        /// The plan.
        plan: Digest,
    },
    /// Another coordinator than the one that was approved.
    #[error(
        "the coordinator signs with another key than the one approved with plan {plan}: ask the consortium before approving again"
    )]
    OtherCoordinator {
        /// The plan.
        plan: Digest,
    },
    /// The ledger here is older than one that was seen.
    #[error(
        "the coordinator has seen record {seen} of this site's ledger, which this ledger does not contain: it is an old copy, or a clone runs elsewhere. Put the newest ledger back; never run two"
    )]
    OldLedger {
        /// The newest record that the coordinator has seen.
        seen: u64,
    },
}

impl ParticipantError {
    /// Whether trying again later may help.
    fn may_pass(&self) -> bool {
        matches!(self, ParticipantError::Client(error) if error.may_pass())
    }

    /// Whether rules, policy or trust forbid going on, rather than a fault.
    pub fn is_refusal(&self) -> bool {
        match self {
            ParticipantError::Client(ClientError::Rejected(_))
            | ParticipantError::Release(ReleaseError::Refused { .. }) => true,
            ParticipantError::NotApproved { .. }
            | ParticipantError::OtherCoordinator { .. }
            | ParticipantError::OldLedger { .. }
            | ParticipantError::Contribution(ContributionError::NoGeneralist { .. }) => true,
            ParticipantError::Client(
                ClientError::File { .. } | ClientError::Transport(TransportError::Bind { .. }),
            ) => false,
            ParticipantError::Client(error) => !error.may_pass(),
            _ => false,
        }
    }
}

/// A site that takes part.
pub struct Participant {
    /// This site.
    pub site: SiteId,
    /// The wire.
    pub client: Client,
    /// The ledger.
    pub book: Book,
    /// Where committed updates are kept.
    pub payloads: PathBuf,
    /// Where published models are kept.
    pub models: PathBuf,
    /// Scans and training.
    pub contributor: Arc<Contributor>,
}

impl Participant {
    /// Takes part until all rounds are done or `stop` turns true. Waits out every fault of the network.
    ///
    /// # Errors
    /// If going on is forbidden or cannot help.
    pub async fn run(&mut self, mut stop: watch::Receiver<bool>) -> Result<Outcome, ParticipantError> {
        self.book.abandon_open("the program ended between RESERVE and COMMIT", clock::now())?;
        self.book.started(running(), clock::now())?;
        let mut attempt = 0;
        loop {
            let ended = match until_stopped(&mut stop, self.session(&mut attempt)).await {
                None => return Ok(Outcome::Stopped),
                Some(ended) => ended,
            };
            let error = match ended {
                Ok(outcome) => return Ok(outcome),
                Err(error) if error.may_pass() => error,
                Err(error) => return Err(error),
            };
            let pause = pause_before_attempt(attempt, self.site.0[0]);
            tracing::warn!("{error}; trying again in {:.1} s", pause.as_secs_f64());
            attempt += 1;
            if until_stopped(&mut stop, tokio::time::sleep(pause)).await.is_none() {
                return Ok(Outcome::Stopped);
            }
        }
    }

    /// One connection, from hello to the end of the federation or of the connection.
    async fn session(&mut self, attempt: &mut u32) -> Result<Outcome, ParticipantError> {
        let session = self.client.connect(self.book.key(), self.book.head()).await?;
        tracing::info!("connected to the coordinator");
        let plan = self.agree(&session)?;
        *attempt = 0;
        self.send_what_was_committed(&session).await?;
        loop {
            match session.task().await? {
                Task::Wait { seconds } => {
                    tokio::time::sleep(Duration::from_secs(u64::from(seconds.clamp(1, 60)))).await;
                }
                Task::Train { round, model, .. } => self.contribute(&session, &plan, round, model).await?,
                Task::Done { model, rounds } => {
                    let model = session.fetch(model, &self.models).await?;
                    tracing::info!("all {rounds} rounds are done; the last model is `{}`", model.display());
                    return Ok(Outcome::Done { model, rounds });
                }
            }
        }
    }

    /// Whether this is the plan, the coordinator and the ledger that we know.
    fn agree(&mut self, session: &Session) -> Result<Plan, ParticipantError> {
        let welcome = session.welcome;
        if !self.book.contains(welcome.ledger) {
            return Err(ParticipantError::OldLedger { seen: welcome.ledger.length.saturating_sub(1) });
        }
        let plan = welcome.plan;
        let Some(approval) = self.book.ledger().approved.get(&plan) else {
            self.book.refused(plan, None, "the plan is not approved at this site", clock::now())?;
            return Err(ParticipantError::NotApproved { plan });
        };
        if approval.coordinator != welcome.coordinator {
            return Err(ParticipantError::OtherCoordinator { plan });
        }
        Ok(approval.plan.plan.clone())
    }

    async fn send_what_was_committed(&mut self, session: &Session) -> Result<(), ParticipantError> {
        for query in release::unconfirmed(&self.book) {
            if query.plan != session.welcome.plan {
                continue;
            }
            match release::resume(&self.book, &self.payloads, query) {
                Ok(Some(release)) => {
                    tracing::info!("round {}: sending the committed update again", query.round);
                    self.book.retry(&query, clock::now())?;
                    self.send(session, &release).await?;
                }
                Ok(None) => {}
                Err(error @ ReleaseError::Damaged { .. }) => tracing::error!("{error}"),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn contribute(
        &mut self,
        session: &Session,
        plan: &Plan,
        round: RoundNumber,
        model: Digest,
    ) -> Result<(), ParticipantError> {
        let query = Query { plan: session.welcome.plan, round, model };
        match release::resume(&self.book, &self.payloads, query) {
            Ok(Some(release)) => return self.send(session, &release).await,
            Ok(None) => {}
            Err(ReleaseError::Damaged { .. }) => {
                // Said when it was found. Fresh noise would be a second answer, so this round passes without us.
                tokio::time::sleep(PASS_A_ROUND).await;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        let (contributor, wanted) = (self.contributor.clone(), plan.clone());
        let ready = move || contributor.require_generalists(&wanted).and_then(|()| contributor.prepare(&wanted.scans));
        let patients = blocking(ready).await??;
        release::permit(&mut self.book, query, patients, clock::now())?;
        let model = session.fetch(model, &self.models).await?;
        let basis = match contribution::basis_of(plan) {
            Some(digest) => Some(session.fetch(digest, &self.models).await?),
            None => None,
        };
        tracing::info!("round {round}: training");
        let (contributor, plan) = (self.contributor.clone(), plan.clone());
        let contributions =
            blocking(move || contributor.contributions(&plan, query, &model, basis.as_deref())).await??;
        let release = release::release(&mut self.book, &self.payloads, query, &contributions, clock::now)?;
        tracing::info!("round {round}: released {} bytes, paid for in the ledger", release.bytes().len());
        self.send(session, &release).await
    }

    /// Sends a release. A round that has closed without us is no fault: the budget is spent, the next round comes.
    async fn send(&mut self, session: &Session, release: &Release) -> Result<(), ParticipantError> {
        let (round, receipt) = (release.query().round, release.receipt(self.site, &self.book));
        match session.submit(release, receipt).await {
            Ok(signed) => {
                self.book.acked(&release.query(), signed, clock::now())?;
                tracing::info!("round {round}: the coordinator has the update");
                Ok(())
            }
            Err(ClientError::Rejected(Rejection::RoundNotOpen(_))) => {
                tracing::warn!(
                    "round {round} closed before the update arrived: it does not count, and its budget is spent"
                );
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// This program and this start of the machine, as far as the system tells.
fn running() -> Program {
    let binary = std::env::current_exe().and_then(|path| digest_of_file(&path)).ok();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    Program { software: SOFTWARE.into(), binary, boot: boot.map(|boot| boot.trim().into()) }
}

/// `work`, or nothing if `stop` turns true first.
async fn until_stopped<T>(stop: &mut watch::Receiver<bool>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        _ = stop.wait_for(|stopped| *stopped) => None,
        done = work => Some(done),
    }
}

/// Runs long work off the network's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ContributionError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ContributionError::Died(error.to_string()))
}

#[cfg(test)]
mod breakers;
