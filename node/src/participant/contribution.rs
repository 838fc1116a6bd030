//! What a site computes in one round: scans on disk -> prepared patients -> one delta each -> the plan's release space.
//!
//! Scans are prepared once and kept on disk ([`crate::train::scans`]); a patient's are fetched when it is nearly their turn,
//! so that a round takes little memory however many patients there are.
//!
//! Nothing here may cross patients: each patient's seed comes from the plan, the round and that patient's identifier,
//! never from a position in a list or a count.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use semisam_shared::{
    ids::Digest,
    ledger::Query,
    plan::{self, Method, Plan, ReleaseSpace, Scans},
    release_space::{Projection, ReleaseSpaceError},
    weights::{Weights, WeightsError},
};
use sha2::{Digest as _, Sha256};

use crate::{
    data::{
        cache::key::digest_of_file,
        folder::{Cohort, FolderError},
    },
    device::Device,
    generalist::{Generalist, GeneralistError, prompter::Prompting, store::Store},
    model::{VNetConfig, shipped},
    train::{
        TrainError,
        guidance::Guidance,
        patient::{LocalTraining, Patients, PreparedPatient, guided_deltas},
        scans::{ScanSet, Storage},
    },
};

/// A round cannot be computed.
#[derive(Debug, thiserror::Error)]
pub enum ContributionError {
    /// The scans on disk.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Training.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The model or the basis is unreadable.
    #[error("`{}` cannot be read as weights", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: WeightsError,
    },
    /// A file is unreadable.
    #[error("cannot read `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The model is of another architecture than the plan says.
    #[error("the model of this round has another architecture than the plan: it is refused, tell the consortium")]
    Architecture,
    /// Basis and model do not fit.
    #[error(transparent)]
    ReleaseSpace(#[from] ReleaseSpaceError),
    /// Every scan is unusable.
    #[error("no scan in `{}` can be used: `semisam-node data check {}` says why", .0.display(), .0.display())]
    NoUsableScan(PathBuf),
    /// A scan cannot be had any more. Says neither which nor why: that may hold a patient's name.
    #[error(
        "a scan in `{}` that could be used can no longer be read, or has changed: `semisam-node data check {}` names it if it is damaged; then start again", .0.display(), .0.display()
    )]
    ScanLost(PathBuf),
    /// A generalist that the plan asks is not here.
    #[error(
        "the plan asks the generalist {digest}, but no file in `{}` is it: copy the consortium's file there", folder.display()
    )]
    NoGeneralist {
        /// SHA-256 of its file.
        digest: Digest,
        /// Where it should be.
        folder: PathBuf,
    },
    /// A file that should be a generalist.
    #[error(transparent)]
    Generalist(#[from] GeneralistError),
    /// Training panicked.
    #[error("training stopped unexpectedly: {0}")]
    Died(String),
}

/// One patient who can be trained on.
struct Known {
    /// Names the patient's draws; made from the identifier.
    name: Digest,
    /// The positions of the patient's usable scans.
    scans: Vec<usize>,
}

/// The usable scans of a site, as a plan wants them.
struct Prepared {
    scans: ScanSet,
    patients: Vec<Known>,
}

/// The scans of a site and the device to train on. Scans are prepared once and kept.
pub struct Contributor {
    data: PathBuf,
    device: Device,
    storage: Storage,
    prepared: Mutex<Option<(Scans, Arc<Prepared>)>>,
    /// Where checkpoints of generalists are, and their embeddings.
    generalists: Option<(PathBuf, Store)>,
    /// Those that were opened.
    opened: Mutex<Arc<Vec<Generalist>>>,
    /// Whether what these said of scans that are gone was forgotten.
    tidied: AtomicBool,
}

/// The digest of the basis that a plan needs, if it needs one.
pub fn basis_of(plan: &Plan) -> Option<Digest> {
    match &plan.privacy.release {
        ReleaseSpace::Basis { basis, .. } => Some(*basis),
        ReleaseSpace::All { .. } | ReleaseSpace::Tensors { .. } => None,
    }
}

impl Contributor {
    /// A contributor for the scans in `data`.
    pub fn new(data: PathBuf, device: Device, storage: Storage) -> Self {
        Self {
            data,
            device,
            storage,
            prepared: Mutex::new(None),
            generalists: None,
            opened: Mutex::default(),
            tidied: AtomicBool::new(false),
        }
    }

    /// The same, where plans may ask for generalists whose checkpoints are in `folder`.
    pub fn with_generalists(self, folder: PathBuf, store: Store) -> Self {
        Self { generalists: Some((folder, store)), ..self }
    }

    /// Fails where a generalist that the plan names is not here, before hours are spent on a round that needs it.
    ///
    /// # Errors
    /// If no file has its digest, or the one that has is no generalist.
    pub fn require_generalists(&self, plan: &Plan) -> Result<(), ContributionError> {
        self.opened(plan).map(drop)
    }

