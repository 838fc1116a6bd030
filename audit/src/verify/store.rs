//! The coordinator's blobs: each has the digest of its name, and each model follows from the updates of its round.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use semisam_shared::{
    fold::{FoldError, Folded, add_update, fold, no_momentum},
    ids::{Digest, RoundNumber},
    plan::{Plan, ReleaseSpace},
    release_space::Projection,
    round::ClosedRound,
    weights::{Weights, WeightsError},
};

use super::{Kind, Verdict, VerifyError, folder, journal::JournalBook};

/// The most coordinates for which a momentum of zeros is made only to know its digest.
const COORDINATES_MAX: u64 = 1 << 26;

/// Blobs whose bytes have the digest of their name.
#[derive(Debug, Default)]
pub(super) struct Blobs {
    files: BTreeMap<Digest, PathBuf>,
    stores: Vec<PathBuf>,
}

fn read(path: &Path) -> Result<Vec<u8>, VerifyError> {
    std::fs::read(path).map_err(|source| VerifyError::Read { path: path.to_owned(), source })
}

/// Hashes every blob of every store.
pub(super) fn check(verdict: &mut Verdict, root: &Path, stores: &[PathBuf]) -> Result<Blobs, VerifyError> {
    let mut blobs = Blobs { stores: stores.to_vec(), ..Blobs::default() };
    for store in stores {
        for (shelf, kind) in folder::entries(store)? {
            if !kind.is_dir() {
                verdict.note(format!("`{}` is no blob of the store", folder::relative(root, &shelf)));
                continue;
            }
            for (path, kind) in folder::entries(&shelf)? {
                check_blob(verdict, root, &shelf, path, kind.is_file(), &mut blobs)?;
            }
        }
    }
    Ok(blobs)
}

fn check_blob(
    verdict: &mut Verdict,
    root: &Path,
    shelf: &Path,
    path: PathBuf,
    is_file: bool,
    blobs: &mut Blobs,
) -> Result<(), VerifyError> {
    let file = folder::relative(root, &path);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let named = name.parse::<Digest>().ok().filter(|_| is_file);
    let Some(digest) = named.filter(|_| shelf.file_name().is_some_and(|shelf| shelf == &name[..2])) else {
        verdict.note(format!("`{file}` is no blob of the store"));
        return Ok(());
    };
    let found = Digest::of(&read(&path)?);
    if found == digest {
        blobs.files.insert(digest, path);
    } else {
        verdict.find(&file, None, Kind::Store, format!("its bytes have the digest {found}: the blob was changed"));
    }
    Ok(())
}

impl Blobs {
    fn bytes(&self, digest: Digest) -> Result<Option<Vec<u8>>, VerifyError> {
        self.files.get(&digest).map(|path| read(path)).transpose()
    }

    fn weights(&self, digest: Digest) -> Result<Option<Result<Weights, WeightsError>>, VerifyError> {
        Ok(self.bytes(digest)?.map(|bytes| Weights::from_safetensors(&bytes)))
    }
}

/// What every round of one journal needs.
struct Workshop {
    initial: Weights,
    projection: Projection,
    no_momentum: Weights,
}

/// Computes the models of `journal` again; answers the rounds that came out bit for bit.
pub(super) fn fold_again(
    verdict: &mut Verdict,
    journal: &JournalBook,
    blobs: &Blobs,
) -> Result<Vec<RoundNumber>, VerifyError> {
    let Some(charter) = journal.charter() else { return Ok(vec![]) };
    let (file, plan) = (&journal.log.file, &charter.plan.plan);
    let complete = blobs.stores.iter().any(|store| store.parent() == Some(journal.folder.as_path()));
    if complete {
        for (record, receipt) in journal.accepted().filter(|(_, receipt)| !blobs.files.contains_key(&receipt.payload)) {
            let problem =
                format!("the update {} that was accepted is not in the store, or was changed", receipt.payload);
            verdict.find(file, Some(record), Kind::Store, problem);
        }
    }
    if journal.state.closed.is_empty() {
        return Ok(vec![]);
    }
    let Some(workshop) = prepare(verdict, journal, plan, blobs)? else { return Ok(vec![]) };
    let mut before = Some(Folded { model: workshop.initial.clone(), momentum: workshop.no_momentum.clone() });
    let mut again = Vec::new();
    for (index, round) in journal.state.closed.iter().enumerate() {
        let momentum = index.checked_sub(1).map(|last| journal.state.closed[last].momentum);
        if let (None, Some(momentum)) = (&before, momentum) {
            before = stored(&workshop, blobs, round.model_before, momentum)?;
        }
        let Some(start) = before.take() else {
            verdict.note(format!("round {} was not computed again: the store lacks what it started from", round.round));
            continue;
        };
        let Some(sum) = sum(&workshop, round, blobs)? else {
            verdict.note(format!("round {} was not computed again: the store lacks an update of it", round.round));
            continue;
        };
        let folded =
            sum.and_then(|sum| fold(plan, round.round, &start, &workshop.projection, &sum, round.accepted.len()));
        match folded.and_then(|folded| same(&folded, round).map(|same| (folded, same))) {
            Ok((folded, true)) => {
                again.push(round.round);
                before = Some(folded);
            }
            Ok((_, false)) => {
                let problem = format!("the model of round {} is not the fold of its updates", round.round);
                verdict.find(file, journal.closing(round.round), Kind::Model, problem);
            }
            Err(error) => {
                let problem = format!("round {} cannot be computed again: {error}", round.round);
                verdict.find(file, journal.closing(round.round), Kind::Model, problem);
            }
        }
    }
    Ok(again)
}

