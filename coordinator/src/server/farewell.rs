//! When a coordinator that was started with `--until-done` may go: every active site knows that all rounds are done and
//! has had its chance to fetch the last model.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use semisam_shared::ids::{Digest, SiteId};

use super::{Heard, Shared};
use crate::driver::End;

/// How long sites that do not ask are waited for.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(200);

/// What a site knows of the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// How often it was told that all is done.
    told: u32,
    /// The newest blob that it has to the end.
    has: Option<Digest>,
    /// It has left after it was told.
    left: bool,
}

/// What the sites know of the end.
#[derive(Debug, Default)]
pub(super) struct Farewell {
    known: HashMap<SiteId, Known>,
}

impl Farewell {
    /// Takes note of what `site` did.
    pub(super) fn note(&mut self, site: SiteId, heard: Heard) {
        let known = self.known.entry(site).or_default();
        match heard {
            Heard::Done => known.told += 1,
            Heard::Blob(blob) => known.has = Some(blob),
            Heard::Gone => known.left |= known.told > 0,
        }
    }

    fn all_know(&self, end: &End) -> bool {
        let knows = |known: &Known| known.has == Some(end.model) || known.left || known.told > 1;
        end.active.iter().all(|site| self.known.get(site).is_some_and(knows))
    }
}

impl Shared {
    /// Takes note of what `site` did.
    pub(super) fn note(&self, site: SiteId, heard: Heard) {
        self.farewell.lock().unwrap_or_else(PoisonError::into_inner).note(site, heard);
    }
}

/// Returns once every active site knows the end, or patience is over; never if nobody waits for that.
pub(super) async fn everybody_knows(shared: Arc<Shared>, until_done: bool) {
    if !until_done {
        return std::future::pending().await;
    }
    let mut waited = Duration::ZERO;
    loop {
        if let Some(end) = shared.with(|driver, _| driver.end()).await {
            let all_know = shared.farewell.lock().unwrap_or_else(PoisonError::into_inner).all_know(&end);
            if all_know || waited >= PATIENCE {
                return;
            }
            waited += LOOK;
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_content_with_the_last_model_or_by_asking_twice_or_by_leaving() {
        let sites = [1, 2, 3].map(|n| SiteId([n; 32]));
        let end = End { model: Digest::of(b"last"), active: sites.into() };
        let mut farewell = Farewell::default();
        farewell.note(sites[0], Heard::Gone);
        farewell.note(sites[0], Heard::Blob(Digest::of(b"first")));
        assert!(!farewell.all_know(&end));
        farewell.note(sites[0], Heard::Blob(end.model));
        for _ in 0..2 {
            farewell.note(sites[1], Heard::Done);
        }
        farewell.note(sites[2], Heard::Done);
        assert!(!farewell.all_know(&end));
        farewell.note(sites[2], Heard::Gone);
        assert!(farewell.all_know(&end));
    }
}
