//! What the coordinator tells its operator: once per round and site, never a number that is private.

use std::{
    error::Error,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use semisam_shared::{
    causes,
    chain::Head,
    ids::{SiteId, UnixMillis},
    receipt::Receipt,
    round::{Event, Federation, Presence, Rejection},
};

/// How often the same trouble with the disk is repeated in the log.
const REPEAT: Duration = Duration::from_secs(60);

/// An error and its causes in one line.
pub(crate) fn whole(error: &dyn Error) -> String {
    causes::in_words(error).join(": ")
}

/// Logs trouble with the disk, and says what the peer is told.
pub(crate) fn storage(what: &str, error: &dyn Error) -> Rejection {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.is_none_or(|at| at.elapsed() > REPEAT) {
        *last = Some(Instant::now());
        tracing::error!(
            "{what}: {}; sites are asked to try again, everything acknowledged is safe: free some space or repair the disk, \
             no restart is needed",
            whole(error)
        );
    }
    Rejection::Storage
}

/// A hello.
pub(crate) fn greeted(site: SiteId, name: &str, software: &str, ledger: Head, seen: Head) {
    let software: String = software.chars().take(64).flat_map(char::escape_debug).collect();
    tracing::debug!(site = %site.short(), "`{name}` says hello with {software}");
    let forked = ledger.length == seen.length && ledger.hash != seen.hash;
    if ledger.length < seen.length || forked {
        tracing::warn!(
            site = %site.short(),
            "`{name}` shows an older copy of its ledger (record {}) than this coordinator has seen (record {}): it must \
             restore the newest one, its updates are refused until then",
            ledger.length,
            seen.length
        );
    }
}

/// An update was taken in.
pub(crate) fn accepted(receipt: &Receipt, name: &str) {
    let (round, bytes, site) = (receipt.round.0, receipt.bytes, receipt.site.short());
    tracing::info!(round, bytes, %site, "update of `{name}` accepted");
}

/// A site was refused something.
pub(crate) fn refused(site: SiteId, name: &str, rejection: &Rejection) {
    tracing::warn!(site = %site.short(), number = rejection.number(), "refused `{name}`: {rejection}");
}

/// An event is in the journal.
pub(crate) fn happened(
    federation: &Federation,
    event: &Event,
    now: UnixMillis,
    members_before: usize,
    opened: Option<UnixMillis>,
) {
    let name = |site: &SiteId| federation.members.get(site).map_or("?", |member| member.name.as_str()).to_owned();
    match event {
        Event::SiteJoined { site, name, .. } => {
            tracing::info!(site = %site.short(), sites = members_before + 1, "`{name}` joined");
        }
        Event::SiteReturned { site } => {
            tracing::info!(site = %site.short(), "`{}` takes part, rounds wait for it", name(site));
        }
        Event::SiteRevoked { site } => tracing::warn!(site = %site.short(), "`{}` is excluded", name(site)),
        Event::RoundOpened { round, model, deadline } => {
            let waits = federation.members.values().filter(|member| member.presence == Presence::Active).count();
            tracing::info!(round = round.0, model = %model.short(), "round {round} opened for {waits} sites until {deadline}");
        }
        Event::DeadlineMoved { round, deadline } => {
            let have = federation.open.as_ref().map_or(0, |open| open.accepted.len());
            let quorum = federation.charter.as_ref().map_or(0, |charter| charter.plan.plan.quorum);
            tracing::warn!(
                round = round.0,
                "round {round} has {have} of {quorum} updates: its deadline moves to {deadline}"
            );
        }
        Event::RoundClosed { round, contributors, model, .. } => {
            let seconds = opened.map_or(0, |at| now.0.saturating_sub(at.0) / 1000);
            let members = federation.members.values().filter(|member| member.presence != Presence::Revoked).count();
            let away = federation.members.values().filter(|member| member.presence == Presence::Away);
            let away: Vec<&str> = away.map(|member| member.name.as_str()).collect();
            let away = (!away.is_empty()).then(|| away.join(", "));
            tracing::info!(round = round.0, model = %model.short(), seconds, away,
                "round {round} closed: {} of {members} sites contributed", contributors.len());
        }
        Event::Finished { model } => tracing::info!(model = %model.short(), "all rounds are done"),
        Event::Founded { .. } | Event::LedgerShown { .. } | Event::UpdateAccepted { .. } => {}
    }
}