/// Loads what the plan names, and holds the foundation against it.
fn prepare(
    verdict: &mut Verdict,
    journal: &JournalBook,
    plan: &Plan,
    blobs: &Blobs,
) -> Result<Option<Workshop>, VerifyError> {
    let file = &journal.log.file;
    let basis_digest = match &plan.privacy.release {
        ReleaseSpace::Basis { basis, .. } => Some(*basis),
        ReleaseSpace::All { .. } | ReleaseSpace::Tensors { .. } => None,
    };
    let lacks = |digest: &Digest| !blobs.files.contains_key(digest);
    if let Some(digest) = [Some(plan.initial_model), basis_digest].into_iter().flatten().find(lacks) {
        verdict
            .note(format!("no model of `{file}` was computed again: blob {digest}, which its plan names, is not here"));
        return Ok(None);
    }
    if plan.privacy.release.coordinates() > COORDINATES_MAX {
        verdict.note(format!("no model of `{file}` was computed again: its plan has too many coordinates"));
        return Ok(None);
    }
    let basis = match basis_digest {
        Some(digest) => blobs.weights(digest)?.transpose(),
        None => Ok(None),
    };
    let workshop = build(plan, blobs.weights(plan.initial_model)?, basis);
    match workshop {
        Ok(workshop) => {
            let founded = journal.log.records.first().map(|record| &record.event);
            let zero = workshop.no_momentum.to_safetensors().map(|bytes| Digest::of(&bytes));
            if let (Some(semisam_shared::round::Event::Founded { momentum, .. }), Ok(zero)) = (founded, zero)
                && *momentum != zero
            {
                verdict.find(file, Some(0), Kind::Model, "the server's momentum before round 1 is not zero");
            }
            Ok(Some(workshop))
        }
        Err(problem) => {
            verdict.find(file, Some(0), Kind::Store, format!("the plan and its blobs do not fit together: {problem}"));
            Ok(None)
        }
    }
}

fn build(
    plan: &Plan,
    initial: Option<Result<Weights, WeightsError>>,
    basis: Result<Option<Weights>, WeightsError>,
) -> Result<Workshop, String> {
    let text = |error: WeightsError| error.to_string();
    let initial = initial.ok_or("the initial model is absent")?.map_err(text)?;
    if initial.architecture() != plan.student.architecture {
        return Err("the initial model has another architecture than the plan says".into());
    }
    let projection =
        Projection::new(&plan.privacy.release, &initial, basis.map_err(text)?).map_err(|error| error.to_string())?;
    let no_momentum = no_momentum(projection.coordinates()).map_err(text)?;
    Ok(Workshop { initial, projection, no_momentum })
}

/// Model and momentum from the store, if they are there and fit.
fn stored(workshop: &Workshop, blobs: &Blobs, model: Digest, momentum: Digest) -> Result<Option<Folded>, VerifyError> {
    let (Some(Ok(model)), Some(Ok(momentum))) = (blobs.weights(model)?, blobs.weights(momentum)?) else {
        return Ok(None);
    };
    let fits =
        workshop.initial.same_architecture(&model).is_ok() && workshop.no_momentum.same_architecture(&momentum).is_ok();
    Ok(fits.then_some(Folded { model, momentum }))
}

/// The sum of a round's updates; none if the store lacks one.
fn sum(
    workshop: &Workshop,
    round: &ClosedRound,
    blobs: &Blobs,
) -> Result<Option<Result<Vec<i64>, FoldError>>, VerifyError> {
    let mut sum = vec![0; workshop.projection.coordinates()];
    for receipt in round.accepted.values() {
        let Some(bytes) = blobs.bytes(receipt.payload)? else { return Ok(None) };
        if let Err(error) = add_update(&mut sum, &bytes) {
            return Ok(Some(Err(error)));
        }
    }
    Ok(Some(Ok(sum)))
}

fn same(folded: &Folded, round: &ClosedRound) -> Result<bool, FoldError> {
    let digest = |weights: &Weights| weights.to_safetensors().map(|bytes| Digest::of(&bytes));
    Ok((digest(&folded.model)?, digest(&folded.momentum)?) == (round.model, round.momentum))
}
