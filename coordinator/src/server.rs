//! The async rim: connections in, the driver's answers out, and a timer for what time demands.
//!
//! Each peer has a task, each of its requests another; the driver runs on blocking threads behind a lock that is held
//! for one decision and its fsync, never for a transfer or a fold. Needs a multi-threaded runtime.

use std::{
    collections::HashSet,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Instant,
};

use semisam_shared::{
    clock,
    ids::{Digest, SiteId, UnixMillis},
    transport::{Listener, TransportError},
};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};

use crate::{
    disk::{self, DiskError},
    driver::{Driver, DriverError},
    folder::{Folder, FolderError},
};

mod farewell;
mod rounds;
mod session;
mod upload;

/// The server cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The state on disk.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The network.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The file that tells the address.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The socket is gone.
    #[error("the socket was closed by the system: start again")]
    SocketGone,
    /// A bug.
    #[error("the task that opens and closes rounds ended: this is a bug, nothing acknowledged is lost, start again")]
    RoundsEnded,
}

/// Time that never runs backwards and never jumps: the wall clock of the start, or the journal's last moment if that is
/// later, plus what has passed since.
#[derive(Debug)]
struct Timekeeper {
    base: UnixMillis,
    since: Instant,
}

impl Timekeeper {
    fn now(&self) -> UnixMillis {
        let passed = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        UnixMillis(self.base.0.saturating_add(passed))
    }
}

/// What all tasks share.
struct Shared {
    folder: Folder,
    driver: Mutex<Driver>,
    time: Timekeeper,
    /// Something was journalled: look at what is due.
    changed: Notify,
    stopping: watch::Sender<bool>,
    slots: upload::Slots,
    revoked: Arc<RwLock<HashSet<SiteId>>>,
    farewell: Mutex<farewell::Farewell>,
}

impl Shared {
    /// Runs `act` with the driver, on a thread that may block. If it wrote anything, what is due is looked at again.
    async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        act: impl FnOnce(&mut Driver, UnixMillis) -> T + Send + 'static,
    ) -> T {
        let shared = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let mut driver = shared.driver.lock().expect("no holder of the driver panicked");
            let before = driver.records();
            let outcome = act(&mut driver, shared.time.now());
            if driver.records() != before {
                shared.changed.notify_one();
            }
            outcome
        });
        task.await.expect("the driver does not panic")
    }
}

/// A coordinator that listens.
pub struct Server {
    listener: Listener,
    shared: Arc<Shared>,
    address: SocketAddr,
    address_file: PathBuf,
}

impl Server {
    /// Recovers from the folder and opens the socket. The file `address` tells where, once this returns.
    ///
    /// # Errors
    /// If the state on disk is not sound, or the address or certificates cannot be used.
    pub fn bind(folder: &Folder, listen: SocketAddr) -> Result<Self, ServerError> {
        let address_file = folder.address();
        let driver = Driver::open(folder)?;
        // Only now: as long as another process holds the journal, the file is that process's.
        disk::remove(&address_file)?;
        let revoked = Arc::new(RwLock::new(rounds::excluded(folder, &driver)?));
        let check = revoked.clone();
        let is_revoked =
            Arc::new(move |site: &SiteId| check.read().unwrap_or_else(PoisonError::into_inner).contains(site));
        let listener = Listener::bind(listen, &folder.tls_files(), is_revoked)?;
        let address = listener.local_addr()?;
        let time = Timekeeper { base: clock::now().max(driver.last()), since: Instant::now() };
        let shared = Arc::new(Shared {
            folder: folder.clone(),
            driver: Mutex::new(driver),
            time,
            changed: Notify::new(),
            stopping: watch::Sender::new(false),
            slots: upload::Slots::default(),
            revoked,
            farewell: Mutex::default(),
        });
        disk::write(&address_file, format!("{address}\n").as_bytes())?;
        tracing::info!("listening on {address}");
        Ok(Self { listener, shared, address, address_file })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, or, if `until_done`, until every active site knows that all rounds are done. A fold that is
    /// running ends first; uploads that are under way resume at the next start.
    ///
    /// # Errors
    /// If the server cannot go on.
    pub async fn run(mut self, until_done: bool, stop: impl Future<Output = ()>) -> Result<(), ServerError> {
        let mut rounds = tokio::spawn(rounds::run(self.shared.clone()));
        let mut peers = JoinSet::new();
        let over = farewell::everybody_knows(self.shared.clone(), until_done);
        tokio::pin!(stop, over);
        let outcome = loop {
            tokio::select! {
                () = &mut stop => break Ok(()),
                () = &mut over => break Ok(()),
                _ = &mut rounds => break Err(ServerError::RoundsEnded),
                peer = self.listener.accept() => match peer {
                    Some(peer) => {
                        peers.spawn(session::serve(self.shared.clone(), peer));
                    }
                    None => break Err(ServerError::SocketGone),
                },
                Some(_) = peers.join_next(), if !peers.is_empty() => {}
            }
        };
        tracing::info!("stopping");
        self.shared.stopping.send_replace(true);
        self.listener.close().await;
        peers.shutdown().await;
        if !rounds.is_finished() {
            let _ = rounds.await; // a panic there has been logged, and all that counts is on disk
        }
        disk::remove(&self.address_file)?;
        outcome
    }
}

/// What [`farewell::Farewell`] learns from sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// The site was told that all rounds are done.
    Done,
    /// The site has this blob, to the end.
    Blob(Digest),
    /// The site's connection ended.
    Gone,
}
