//! What operators ask: how far the federation is, which models there are, what the plan costs. Read from the journal
//! without its lock, so all of this works while the server runs.

use std::{collections::BTreeMap, path::Path};

use semisam_shared::{
    accounting::Adjacency,
    decimal::Decimal,
    ids::{Digest, PublicKey, RoundNumber, SiteId, UnixMillis},
    plan::{Plan, PlanError, Unit},
    round::{ClosedRound, Due, Event, Federation, Presence},
};
use serde::Serialize;

use crate::{
    disk::{self, DiskError},
    folder::Folder,
    journal::{self, JournalError, Replayed},
    store::{Store, StoreError},
};

/// A question cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The file system.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// No such model.
    #[error("there is no model after round {0}: {1} rounds are closed (`semisam-coordinator model list`)")]
    NoRound(u32, usize),
}

/// Where a federation stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// No round is open: too few sites are there.
    #[serde(rename = "waiting for sites")]
    Waiting,
    /// A round waits for updates.
    Open,
    /// Updates are being summed.
    Folding,
    /// All rounds are done.
    Finished,
}

/// One site, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SiteStatus {
    /// Its number.
    pub site: SiteId,
    /// Its name.
    pub name: String,
    /// `active`, `away` or `revoked`.
    pub presence: &'static str,
    /// In how many rounds its update was accepted, the open one included.
    pub contributed: usize,
    /// Whether the open round has its update.
    pub in_open_round: bool,
}

/// The answer to `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The plan's digest.
    pub plan: Digest,
    /// The plan's name.
    pub name: String,
    /// The round that is open, or the last one that closed.
    pub round: u32,
    /// How many rounds there will be.
    pub rounds: u32,
    /// Where it stands.
    pub state: State,
    /// How many sites must contribute to a round.
    pub quorum: u32,
    /// Who joined.
    pub sites: Vec<SiteStatus>,
    /// The newest model.
    pub model: Digest,
    /// When the open round closes without the slow, in milliseconds since 1970 UTC.
    pub deadline: Option<UnixMillis>,
}

/// One model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelStatus {
    /// The round after which it was published; 0 for the initial model.
    pub round: u32,
    /// Its digest.
    pub model: Digest,
    /// The names of the sites whose updates are in it.
    pub contributors: Vec<String>,
    /// When it was published, in milliseconds since 1970 UTC.
    pub at: UnixMillis,
}

/// What a plan costs each hospital that takes part in all rounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanCost {
    /// Whose presence the noise hides.
    pub unit: Unit,
    /// The delta of both.
    pub delta: Decimal,
    /// A unit's contribution zeroed out.
    pub add_remove: Option<Decimal>,
    /// A unit exchanged for another.
    pub replace_one: Option<Decimal>,
}

/// The answer to `plan`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanStatus {
    /// What data protection officers approve.
    pub digest: Digest,
    /// The consortium's key, which signed it.
    pub key: PublicKey,
    /// The key that signs receipts.
    pub coordinator: PublicKey,
    /// After one round.
    pub one_round: PlanCost,
    /// After all rounds.
    pub epsilon: PlanCost,
    /// The plan.
    pub plan: Plan,
}

/// What a folder's journal says.
#[derive(Debug)]
pub struct Known {
    replayed: Replayed,
    plan: Plan,
    digest: Digest,
}

impl Known {
    /// Reads the journal.
    ///
    /// # Errors
    /// Names the record that is wrong.
    pub fn read(folder: &Folder) -> Result<Self, StatusError> {
        let replayed = journal::read(&folder.journal())?;
        let charter = replayed.federation.charter.as_ref();
        let charter = charter.ok_or_else(|| JournalError::Empty(folder.journal().display().to_string()))?;
        let (plan, digest) = (charter.plan.plan.clone(), charter.digest);
        Ok(Self { replayed, plan, digest })
    }

    /// What the records add up to.
    pub fn federation(&self) -> &Federation {
        &self.replayed.federation
    }

