//! The coordinator's journal: chain, signatures and the rules of rounds; and the plan that lies beside it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use semisam_shared::{
    chain::Head,
    ids::{Digest, PublicKey, RoundNumber, SiteId},
    plan::SignedPlan,
    receipt::Receipt,
    round::{Charter, Event, Federation},
    signing::Domain,
};

use super::{Kind, Verdict, VerifyError, folder, log::Log};

/// A journal that was replayed.
#[derive(Debug)]
pub(crate) struct JournalBook {
    pub(crate) log: Log<Event>,
    pub(crate) state: Federation,
    pub(crate) folder: PathBuf,
    opened: BTreeMap<RoundNumber, Digest>,
}

fn coordinator_key(event: &Event) -> Option<PublicKey> {
    match event {
        Event::Founded { coordinator, .. } => Some(*coordinator),
        _ => None,
    }
}

/// Checks the journal at `path` by itself.
pub(super) fn check(verdict: &mut Verdict, root: &Path, path: &Path) -> Result<JournalBook, VerifyError> {
    let log = Log::read(verdict, root, path, Domain::Journal, "FOUNDED", coordinator_key)?;
    let (mut state, mut opened) = (Federation::default(), BTreeMap::new());
    for record in &log.records {
        if let Err(rejection) = state.permits(&record.event) {
            verdict.find(&log.file, Some(record.seq), Kind::Order, rejection.to_string());
        }
        if let Event::RoundOpened { round, model, .. } = &record.event {
            opened.entry(*round).or_insert(*model);
        }
        state.evolve(&record.event);
    }
    Ok(JournalBook { log, state, folder: path.parent().unwrap_or(root).to_owned(), opened })
}

impl JournalBook {
    /// What was founded, if there is a first record.
    pub(crate) fn charter(&self) -> Option<&Charter> {
        self.state.charter.as_ref()
    }

    /// Under whose keys it stands.
    pub(super) fn federation(&self) -> Option<super::Federation> {
        let charter = self.charter()?;
        let (name, consortium) = (charter.plan.plan.name.clone(), charter.plan.key);
        Some(super::Federation { name, plan: charter.digest, consortium, coordinator: charter.coordinator })
    }

    /// Every update that was accepted, with its record number.
    pub(crate) fn accepted(&self) -> impl Iterator<Item = (u64, &Receipt)> {
        self.log.records.iter().filter_map(|record| match &record.event {
            Event::UpdateAccepted { receipt } => Some((record.seq, receipt)),
            _ => None,
        })
    }

    /// Every head of a ledger that came with an update, with its record number.
    pub(super) fn shown(&self) -> impl Iterator<Item = (u64, SiteId, Head)> {
        self.log.records.iter().filter_map(|record| match &record.event {
            Event::LedgerShown { site, ledger } => Some((record.seq, *site, *ledger)),
            _ => None,
        })
    }

    /// The model from which everybody started in `round`, if the round was opened.
    pub(super) fn opened(&self, round: RoundNumber) -> Option<Digest> {
        self.opened.get(&round).copied()
    }

    /// The record that closed `round`.
    pub(crate) fn closing(&self, round: RoundNumber) -> Option<u64> {
        let closes = |event: &Event| matches!(event, Event::RoundClosed { round: number, .. } if *number == round);
        self.log.records.iter().find(|record| closes(&record.event)).map(|record| record.seq)
    }
}

/// Checks a `plan.json`: signed, and the one that the journal beside it was founded on.
pub(super) fn check_plan(
    verdict: &mut Verdict,
    root: &Path,
    path: &Path,
    journals: &[JournalBook],
) -> Result<(), VerifyError> {
    let bytes = std::fs::read(path).map_err(|source| VerifyError::Read { path: path.to_owned(), source })?;
    let file = folder::relative(root, path);
    let beside = journals.iter().find(|journal| Some(journal.folder.as_path()) == path.parent());
    let plan: SignedPlan = match serde_json::from_slice(&bytes) {
        Ok(plan) => plan,
        // Any program may call a file `plan.json`; the one beside a journal is ours.
        Err(error) => {
            match beside {
                Some(_) => verdict.find(&file, None, Kind::Plan, format!("it is not a signed plan: {error}")),
                None => verdict.note(format!("`{file}` is not a signed plan and lies beside no journal: not checked")),
            }
            return Ok(());
        }
    };
    if let Err(error) = plan.verify(plan.key) {
        verdict.find(&file, None, Kind::Plan, error.to_string());
    }
    if let Some(charter) = beside.and_then(JournalBook::charter)
        && charter.plan != plan
    {
        verdict.find(
            &file,
            None,
            Kind::Plan,
            format!("it is not plan {} on which the journal was founded", charter.digest),
        );
    }
    Ok(())
}
