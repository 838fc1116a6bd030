//! A synthetic hospital on disk, in the layout that [`crate::data::folder`] reads.

use std::io;
use std::path::{Path, PathBuf};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use thiserror::Error;

use super::{Style, synth_visit};
use crate::data::nifti::{WriteError, write_image, write_labels};

/// How many of the patients come twice.
const SECOND_VISIT: f64 = 0.35;

/// Why a synthetic hospital was not written.
#[derive(Debug, Error)]
pub enum SynthError {
    /// A cohort without patients, a scan without voxels.
    #[error(
        "a synthetic cohort needs at least one patient, and at least 8 voxels and a positive spacing along each axis: correct the numbers"
    )]
    Spec,
    /// The folder holds scans already: nothing is overwritten or mixed.
    #[error("`{0}` is not empty: name a new folder, or remove it first")]
    NotEmpty(PathBuf),
    /// Full disk, missing permission.
    #[error("cannot write `{path}` ({error}): check that it may be written to and that the disk is not full")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A scan could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// A synthetic hospital.
#[derive(Debug, Clone, PartialEq)]
pub struct SynthSpec {
    /// How its scans look.
    pub style: Style,
    /// Extents of each scan.
    pub shape: [usize; 3],
    /// Millimetres between neighbouring voxels.
    pub spacing_mm: [f64; 3],
    /// How many patients there are; some have two scans.
    pub patients: usize,
    /// How many of them have labels, for all their scans.
    pub labelled_patients: usize,
    /// Of anatomy and acquisition.
    pub seed: u64,
}

/// Writes `images/`, `labels/` and `patients.csv` to a folder that is new or empty. Returns how many scans there are.
pub fn write_cohort(spec: &SynthSpec, root: &Path) -> Result<usize, SynthError> {
    let sound = spec.patients > 0
        && spec.shape.iter().all(|&extent| extent >= 8)
        && spec.spacing_mm.iter().all(|&spacing| spacing.is_finite() && spacing > 0.0);
    if !sound {
        return Err(SynthError::Spec);
    }
    if std::fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(SynthError::NotEmpty(root.to_owned()));
    }
    for folder in ["images", "labels"] {
        let path = root.join(folder);
        std::fs::create_dir_all(&path).map_err(|error| SynthError::Io { path, error })?;
    }
    let visits = visits(spec);
    visits.par_iter().try_for_each(|visit| {
        let (image, labels) = synth_visit(&spec.style, spec.shape, spec.spacing_mm, visit.person, visit.number);
        let file = format!("{}.nii.gz", visit.name);
        write_image(&root.join("images").join(&file), &image)?;
        if visit.labelled { write_labels(&root.join("labels").join(&file), &labels) } else { Ok(()) }
    })?;
    let rows: String = visits.iter().map(|visit| format!("{},{}\n", visit.name, visit.patient)).collect();
    let path = root.join("patients.csv");
    std::fs::write(&path, format!("name,patient\n{rows}")).map_err(|error| SynthError::Io { path, error })?;
    Ok(visits.len())
}

struct Visit {
    name: String,
    patient: String,
    person: u64,
    number: u64,
    labelled: bool,
}

fn visits(spec: &SynthSpec) -> Vec<Visit> {
    let mut rng = ChaCha8Rng::seed_from_u64(spec.seed);
    let mut visits = Vec::new();
    for index in 0..spec.patients {
        let person = rng.random();
        // The second patient always comes twice, so that each cohort of two or more has both kinds.
        let twice = rng.random_bool(SECOND_VISIT) || index == 1;
        for number in 0..=u64::from(twice) {
            let patient = format!("p{index:03}");
            let name = format!("{patient}_v{}", number + 1);
            visits.push(Visit { name, patient, person, number, labelled: index < spec.labelled_patients });
        }
    }
    visits
}
