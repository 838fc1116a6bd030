//! From the accepted updates of a round to the next model, with one update's piece in memory at a time.
//!
//! Integers are summed, so neither the order of sites nor a crash in between changes a bit: folding again gives the same
//! bytes, which the store already has (DESIGN, decision 3). Runs outside the driver's lock.

use std::collections::BTreeMap;

use semisam_shared::{
    fold::{self, FoldError, Folded},
    ids::{Digest, RoundNumber, SiteId},
    plan::{Plan, ReleaseSpace},
    release_space::{Projection, ReleaseSpaceError},
    weights::{Weights, WeightsError},
};

use crate::store::{Store, StoreError};

/// A round cannot be folded.
#[derive(Debug, thiserror::Error)]
pub enum FoldingError {
    /// An update cannot be read.
    #[error(
        "the update of site {site} cannot be read; if no backup has it, `semisam-coordinator revoke {site}` takes it out of the round"
    )]
    Update {
        /// Whose.
        site: SiteId,
        /// Why not.
        #[source]
        source: StoreError,
    },
    /// A blob cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A blob is not what its place demands.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Plan and model do not belong together.
    #[error(transparent)]
    ReleaseSpace(#[from] ReleaseSpaceError),
    /// The numbers cannot be folded.
    #[error(transparent)]
    Fold(#[from] FoldError),
}

/// Everything that a fold depends on.
#[derive(Clone, Debug)]
pub struct FoldJob {
    /// The plan.
    pub plan: Plan,
    /// The round.
    pub round: RoundNumber,
    /// The digest of each accepted update.
    pub updates: BTreeMap<SiteId, Digest>,
    /// The model before.
    pub model: Digest,
    /// The server's momentum before.
    pub momentum: Digest,
}

/// What a fold led to; model and momentum are in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoldDone {
    /// The round.
    pub round: RoundNumber,
    /// Whose updates were summed.
    pub contributors: Vec<SiteId>,
    /// The next model.
    pub model: Digest,
    /// The server's momentum after.
    pub momentum: Digest,
}

impl FoldJob {
    /// Sums the updates, steps, and stores model and momentum.
    ///
    /// # Errors
    /// If a blob cannot be read or written; folding again later does no harm.
    pub fn run(&self, store: &Store) -> Result<FoldDone, FoldingError> {
        let sum = self.sum(store)?;
        let before = Folded {
            model: Weights::from_safetensors(&store.get(self.model)?)?,
            momentum: Weights::from_safetensors(&store.get(self.momentum)?)?,
        };
        let basis = match self.plan.privacy.release {
            ReleaseSpace::Basis { basis, .. } => Some(Weights::from_safetensors(&store.get(basis)?)?),
            ReleaseSpace::All { .. } | ReleaseSpace::Tensors { .. } => None,
        };
        let projection = Projection::new(&self.plan.privacy.release, &before.model, basis)?;
        let after = fold::fold(&self.plan, self.round, &before, &projection, &sum, self.updates.len())?;
        drop((before, projection, sum));
        let momentum = store.put(&after.momentum.to_safetensors()?)?;
        let model = store.put(&after.model.to_safetensors()?)?;
        Ok(FoldDone { round: self.round, contributors: self.updates.keys().copied().collect(), model, momentum })
    }

    fn sum(&self, store: &Store) -> Result<Vec<i64>, FoldingError> {
        let coordinates = self.plan.privacy.release.coordinates() as usize;
        let mut sum = vec![0_i64; coordinates];
        for (site, update) in &self.updates {
            let (mut at, mut outcome) = (0, Ok(()));
            let read = store.read_through(*update, |chunk| {
                let end = (at + chunk.len() / 4).min(coordinates);
                if outcome.is_ok() {
                    outcome = fold::add_update(&mut sum[at..end], chunk);
                }
                at = end;
            });
            read.map_err(|source| FoldingError::Update { site: *site, source })?;
            outcome?;
            if at != coordinates {
                return Err(FoldError::Length { expected: coordinates * 4, found: at * 4 }.into());
            }
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::tests::example_plan;

    #[test]
    fn pieces_add_up_to_the_whole_and_damage_is_named_with_its_site() {
        let folder = tempfile::tempdir().expect("folder");
        let store = Store::open(folder.path()).expect("made");
        let coordinates = (1 << 18) + 3; // more than one piece
        let mut plan = example_plan(1);
        plan.privacy.release = ReleaseSpace::All { coordinates: coordinates as u64 };
        let update = |factor: i64| -> Vec<u8> {
            fold::update_to_bytes(&(0..coordinates as i64).map(|i| i * factor).collect::<Vec<_>>())
        };
        let mut updates = BTreeMap::new();
        for factor in [1, -3, 5] {
            let digest = store.put(&update(factor)).expect("stored");
            updates.insert(SiteId([factor as u8; 32]), digest);
        }
        let job = FoldJob { plan, round: RoundNumber(1), updates, model: Digest::ZERO, momentum: Digest::ZERO };
        let sum = job.sum(&store).expect("summed");
        assert!(sum.iter().enumerate().all(|(index, value)| *value == 3 * index as i64));
        std::fs::write(store.path(job.updates[&SiteId([5; 32])]), update(6)).expect("damaged");
        let error = job.sum(&store).expect_err("damaged").to_string();
        assert!(error.contains(&SiteId([5; 32]).to_string()) && error.contains("revoke"), "{error}");
        let short = store.put(&update(1)[4..]).expect("stored");
        let job = FoldJob { updates: [(SiteId([1; 32]), short)].into(), ..job };
        assert!(matches!(job.sum(&store), Err(FoldingError::Fold(_))));
    }
}
