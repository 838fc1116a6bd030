//! How a federation begins: keys, certificates, the signed plan, the first blobs, and the FOUNDED record.
//!
//! Everything is made in a folder beside the final one, which gets its name at the end: a founding that was interrupted
//! leaves no half federation.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use semisam_shared::{
    fold,
    ids::{Digest, PublicKey, UnixMillis},
    issue::{self, IssueError, Role},
    plan::{Plan, PlanError, SignedPlan},
    round::Event,
    signing::{SigningError, SigningKey},
    weights::{Weights, WeightsError},
};

use crate::{
    config::{self, Config, ConfigError},
    disk::{self, DiskError},
    draft::{Draft, DraftError},
    folder::Folder,
    journal::{Journal, JournalError},
    store::{Store, StoreError},
};

/// How long the consortium's authority lives, in days.
const AUTHORITY_DAYS: u32 = 3650;
/// How long the coordinator's certificate lives, in days.
const COORDINATOR_DAYS: u32 = 730;

/// A federation cannot be founded.
#[derive(Debug, thiserror::Error)]
pub enum FoundError {
    /// There is something already.
    #[error("`{}` exists already, and a federation is never overwritten: choose another folder", .0.display())]
    Exists(PathBuf),
    /// Nobody could find the coordinator by an unspecified address.
    #[error("the coordinator listens on every address of this machine: say with `--name` how hospitals will call it")]
    NoName,
    /// The plan's file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The plan and its files.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// The plan itself.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A file of weights.
    #[error("`{}`: {source}", path.display())]
    Weights {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: WeightsError,
    },
    /// A certificate or key.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// A signing key.
    #[error(transparent)]
    Signing(#[from] SigningError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The file system.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The plan cannot be written.
    #[error("the plan cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// What a federation is founded on.
#[derive(Clone, Debug)]
pub struct Founding {
    /// The draft of the plan.
    pub plan: PathBuf,
    /// The model before round 1.
    pub model: PathBuf,
    /// The basis of the release space, if that is one.
    pub basis: Option<PathBuf>,
    /// Where the coordinator will listen.
    pub listen: SocketAddr,
    /// DNS names and addresses by which hospitals call it; if empty, this machine's own.
    pub names: Vec<String>,
}

/// What was founded.
#[derive(Clone, Debug)]
pub struct Founded {
    /// The plan.
    pub plan: Plan,
    /// Its digest: what data protection officers approve.
    pub digest: Digest,
    /// The key that signs journal and receipts.
    pub coordinator: PublicKey,
    /// The consortium's key, which signs plans.
    pub consortium: PublicKey,
    /// The names in the coordinator's certificate.
    pub names: Vec<String>,
}

/// Founds a federation in `root`, which must not exist.
///
/// # Errors
/// If a file is not what it should be, or `root` exists; nothing is left behind then.
pub fn found(root: &Path, founding: &Founding, now: UnixMillis) -> Result<Founded, FoundError> {
    if root.exists() {
        return Err(FoundError::Exists(root.to_owned()));
    }
    let parent = disk::folder_of(root);
    disk::make_folder(parent)?;
    let name = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let half = parent.join(format!(".{name}.half-{}", std::process::id()));
    let founded = build(&Folder::new(&half), founding, now).and_then(|founded| {
        disk::rename(&half, root)?;
        Ok(founded)
    });
    if founded.is_err() && half.exists() {
        fs::remove_dir_all(&half).map_err(DiskError::at("remove", &half))?;
    }
    founded
}

fn build(folder: &Folder, founding: &Founding, now: UnixMillis) -> Result<Founded, FoundError> {
    let draft: Draft = config::read_toml(&founding.plan)?;
    let (model_bytes, model) = read_weights(&founding.model)?;
    let basis = founding.basis.as_deref().map(read_weights).transpose()?;
    let with_digest = basis.as_ref().map(|(bytes, weights)| (weights, Digest::of(bytes)));
    let plan = draft.complete((&model, Digest::of(&model_bytes)), with_digest)?;
    let names = names(founding)?;
    for path in [folder.root(), &folder.sites(), &folder.root().join("consortium"), &folder.root().join("tls")] {
        disk::make_folder(path)?;
    }
    let (consortium, coordinator) = (SigningKey::generate()?, SigningKey::generate()?);
    issue::write_private(&folder.plan_key(), &consortium.to_hex())?;
    issue::write_private(&folder.signing_key(), &coordinator.to_hex())?;
    certify(folder, &plan.name, &names, now)?;
    let signed = SignedPlan::sign(plan.clone(), &consortium)?;
    disk::write(&folder.plan(), &serde_json::to_vec_pretty(&signed)?)?;
    disk::write(&folder.config(), Config { listen: founding.listen }.to_text().as_bytes())?;
    begin(folder, signed, &model_bytes, basis.as_ref().map(|(bytes, _)| bytes.as_slice()), &coordinator, now)?;
    let digest = plan.digest()?;
    Ok(Founded { plan, digest, coordinator: coordinator.public(), consortium: consortium.public(), names })
}

/// Stores the first blobs and writes the first record.
pub(crate) fn begin(
    folder: &Folder,
    plan: SignedPlan,
    model: &[u8],
    basis: Option<&[u8]>,
    coordinator: &SigningKey,
    now: UnixMillis,
) -> Result<(), FoundError> {
    let store = Store::open(&folder.store())?;
    store.put(model)?;
    basis.map(|basis| store.put(basis)).transpose()?;
    let coordinates = usize::try_from(plan.plan.privacy.release.coordinates()).unwrap_or(usize::MAX);
    let weights = |source| FoundError::Weights { path: "momentum".into(), source };
    let momentum = fold::no_momentum(coordinates).and_then(|momentum| momentum.to_safetensors()).map_err(weights)?;
    let momentum = store.put(&momentum)?;
    let founded = Event::Founded { plan: Box::new(plan), coordinator: coordinator.public(), momentum };
    Ok(Journal::found(&folder.journal(), coordinator, now, founded)?)
}

fn read_weights(path: &Path) -> Result<(Vec<u8>, Weights), FoundError> {
    let bytes = fs::read(path).map_err(DiskError::at("read", path))?;
    let weights = Weights::from_safetensors(&bytes);
    let weights = weights.map_err(|source| FoundError::Weights { path: path.to_owned(), source })?;
    Ok((bytes, weights))
}

fn names(founding: &Founding) -> Result<Vec<String>, FoundError> {
    if !founding.names.is_empty() {
        return Ok(founding.names.clone());
    }
    let address: IpAddr = founding.listen.ip();
    if address.is_unspecified() {
        return Err(FoundError::NoName);
    }
    let mut names = vec![address.to_string()];
    if address.is_loopback() {
        names.push("localhost".to_owned());
    }
    Ok(names)
}

/// Makes the authority and the coordinator's certificate.
fn certify(folder: &Folder, plan: &str, names: &[String], now: UnixMillis) -> Result<(), FoundError> {
    let allowed = |c: char| if c.is_alphanumeric() || " .-_".contains(c) { c } else { '-' };
    let name: String = plan.chars().map(allowed).take(40).collect();
    let authority = issue::new_authority(&format!("{} consortium", name.trim()), AUTHORITY_DAYS, now)?;
    let (certificate, key) = (&authority.certificate_pem, &authority.key_pem);
    let request = issue::new_request("coordinator")?;
    let role = Role::Coordinator { names: names.to_vec() };
    let own = issue::sign_request(certificate, key, &request.csr_pem, &role, COORDINATOR_DAYS, now)?;
    let files = folder.tls_files();
    issue::write_private(&folder.authority_key(), key)?;
    issue::write_private(&files.key, &request.key_pem)?;
    disk::write(&files.authority, certificate.as_bytes())?;
    disk::write(&files.certificate, own.as_bytes())?;
    Ok(())
}
