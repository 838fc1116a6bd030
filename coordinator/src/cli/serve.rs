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
        let server = Server::bind(&folder, listen)?;
        server.run(arguments.until_done, stop_signal()).await
    })?;
    let status = Known::read(&folder)?.status(semisam_shared::clock::now());
    output.document(&status, || format!("stopped after round {} of {}", status.round, status.rounds))
}

/// Returns at the first SIGINT or SIGTERM.
#[cfg(unix)]
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        tracing::warn!("signals cannot be caught: a stop is like a crash, which loses nothing either");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(not(unix))]
async fn stop_signal() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
