//! The task that does what time demands: opens rounds, moves deadlines, folds, and takes note of excluded sites.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use semisam_shared::{
    ids::{SiteId, UnixMillis},
    round::{Due, Presence},
};

use super::Shared;
use crate::{
    driver::{Driver, whole},
    folder::{Folder, FolderError},
};

/// How long nothing is looked at, at most: an exclusion takes effect within that time.
const LOOK: Duration = Duration::from_secs(1);
/// The longest pause between two attempts at what failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Everybody who is shut out: by the operator's list, and by the journal.
pub(super) fn excluded(folder: &Folder, driver: &Driver) -> Result<HashSet<SiteId>, FolderError> {
    let members = driver.federation().members.iter();
    let revoked = members.filter(|(_, member)| member.presence == Presence::Revoked).map(|(site, _)| *site);
    Ok(folder.read_revoked()?.into_iter().chain(revoked).collect())
}

/// Runs until the server stops.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut stopping = shared.stopping.subscribe();
    let (mut failures, mut list_error) = (0_u32, None);
    let mut looked: Option<Instant> = None;
    while !*stopping.borrow() {
        if looked.is_none_or(|at| at.elapsed() >= LOOK) {
            exclude(&shared, &mut list_error).await;
            looked = Some(Instant::now());
        }
        let (due, now) = shared.with(|driver, now| (driver.due(now), now)).await;
        let outcome = match due {
            Due::Nothing(until) => Ok(Some(until)),
            Due::Tick => {
                shared.with(|driver, now| driver.tick(now).map_err(|error| error.to_string())).await.map(|()| None)
            }
            Due::Fold => fold(&shared).await.map(|()| None),
        };
        let pause = match outcome {
            Ok(None) => {
                failures = 0;
                continue;
            }
            Ok(Some(until)) => until.map_or(LOOK, |until| between(now, until).min(LOOK)),
            Err(reason) => {
                failures += 1;
                let pause = Duration::from_millis(500).saturating_mul(1 << failures.min(6)).min(LONGEST_PAUSE);
                tracing::error!("the round cannot go on: {reason}; trying again in {} s", pause.as_secs());
                pause
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.changed.notified(), if failures == 0 => {}
            _ = stopping.changed() => {}
        }
    }
}

fn between(now: UnixMillis, until: UnixMillis) -> Duration {
    Duration::from_millis(until.0.saturating_sub(now.0)).max(Duration::from_millis(1))
}

/// Folds without holding the driver.
async fn fold(shared: &Arc<Shared>) -> Result<(), String> {
    let Some((job, store)) = shared.with(|driver, _| Some((driver.begin_fold()?, driver.store().clone()))).await else {
        return Ok(());
    };
    let done = tokio::task::spawn_blocking(move || job.run(&store)).await;
    match done {
        Ok(Ok(done)) => {
            shared.with(move |driver, now| driver.finish_fold(now, done).map_err(|error| error.to_string())).await
        }
        Ok(Err(error)) => {
            shared.with(|driver, _| driver.give_up_fold()).await;
            Err(whole(&error))
        }
        Err(panic) => {
            shared.with(|driver, _| driver.give_up_fold()).await;
            Err(format!("a bug: the fold ended without a result ({panic})"))
        }
    }
}

/// Shuts out whoever is on the operator's list and is not shut out yet.
async fn exclude(shared: &Arc<Shared>, last_error: &mut Option<String>) {
    let folder = shared.folder.clone();
    let listed = tokio::task::spawn_blocking(move || folder.read_revoked()).await;
    let listed = match listed {
        Ok(Ok(listed)) => listed,
        Ok(Err(error)) => {
            let text = whole(&error);
            if last_error.as_ref() != Some(&text) {
                tracing::error!("{text}; whoever was shut out before stays so");
                *last_error = Some(text);
            }
            return;
        }
        Err(_) => return,
    };
    *last_error = None;
    shared.revoked.write().unwrap_or_else(PoisonError::into_inner).extend(listed.iter().copied());
    let journalled = shared.with(move |driver, now| listed.into_iter().try_for_each(|site| driver.revoke(now, site)));
    if let Err(rejection) = journalled.await {
        tracing::debug!("an exclusion is not in the journal yet: {rejection}"); // tried again at the next look
    }
}