    /// How far it is at `now`.
    pub fn status(&self, now: UnixMillis) -> Status {
        let federation = self.federation();
        let state = match &federation.open {
            _ if federation.finished => State::Finished,
            None => State::Waiting,
            Some(_) if federation.due(now) == Due::Fold => State::Folding,
            Some(_) => State::Open,
        };
        let open = federation.open.as_ref();
        let mut contributed: BTreeMap<SiteId, usize> = BTreeMap::new();
        let closed = federation.closed.iter().map(|closed| &closed.accepted);
        for site in closed.chain(open.map(|open| &open.accepted)).flat_map(|accepted| accepted.keys()) {
            *contributed.entry(*site).or_default() += 1;
        }
        let sites = federation.members.iter().map(|(site, member)| SiteStatus {
            site: *site,
            name: member.name.clone(),
            presence: match member.presence {
                Presence::Active => "active",
                Presence::Away => "away",
                Presence::Revoked => "revoked",
            },
            contributed: contributed.get(site).copied().unwrap_or(0),
            in_open_round: open.is_some_and(|open| open.accepted.contains_key(site)),
        });
        Status {
            plan: self.digest,
            name: self.plan.name.clone(),
            round: open.map_or(federation.closed.len() as u32, |open| open.round.0),
            rounds: self.plan.rounds,
            state,
            quorum: self.plan.quorum,
            sites: sites.collect(),
            model: federation.newest.map_or(self.plan.initial_model, |(model, _)| model),
            deadline: open.map(|open| open.deadline),
        }
    }

    /// Every model, the initial one first.
    pub fn models(&self) -> Vec<ModelStatus> {
        let closed_at = |round: RoundNumber| {
            let is_it = |event: &Event| matches!(event, Event::RoundClosed { round: other, .. } if *other == round);
            self.replayed.records.iter().find(|(_, event)| is_it(event)).map_or(UnixMillis(0), |(at, _)| *at)
        };
        let founded = self.replayed.records.first().map_or(UnixMillis(0), |(at, _)| *at);
        let first = ModelStatus { round: 0, model: self.plan.initial_model, contributors: vec![], at: founded };
        let name = |site: &SiteId| self.federation().members.get(site).map_or("?".into(), |member| member.name.clone());
        let later = self.federation().closed.iter().map(|closed: &ClosedRound| ModelStatus {
            round: closed.round.0,
            model: closed.model,
            contributors: closed.accepted.keys().map(name).collect(),
            at: closed_at(closed.round),
        });
        std::iter::once(first).chain(later).collect()
    }

    /// The plan and what it costs.
    ///
    /// # Errors
    /// Never for a plan that a journal holds.
    pub fn plan(&self) -> Result<PlanStatus, StatusError> {
        let privacy = &self.plan.privacy;
        let cost = |rho: semisam_shared::accounting::Rho| {
            let epsilon = |adjacency| Decimal::rounded_up(rho.epsilon(privacy.delta.get(), adjacency));
            let (add_remove, replace_one) = (epsilon(Adjacency::AddRemove), epsilon(Adjacency::ReplaceOne));
            PlanCost { unit: privacy.unit, delta: privacy.delta, add_remove, replace_one }
        };
        let charter = self.federation().charter.as_ref();
        let charter = charter.ok_or_else(|| JournalError::Empty("the journal".into()))?;
        Ok(PlanStatus {
            digest: self.digest,
            key: charter.plan.key,
            coordinator: charter.coordinator,
            one_round: cost(self.plan.rho_per_round()),
            epsilon: cost(self.plan.rho_in_all()),
            plan: self.plan.clone(),
        })
    }

    /// Copies the model after `round` (the newest, if none is named) to `out`, byte for byte.
    ///
    /// # Errors
    /// If there is none, or it cannot be read whole or written.
    pub fn export(&self, folder: &Folder, round: Option<u32>, out: &Path) -> Result<ModelStatus, StatusError> {
        let models = self.models();
        let newest = models.len() - 1;
        let model = models.get(round.map_or(newest, |round| round as usize));
        let model = model.ok_or(StatusError::NoRound(round.unwrap_or(0), newest))?.clone();
        let bytes = Store::at(&folder.store()).get(model.model)?;
        disk::make_folder(disk::folder_of(out))?;
        disk::write(out, &bytes)?;
        Ok(model)
    }
}
