//! The node's side of the wire. It only dials out and asks; every request may be repeated (shared/PROTOCOL.md).
//!
//! What can leave the hospital through here: a hello, questions, and a [`Release`], which only `privacy` can make.

use std::{
    io::Cursor,
    path::{Path, PathBuf},
    time::Duration,
};

use semisam_shared::{
    chain::Head,
    ids::{Digest, PublicKey},
    message::{NEWEST_VERSION, OLDEST_VERSION, Request, Response, Task},
    plan::{PlanError, SignedPlan},
    receipt::{Receipt, SignedReceipt},
    round::Rejection,
    tls::TlsFiles,
    transport::{Connection, Dialer, TransportError},
};

use crate::privacy::release::Release;

mod download;

/// What this program calls itself on the wire.
pub const SOFTWARE: &str = concat!("semisam-node ", env!("CARGO_PKG_VERSION"));

/// A request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The network, or a certificate.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The rules of the federation forbid it.
    #[error("the coordinator rejected the request (reason {number}): {0}", number = .0.number())]
    Rejected(Rejection),
    /// An answer that does not belong to the question.
    #[error("the coordinator answered something else than was asked ({0}): is it another version?")]
    Unexpected(&'static str),
    /// The plan is not what was announced, or not signed.
    #[error("the coordinator's plan cannot be used")]
    Plan(#[from] PlanError),
    /// The plan is not readable.
    #[error("the coordinator's plan is not a plan: {0}")]
    PlanText(String),
    /// The plan has another digest than the coordinator announced.
    #[error("the coordinator announced plan {announced} and sent plan {sent}: do not trust it, ask the consortium")]
    OtherPlan {
        /// What was announced.
        announced: Digest,
        /// What came.
        sent: Digest,
    },
    /// A blob is not what was asked for.
    #[error("the bytes of `{0}` arrived damaged and were thrown away")]
    Damaged(Digest),
    /// A file could not be written or read.
    #[error("cannot {action} `{}`: free space or mend the permissions, then start again", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl ClientError {
    /// Whether asking again later may help.
    pub fn may_pass(&self) -> bool {
        match self {
            ClientError::Transport(error) => !matches!(
                error,
                TransportError::Tls(_)
                    | TransportError::Refused(_)
                    | TransportError::ServerRefused { .. }
                    | TransportError::ServerName(_)
                    | TransportError::Superseded
                    | TransportError::Bind { .. }
            ),
            ClientError::Rejected(rejection) => matches!(rejection, Rejection::Storage | Rejection::WrongDigest),
            ClientError::Damaged(_) => true,
            _ => false,
        }
    }
}

/// Where the coordinator is, and who we are.
pub struct Client {
    dialer: Dialer,
    address: String,
    server_name: String,
}

/// What the coordinator said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The key that signs receipts.
    pub coordinator: PublicKey,
    /// The digest of the plan.
    pub plan: Digest,
    /// The newest head of our ledger that it has seen.
    pub ledger: Head,
}

/// A connection on which hello was said.
pub struct Session {
    connection: Connection,
    /// What the coordinator said of itself.
    pub welcome: Welcome,
}

impl Client {
    /// A client with this site's certificate.
    ///
    /// # Errors
    /// If certificate, key or authority cannot be used.
    pub fn new(files: &TlsFiles, address: &str, server_name: &str) -> Result<Self, ClientError> {
        let dialer = Dialer::new(files, None)?;
        Ok(Self { dialer, address: address.to_owned(), server_name: server_name.to_owned() })
    }

    /// Connects and says hello.
    ///
    /// # Errors
    /// If the coordinator cannot be reached or does not want us.
    pub async fn connect(&self, ledger_key: PublicKey, ledger: Head) -> Result<Session, ClientError> {
        let connection = self.dialer.connect(&self.address, &self.server_name).await?;
        let hello = Request::Hello {
            oldest: OLDEST_VERSION,
            newest: NEWEST_VERSION,
            software: SOFTWARE.to_owned(),
            ledger_key,
            ledger,
        };
        match connection.ask(&hello).await? {
            Response::Welcome { coordinator, plan, ledger, .. } => {
                Ok(Session { connection, welcome: Welcome { coordinator, plan, ledger } })
            }
            Response::Rejected(rejection) => Err(ClientError::Rejected(rejection)),
            _ => Err(ClientError::Unexpected("hello")),
        }
    }
}

