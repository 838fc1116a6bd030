//! What a site computes in one round: scans on disk -> prepared patients -> one delta each -> the plan's release space.
//!
//! Nothing here may cross patients: each patient's seed comes from the plan, the round and that patient's identifier,
//! never from a position in a list or a count.

use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use semisam_shared::{
    ids::Digest,
    ledger::Query,
    plan::{Method, Plan, ReleaseSpace, Scans},
    release_space::{Projection, ReleaseSpaceError},
    weights::{Weights, WeightsError},
};
use sha2::{Digest as _, Sha256};

use crate::{
    data::{
        folder::{Cohort, FolderError, Patient, Scan},
        resample::ResampleError,
    },
    device::Device,
    model::VNetConfig,
    train::{
        TrainError,
        crops::PreparedScan,
        patient::{LocalTraining, PreparedPatient, patient_deltas},
        prepare::prepare,
    },
};

/// A round cannot be computed.
#[derive(Debug, thiserror::Error)]
pub enum ContributionError {
    /// The scans on disk.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A scan cannot be brought to the plan's spacing.
    #[error("scan `{}` cannot be resampled", path.display())]
    Resample {
        /// The scan.
        path: PathBuf,
        /// Why not.
        #[source]
        source: ResampleError,
    },
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
    /// Training panicked.
    #[error("training stopped unexpectedly: {0}")]
    Died(String),
}

/// One patient, ready to train on.
struct Prepared {
    /// Names the patient's draws; made from the identifier.
    name: Digest,
    patient: PreparedPatient,
}

/// The scans of a site and the device to train on. Scans are prepared once and kept.
pub struct Contributor {
    data: PathBuf,
    device: Device,
    prepared: Mutex<Option<(Scans, Vec<Prepared>)>>,
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
    pub fn new(data: PathBuf, device: Device) -> Self {
        Self { data, device, prepared: Mutex::new(None) }
    }

    /// Brings all scans to the plan's spacing, once, and returns how many patients there are. A scan that cannot be used
    /// is reported and left out.
    ///
    /// # Errors
    /// If the folder is wrong or no scan can be used.
    pub fn prepare(&self, scans: &Scans) -> Result<usize, ContributionError> {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, patients)) = prepared.as_ref()
            && known == scans
        {
            return Ok(patients.len());
        }
        let cohort = Cohort::open(&self.data)?;
        let patients: Vec<Prepared> =
            cohort.patients.iter().filter_map(|patient| prepare_patient(patient, scans)).collect();
        if patients.is_empty() {
            return Err(ContributionError::NoUsableScan(self.data.clone()));
        }
        let count = patients.len();
        *prepared = Some((*scans, patients));
        Ok(count)
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
        self.prepare(&plan.scans)?;
        let model = read_weights(model)?;
        if model.architecture() != plan.student.architecture {
            return Err(ContributionError::Architecture);
        }
        let projection = Projection::new(&plan.privacy.release, &model, basis.map(read_weights).transpose()?)?;
        let prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        let patients = prepared.as_ref().map_or(&[][..], |(_, patients)| patients);
        let seeded: Vec<_> =
            patients.iter().map(|prepared| (&prepared.patient, seed(&query, &prepared.name))).collect();
        let (done, all) = (AtomicUsize::new(0), seeded.len());
        let progress = || {
            // In quarters, since the number of patients is nobody else's business.
            let before = done.fetch_add(1, Ordering::Relaxed);
            let quarter = |count: usize| 4 * count / all.max(1);
            if quarter(before + 1) > quarter(before) {
                tracing::info!("round {}: {} % trained", query.round, 25 * quarter(before + 1));
            }
        };
        let deltas = patient_deltas(self.device, network(plan), &model, &seeded, &local_training(plan), progress)?;
        Ok(deltas.iter().map(|delta| projection.project(delta)).collect())
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
    let unlabelled = training.method == Method::MeanTeacher;
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

/// A patient with all usable scans; none if there is no such scan.
fn prepare_patient(patient: &Patient, scans: &Scans) -> Option<Prepared> {
    let usable = patient.scans.iter().filter_map(|scan| {
        let spacing = scans.spacing_mm.map(|mm| mm.get());
        match prepare_scan(scan, spacing) {
            Ok(prepared) => Some(prepared),
            Err(_) => {
                // No name and no path: logs are shown to others, and file names may hold patients' names.
                tracing::error!(
                    "a scan cannot be used and is left out: `semisam-node data check` names it and says why"
                );
                None
            }
        }
    });
    let patient_scans: Vec<PreparedScan> = usable.collect();
    let name = Digest::of(patient.id.as_bytes());
    if patient_scans.is_empty() {
        return None;
    }
    Some(Prepared { name, patient: PreparedPatient { scans: patient_scans } })
}

/// A scan from disk at `spacing` millimetres, normalised, with its label where it has one.
///
/// # Errors
/// If a file cannot be read or resampled, or image and label differ in their grids.
fn prepare_scan(scan: &Scan, spacing: [f64; 3]) -> Result<PreparedScan, ContributionError> {
    let (image, labels) = scan.read()?;
    prepare(&image, labels.as_ref(), spacing)
        .map_err(|source| ContributionError::Resample { path: scan.image.clone(), source })
}

fn read_weights(path: &Path) -> Result<Weights, ContributionError> {
    let bytes = std::fs::read(path).map_err(|source| ContributionError::File { path: path.into(), source })?;
    Weights::from_safetensors(&bytes).map_err(|source| ContributionError::Weights { path: path.into(), source })
}