    /// Those that a plan names, opened once and kept; what they said of scans that are gone is forgotten.
    fn generalists(&self, plan: &Plan, prepared: &Prepared) -> Result<Arc<Vec<Generalist>>, ContributionError> {
        let generalists = self.opened(plan)?;
        if let Some((_, store)) = &self.generalists
            && !self.tidied.swap(true, Ordering::Relaxed)
            && prepared.forget_embeddings(store, &generalists).is_err()
        {
            tracing::warn!("embeddings of scans of an earlier time cannot be removed from the cache");
        }
        Ok(generalists)
    }

    fn opened(&self, plan: &Plan) -> Result<Arc<Vec<Generalist>>, ContributionError> {
        let wanted = plan.training.guidance.as_ref().map_or(&[][..], |guidance| &guidance.generalists);
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if !opened.iter().map(Generalist::digest).eq(wanted.iter().copied()) {
            let files = self.generalists.as_ref().map_or_else(BTreeMap::new, |(folder, _)| checkpoints(folder));
            let open = |digest: &Digest| {
                let folder = || self.generalists.as_ref().map(|(folder, _)| folder.clone()).unwrap_or_default();
                let missing = || ContributionError::NoGeneralist { digest: *digest, folder: folder() };
                let own = shipped::named(*digest).map(Path::new);
                let file = own.or(files.get(digest).map(PathBuf::as_path)).ok_or_else(missing)?;
                let generalist = Generalist::open(file, self.device)?;
                // it may have been exchanged since its digest was computed
                if generalist.digest() == *digest { Ok(generalist) } else { Err(missing()) }
            };
            *opened = Arc::new(wanted.iter().map(open).collect::<Result<_, ContributionError>>()?);
            self.tidied.store(false, Ordering::Relaxed);
        }
        Ok(opened.clone())
    }

    /// Brings all scans to the plan's spacing, once, and returns how many patients there are. A scan that cannot be used
    /// is reported and left out.
    ///
    /// # Errors
    /// If the folder is wrong or no scan can be used.
    pub fn prepare(&self, scans: &Scans) -> Result<usize, ContributionError> {
        Ok(self.prepared(scans)?.patients.len())
    }

    fn prepared(&self, scans: &Scans) -> Result<Arc<Prepared>, ContributionError> {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, prepared)) = prepared.as_ref()
            && known == scans
        {
            return Ok(prepared.clone());
        }
        let found = Prepared::of(&Cohort::open(&self.data)?, scans, self.storage.clone());
        if found.patients.is_empty() {
            return Err(ContributionError::NoUsableScan(self.data.clone()));
        }
        if let Err(error) = found.scans.forget_others() {
            tracing::warn!("prepared scans of an earlier time cannot be removed from the cache: {error}");
        }
        let found = Arc::new(found);
        *prepared = Some((*scans, found.clone()));
        Ok(found)
    }

    /// Each patient's contribution to a round, in the plan's release space.
    ///
    /// # Privacy
    /// Contribution i depends on patient i, the released model, the plan and the round alone.
    ///
    /// # Errors
    /// If model, basis, plan and scans do not fit together.
    pub fn contributions(
        &self,
        plan: &Plan,
        query: Query,
        model: &Path,
        basis: Option<&Path>,
    ) -> Result<Vec<Vec<f64>>, ContributionError> {
        let prepared = self.prepared(&plan.scans)?;
        let model = read_weights(model)?;
        if model.architecture() != plan.student.architecture {
            return Err(ContributionError::Architecture);
        }
        // Even where the plan names it: a network that carries statistics over patients is none of ours.
        VNetConfig::of(&model, Some(network(plan).groups)).map_err(TrainError::from)?;
        let projection = Projection::new(&plan.privacy.release, &model, basis.map(read_weights).transpose()?)?;
        let progress = Progress::new(format!("round {}: trained", query.round), prepared.patients.len());
        let seeds: Vec<u64> = prepared.patients.iter().map(|patient| seed(&query, &patient.name)).collect();
        let generalists = self.generalists(plan, &prepared)?;
        let store = self.generalists.as_ref().map(|(_, store)| store.clone()).unwrap_or_default();
        let fetch = |position| prepared.patient(position, !generalists.is_empty());
        let patients = Patients { seeds: &seeds, fetch: &fetch };
        let how = (&local_training(plan), generalists.as_slice(), &store);
        let finish = |delta: Vec<f32>| {
            progress.step();
            projection.project(&delta)
        };
        guided_deltas(self.device, network(plan), &model, patients, how, finish).map_err(|error| match error {
            // neither says which scan: that may hold a patient's name
            TrainError::Scan(_) | TrainError::Generalist(_) => ContributionError::ScanLost(self.data.clone()),
            error => error.into(),
        })
    }
}

impl Prepared {
    /// The usable scans of a cohort. They are fetched one after another, since a scan as it is stored may be large.
    fn of(cohort: &Cohort, scans: &Scans, storage: Storage) -> Self {
        let set = ScanSet::on_disk(cohort.scans().cloned(), scans.spacing_mm.map(|mm| mm.get()), storage);
        let progress = Progress::new("scans prepared".to_owned(), set.len());
        let mut positions = 0..set.len();
        let mut patients = Vec::new();
        for patient in &cohort.patients {
            let own = positions.by_ref().take(patient.scans.len());
            let usable: Vec<usize> = own.filter(|position| usable(&set, *position, &progress)).collect();
            if !usable.is_empty() {
                patients.push(Known { name: Digest::of(patient.id.as_bytes()), scans: usable });
            }
        }
        Self { scans: set, patients }
    }

