//! Ctrl-C and SIGTERM: a request to stop cleanly. A second one ends the program at once.

use std::{
    io, process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tokio::{runtime::Builder, sync::watch};

use super::Exit;

/// Waits for the next request to stop.
///
/// # Errors
/// If the system does not deliver signals.
pub(super) async fn next() -> io::Result<()> {
    #[cfg(unix)]
    {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            stopped = tokio::signal::ctrl_c() => stopped,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

/// Turns true at the first request to stop; for asynchronous work.
pub(super) fn watch() -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        if let Err(error) = next().await {
            tracing::warn!("signals cannot be received, so this program cannot be stopped cleanly: {error}");
            // Dropping the sender must not look like a request to stop.
            std::future::pending::<()>().await;
        }
        tracing::info!("stopping; the next start goes on from here");
        let _ = sender.send(true);
        let _ = next().await;
        process::exit(i32::from(Exit::TryAgain.code()));
    });
    receiver
}

/// Turns true at the first request to stop; for plain blocking work.
///
/// # Errors
/// If no thread can be had to wait for signals.
pub(super) fn flag() -> io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let (runtime, raised) = (Builder::new_current_thread().enable_all().build()?, flag.clone());
    thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            if next().await.is_ok() {
                tracing::info!("stopping; the next start goes on from here");
                raised.store(true, Ordering::Relaxed);
                let _ = next().await;
                process::exit(i32::from(Exit::TryAgain.code()));
            }
        });
    })?;
    Ok(flag)
}
