//! A federation in one process, round by round, for measurements: what hospitals compute, release and pay is the node's own
//! code, ledger included, and the next model is the coordinator's own fold. Only wire and programs are left out; a
//! demonstration is a federation with them.

use std::path::{Path, PathBuf};

use semisam_node::{
    participant::contribution::{ContributionError, Contributor},
    privacy::{
        book::{Book, BookError},
        release::{ReleaseError, release},
    },
};
use semisam_shared::{
    clock,
    decimal::Decimal,
    fold::{FoldError, Folded, add_update, fold, no_momentum},
    ids::{Digest, RoundNumber, SiteId},
    ledger::Query,
    plan::{Plan, PlanError, ReleaseSpace, SignedPlan},
    policy::Policy,
    release_space::{Projection, ReleaseSpaceError},
    signing::{SigningError, SigningKey},
    weights::{Weights, WeightsError},
};

use crate::demo::disk::{self, DiskError};

/// A federation cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum FederationError {
    /// A hospital cannot compute.
    #[error(transparent)]
    Contribution(#[from] ContributionError),
    /// A hospital does not release.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// A ledger.
    #[error(transparent)]
    Book(#[from] BookError),
    /// The releases do not make a model.
    #[error(transparent)]
    Fold(#[from] FoldError),
    /// Plan, model and basis do not fit.
    #[error(transparent)]
    ReleaseSpace(#[from] ReleaseSpaceError),
    /// A file of weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A key.
    #[error(transparent)]
    Signing(#[from] SigningError),
    /// The file system said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Which file holds what the plan speaks of.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// The model before round 1.
    pub model: &'a Path,
    /// The basis.
    pub basis: &'a Path,
}

/// A private federation after its last round.
#[derive(Debug)]
pub struct Outcome {
    /// The last model.
    pub model: Weights,
    /// What each hospital's ledger says was spent: epsilon (add/remove) at the plan's delta.
    pub spent: Vec<f64>,
}

/// All rounds of `plan`, with noise: each hospital reserves, clips, noises and commits as a node does, in a ledger of its
/// own below `folder`. `closed` hears of each round when its model is there.
///
/// # Errors
/// If a hospital cannot compute or its ledger forbids a release.
pub fn private(
    plan: &Plan,
    files: Files<'_>,
    hospitals: &[Contributor],
    folder: &Path,
    closed: impl Fn(RoundNumber),
) -> Result<Outcome, FederationError> {
    let key = SigningKey::generate()?;
    let signed = SignedPlan::sign(plan.clone(), &key)?;
    let mut books: Vec<(Book, PathBuf)> = Vec::new();
    for number in 0..hospitals.len() {
        let own = folder.join(format!("hospital-{number}"));
        disk::create_folder(&own)?;
        let (site, name) = (SiteId(Digest::of(&number.to_le_bytes()).0), format!("hospital-{number}"));
        let owner = (site, name.as_str(), "measured");
        let ledger = own.join("ledger.jsonl");
        let mut book = Book::create(&ledger, SigningKey::generate()?, owner, policy(plan), clock::now())?;
        book.approve(signed.clone(), key.public(), "measurement", clock::now())?;
        books.push((book, own.join("payloads")));
    }
    let basis = Weights::from_safetensors(&disk::read(files.basis)?)?;
    let first = first_model(files)?;
    let projection = Projection::new(&plan.privacy.release, &first, Some(basis))?;
    let mut now = Folded { model: first, momentum: no_momentum(projection.coordinates())? };
    let model = folder.join("model.safetensors");
    for round in (1..=plan.rounds).map(RoundNumber) {
        let query = ask(plan, round, &now.model, &model)?;
        let mut sum = vec![0; projection.coordinates()];
        for (hospital, (book, payloads)) in hospitals.iter().zip(&mut books) {
            let contributions = hospital.contributions(plan, query, &model, Some(files.basis))?;
            let sent = release(book, payloads, query, &contributions, clock::now)?;
            add_update(&mut sum, sent.bytes())?;
        }
        now = fold(plan, round, &now, &projection, &sum, hospitals.len())?;
        closed(round);
    }
    let spent = books.iter().map(|(book, _)| policy(plan).epsilon(book.ledger().spent)).collect();
    Ok(Outcome { model: now.model, spent })
}

/// All rounds of `plan` without clipping, noise and subspace: each round the model moves by the mean of what patients
/// changed. What a federation without privacy could reach with the same work. `closed` as in [`private`].
///
/// # Errors
/// If a hospital cannot compute.
pub fn plain(
    plan: &Plan,
    files: Files<'_>,
    hospitals: &[Contributor],
    folder: &Path,
    closed: impl Fn(RoundNumber),
) -> Result<Weights, FederationError> {
    let mut now = first_model(files)?;
    let mut plan = plan.clone();
    plan.privacy.release = ReleaseSpace::All { coordinates: now.count() as u64 };
    disk::create_folder(folder)?;
    let model = folder.join("model.safetensors");
    for round in (1..=plan.rounds).map(RoundNumber) {
        let query = ask(&plan, round, &now, &model)?;
        let (mut sum, mut patients) = (vec![0.0; now.count()], 0_u32);
        for hospital in hospitals {
            for contribution in hospital.contributions(&plan, query, &model, None)? {
                sum.iter_mut().zip(contribution).for_each(|(sum, value)| *sum += value);
                patients += 1;
            }
        }
        let moved = now.to_flat().into_iter().zip(sum);
        let moved: Vec<f32> = moved.map(|(at, sum)| (f64::from(at) + sum / f64::from(patients)) as f32).collect();
        now = now.with_flat(&moved)?;
        closed(round);
    }
    Ok(now)
}

fn first_model(files: Files<'_>) -> Result<Weights, FederationError> {
    Ok(Weights::from_safetensors(&disk::read(files.model)?)?)
}

/// Writes the released model where hospitals read it, and says what they are asked.
fn ask(plan: &Plan, round: RoundNumber, model: &Weights, path: &Path) -> Result<Query, FederationError> {
    let bytes = model.to_safetensors()?;
    disk::write(path, &bytes)?;
    Ok(Query { plan: plan.digest()?, round, model: Digest::of(&bytes) })
}

/// The policy of a hospital that takes part in whatever is measured.
fn policy(plan: &Plan) -> Policy {
    let number = |value| Decimal::new(value).expect("finite");
    Policy {
        epsilon_max: number(1e6),
        delta: plan.privacy.delta,
        noise_multiplier_min: number(1e-6),
        patients_min: 1,
        rounds_max: u32::MAX,
        architectures: Vec::new(),
    }
}