impl Session {
    /// Whether the connection is gone.
    pub fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// The plan: of the announced digest, well formed and signed.
    ///
    /// # Errors
    /// If it is none of that.
    pub async fn plan(&self) -> Result<SignedPlan, ClientError> {
        let document = match self.connection.ask(&Request::Plan).await? {
            Response::Plan { document } => document,
            Response::Rejected(rejection) => return Err(ClientError::Rejected(rejection)),
            _ => return Err(ClientError::Unexpected("plan")),
        };
        let signed: SignedPlan =
            serde_json::from_slice(&document).map_err(|error| ClientError::PlanText(error.to_string()))?;
        signed.verify(signed.key)?;
        let (announced, sent) = (self.welcome.plan, signed.plan.digest()?);
        if announced != sent {
            return Err(ClientError::OtherPlan { announced, sent });
        }
        Ok(signed)
    }

    /// What to do now.
    ///
    /// # Errors
    /// If the coordinator does not say.
    pub async fn task(&self) -> Result<Task, ClientError> {
        match self.connection.ask(&Request::Task).await? {
            Response::Task(task) => Ok(task),
            Response::Rejected(rejection) => Err(ClientError::Rejected(rejection)),
            _ => Err(ClientError::Unexpected("task")),
        }
    }

    /// Brings a published blob into `folder` and returns its path. What is there already is not asked for again, and a
    /// download that broke off goes on where it stopped.
    ///
    /// # Errors
    /// If it cannot be had whole.
    pub async fn fetch(&self, blob: Digest, folder: &Path) -> Result<PathBuf, ClientError> {
        download::fetch(&self.connection, blob, folder).await
    }

    /// Sends a release and returns the coordinator's receipt. What the coordinator has of it already is not sent again.
    ///
    /// # Errors
    /// If it could not be delivered; the same release may be sent again.
    pub async fn submit(&self, release: &Release, receipt: Receipt) -> Result<SignedReceipt, ClientError> {
        let mut exchange = self.connection.open().await?;
        exchange.send(&Request::Submit { receipt }).await?;
        let mut answer = exchange.receive().await?;
        if let Response::Upload { offset } = answer {
            let sent = exchange.send_chunks(Cursor::new(release.bytes()), offset, receipt.bytes).await;
            match sent {
                // The reason may have been sent before the stream was stopped.
                Ok(_) | Err(TransportError::Stopped) => {}
                Err(error) => return Err(error.into()),
            }
            answer = exchange.receive().await?;
        }
        match answer {
            Response::Accepted(signed) => Ok(signed),
            Response::Rejected(rejection) => Err(ClientError::Rejected(rejection)),
            _ => Err(ClientError::Unexpected("submit")),
        }
    }
}

/// How long to wait before the next attempt: doubles from a quarter of a second to half a minute, and spreads the
/// sites by up to a quarter so that they do not return all at once.
pub fn pause_before_attempt(attempt: u32, spread: u8) -> Duration {
    let base = Duration::from_millis(250).saturating_mul(1 << attempt.min(7)).min(Duration::from_secs(30));
    base + base * u32::from(spread) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_a_minute() {
        assert_eq!(pause_before_attempt(0, 0), Duration::from_millis(250));
        assert_eq!(pause_before_attempt(3, 0), Duration::from_secs(2));
        assert_eq!(pause_before_attempt(60, 0), Duration::from_secs(30));
        assert!(pause_before_attempt(60, 255) < Duration::from_secs(38));
    }

    #[test]
    fn a_refused_certificate_is_final_and_a_lost_connection_is_not() {
        assert!(ClientError::Transport(TransportError::Lost("x".into())).may_pass());
        assert!(!ClientError::Transport(TransportError::Refused("x".into())).may_pass());
        assert!(!ClientError::Rejected(Rejection::Revoked).may_pass());
        assert!(ClientError::Rejected(Rejection::Storage).may_pass());
    }
}
