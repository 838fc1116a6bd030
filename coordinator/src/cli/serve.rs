//! `serve`: runs until Ctrl-C or SIGTERM, or until all is done.

use std::net::SocketAddr;

use clap::Args;

use super::{Failure, Output, Place};
use crate::{
    config::{Config, LISTEN_VARIABLE},
    folder::Folder,
    server::Server,
    status::Known,
};

#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    place: Place,
    /// The UDP address to listen on, instead of the configuration's
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Exit once all rounds are done and every active site knows
    #[arg(long)]
    until_done: bool,
}

pub(super) fn serve(arguments: &Serve, output: &mut Output<'_>) -> Result<(), Failure> {
    let folder = Folder::open(&arguments.place.dir)?;
    let config = Config::read(&folder.config(), std::env::var(LISTEN_VARIABLE).ok().as_deref())?;
    let listen = arguments.listen.unwrap_or(config.listen);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before the address is told: whoever reads it may ask to stop at once.
        let stop = stop_signal();
        let server = Server::bind(&folder, listen)?;
        server.run(arguments.until_done, stop).await
    })?;
    let status = Known::read(&folder)?.status(semisam_shared::clock::now());
    output.document(&status, || format!("stopped after round {} of {}", status.round, status.rounds))
}

/// Ends at the first SIGINT or SIGTERM after this call.
#[cfg(unix)]
fn stop_signal() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let caught = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async {
        let (Ok(mut interrupt), Ok(mut terminate)) = caught else {
            tracing::warn!("signals cannot be caught: a stop is like a crash, which loses nothing either");
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
async fn stop_signal() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
