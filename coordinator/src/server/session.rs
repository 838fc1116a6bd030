//! One peer: its requests, each in a task of its own. Whatever goes wrong here ends this request or this connection.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use semisam_shared::{
    ids::SiteId,
    message::{Request, Response, Task},
    round::Rejection,
    transport::{Exchange, Peer, TransportError},
};
use tokio::task::JoinSet;

use super::{Heard, Shared, upload};
use crate::driver::Answer;

/// Whose request it is, and whether hello was said on this connection.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) site: SiteId,
    pub(super) name: String,
    greeted: Arc<AtomicBool>,
}

/// Answers a peer until its connection ends.
pub(super) async fn serve(shared: Arc<Shared>, peer: Peer) {
    let caller = Caller { site: peer.site, name: peer.name.clone(), greeted: Arc::default() };
    let mut requests = JoinSet::new();
    let ended = loop {
        tokio::select! {
            exchange = peer.accept() => match exchange {
                Ok(exchange) => {
                    requests.spawn(request(shared.clone(), caller.clone(), exchange));
                }
                Err(error) => break error,
            },
            Some(_) = requests.join_next(), if !requests.is_empty() => {}
        }
    };
    tracing::debug!(site = %caller.site.short(), "`{}` at {} left: {ended}", caller.name, peer.address);
    shared.note(caller.site, Heard::Gone);
}

async fn request(shared: Arc<Shared>, caller: Caller, exchange: Exchange) {
    let (site, name) = (caller.site.short(), caller.name.clone());
    match answer(&shared, caller, exchange).await {
        Ok(()) => {}
        Err(error @ (TransportError::Codec(_) | TransportError::FrameTooLarge(_) | TransportError::Trailing)) => {
            tracing::warn!(%site, "`{name}` sent something that is no request: {error}");
        }
        Err(TransportError::File { what, path, source }) => {
            let error = crate::disk::DiskError { action: what, path, source };
            tracing::error!(%site, "a transfer with `{name}` failed: {error}");
        }
        Err(error) => tracing::debug!(%site, "a request of `{name}` ended early: {error}"),
    }
}

async fn answer(shared: &Arc<Shared>, caller: Caller, mut exchange: Exchange) -> Result<(), TransportError> {
    let request: Request = exchange.receive().await?;
    let hello = matches!(request, Request::Hello { .. });
    if !hello && !caller.greeted.load(Ordering::Acquire) {
        exchange.send(&Response::Rejected(Rejection::NotJoined)).await?;
        return exchange.finish().await;
    }
    let (site, name) = (caller.site, caller.name.clone());
    let answer = shared.with(move |driver, now| driver.handle(now, site, &name, request)).await;
    match answer {
        Answer::Reply(response) => {
            match &response {
                Response::Welcome { .. } => caller.greeted.store(true, Ordering::Release),
                Response::Task(Task::Done { .. }) => shared.note(site, Heard::Done),
                _ => {}
            }
            exchange.send(&response).await?;
            exchange.finish().await
        }
        Answer::Blob { blob, path, offset, length } => {
            exchange.send(&Response::Blob { length }).await?;
            exchange.send_file(&path, offset, length).await?;
            exchange.finish().await?;
            shared.note(site, Heard::Blob(blob));
            Ok(())
        }
        Answer::Upload(receipt) => upload::receive(shared, &caller, receipt, exchange).await,
    }
}
