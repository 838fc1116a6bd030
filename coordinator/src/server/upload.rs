//! Takes an update in: one open upload a site, the newest wins, and every byte that came is kept for the next attempt.

use std::{
    collections::HashMap,
    io::{self, Write},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use semisam_shared::{
    ids::SiteId,
    message::Response,
    receipt::Receipt,
    round::Rejection,
    transport::{Exchange, TransportError},
};
use tokio::{
    io::AsyncWrite,
    sync::{Mutex as AsyncMutex, watch},
};

use super::{Shared, session::Caller};
use crate::{
    disk::DiskError,
    driver::storage,
    spool::{Finish, Part},
};

/// Whose turn it is to upload, for each site.
#[derive(Default)]
pub(super) struct Slots(Mutex<HashMap<SiteId, Arc<Slot>>>);

struct Slot {
    turn: AsyncMutex<()>,
    newest: watch::Sender<u64>,
}

impl Slots {
    fn of(&self, site: SiteId) -> Arc<Slot> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Slot { turn: AsyncMutex::new(()), newest: watch::Sender::new(0) });
        slots.entry(site).or_insert_with(new).clone()
    }
}

/// A file written at once, from a task: the write has happened, or failed, when the poll returns. So nothing is under
/// way any more when an upload is dropped.
struct Sink<'a>(&'a mut Part);

impl AsyncWrite for Sink<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(tokio::task::block_in_place(|| self.0.write(bytes)))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Receives the update that `receipt` announces, and answers with the site's receipt.
pub(super) async fn receive(
    shared: &Arc<Shared>,
    caller: &Caller,
    receipt: Receipt,
    mut exchange: Exchange,
) -> Result<(), TransportError> {
    let slot = shared.slots.of(caller.site);
    let mut mine = 0;
    slot.newest.send_modify(|newest| {
        *newest += 1;
        mine = *newest;
    });
    let mut newest = slot.newest.subscribe();
    let turn = slot.turn.lock().await;
    let spool = shared.with(|driver, _| driver.spool().clone()).await;
    let part = blocking(move || spool.part(receipt)).await;
    let mut part = match part {
        Ok(part) => part,
        Err(rejection) => return reply(exchange, &Response::Rejected(rejection)).await,
    };
    let (offset, total) = (part.length(), part.total());
    exchange.send(&Response::Upload { offset }).await?;
    let superseded = async {
        let _ = newest.wait_for(|newest| *newest > mine).await; // the sender lives as long as the slot
    };
    let received = tokio::select! {
        received = exchange.receive_chunks(Sink(&mut part), offset, total) => received,
        () = superseded => Err(TransportError::Superseded),
    };
    match received {
        Err(TransportError::File { source, .. }) => {
            let rejection = storage("an upload cannot be written", &source);
            return reply(exchange, &Response::Rejected(rejection)).await;
        }
        other => other?,
    };
    let name = caller.name.clone();
    let response = match blocking(move || part.finish()).await {
        Ok(Finish::Verified(update)) => shared.with(move |driver, now| driver.accept(now, &name, update)).await,
        Ok(Finish::WrongDigest) => shared.with(move |driver, _| driver.wrong_digest(receipt.site, &name)).await,
        Err(rejection) => Response::Rejected(rejection),
    };
    drop(turn);
    reply(exchange, &response).await
}

async fn reply(mut exchange: Exchange, response: &Response) -> Result<(), TransportError> {
    exchange.send(response).await?;
    exchange.finish().await
}

async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, Rejection> {
    let outcome = tokio::task::spawn_blocking(act).await.expect("reading and writing a file does not panic");
    outcome.map_err(|error| storage("an upload cannot be written", &error))
}