    /// Takes the embeddings of scans that are no longer used out of `store`.
    fn forget_embeddings(&self, store: &Store, generalists: &[Generalist]) -> Result<(), GeneralistError> {
        let used = self.patients.iter().flat_map(|patient| &patient.scans);
        let sources = used.map(|scan| self.scans.source(*scan)).collect::<Result<Vec<_>, _>>()?;
        store.keep_only(generalists, &sources)
    }

    /// A patient's scans, also as generalists see them if they are `asked`.
    fn patient(&self, position: usize, asked: bool) -> Result<PreparedPatient, TrainError> {
        let own = &self.patients[position].scans;
        let scans = own.iter().map(|scan| self.scans.get(*scan)).collect::<Result<_, _>>()?;
        let shown = own.iter().filter(|_| asked).map(|scan| self.scans.source(*scan).map(Arc::new));
        Ok(PreparedPatient { scans, sources: shown.collect::<Result<_, _>>()? })
    }
}

/// The files of a folder by their digests; none where it cannot be read.
fn checkpoints(folder: &Path) -> BTreeMap<Digest, PathBuf> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path());
    files.filter(|path| path.is_file()).filter_map(|path| Some((digest_of_file(&path).ok()?, path))).collect()
}

fn usable(set: &ScanSet, position: usize, progress: &Progress) -> bool {
    let found = set.get(position);
    if found.is_err() {
        // No name and no path: logs are shown to others, and file names may hold patients' names.
        tracing::error!("a scan cannot be used and is left out: `semisam-node data check` names it and says why");
    }
    progress.step();
    found.is_ok()
}

/// How far long work is, in quarters, since the number of patients is nobody else's business. Of a few, the number of
/// quarters would tell how many: then only the end is told.
struct Progress {
    what: String,
    done: AtomicUsize,
    all: usize,
}

impl Progress {
    /// Quarters of fewer than this are not told.
    const MANY: usize = 8;

    fn new(what: String, all: usize) -> Self {
        Self { what, done: AtomicUsize::new(0), all }
    }

    fn step(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let quarter = |count: usize| 4 * count / self.all.max(1);
        if quarter(done) > quarter(done - 1) && (self.all >= Self::MANY || done == self.all) {
            tracing::info!("{}: {} %", self.what, 25 * quarter(done));
        }
    }
}

/// The student that a plan describes.
pub fn network(plan: &Plan) -> VNetConfig {
    VNetConfig {
        base_filters: plan.student.base_filters as usize,
        groups: plan.student.groups as usize,
        classes: plan.student.classes as usize,
        in_channels: 1,
    }
}

/// What a plan says of one patient's training.
pub fn local_training(plan: &Plan) -> LocalTraining {
    let training = &plan.training;
    let unlabelled = training.method != Method::Supervised;
    LocalTraining {
        patch: plan.scans.patch,
        local_steps: training.local_steps,
        batch: training.batch,
        learning_rate: training.learning_rate.get(),
        momentum: training.momentum.get(),
        weight_decay: training.weight_decay.get(),
        consistency_weight: if unlabelled { training.consistency_weight.get() } else { 0.0 },
        pseudo_label_threshold: if unlabelled { training.pseudo_label_threshold.get() } else { 1.0 },
        noise: training.noise.get(),
        augment: training.augment,
        certain: training.method.counts_certainty(),
        guidance: training.guidance.as_ref().map(|asked| guidance(training.method, asked)),
    }
}

/// What a plan says of asking generalists. The rest is the method's own.
fn guidance(method: Method, asked: &plan::Guidance) -> Guidance {
    let own = if method == Method::Semisam { Guidance::semisam() } else { Guidance::semisam_plus() };
    Guidance {
        prompting: Prompting { confidence: asked.confidence.get() as f32, ..own.prompting },
        consensus: asked.consensus.get(),
        share: asked.share.get(),
        deference: asked.deference.get(),
        agreement: asked.agreement.get(),
        weight: asked.weight.get(),
        ..own
    }
}

fn seed(query: &Query, patient: &Digest) -> u64 {
    let mut hash = Sha256::new_with_prefix(b"semisam/1 patient seed\0");
    hash.update(query.plan.0);
    hash.update(query.round.0.to_le_bytes());
    hash.update(query.model.0);
    hash.update(patient.0);
    let bytes: [u8; 32] = hash.finalize().into();
    u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]])
}

fn read_weights(path: &Path) -> Result<Weights, ContributionError> {
    let bytes = std::fs::read(path).map_err(|source| ContributionError::File { path: path.into(), source })?;
    Weights::from_safetensors(&bytes).map_err(|source| ContributionError::Weights { path: path.into(), source })
}

#[cfg(test)]
pub(super) mod tests;
