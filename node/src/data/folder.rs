//! A hospital's folder of scans: which file is an image, which label belongs to it, and which patient it shows.
//!
//! Three layouts are read: the plain one (`images/`, `labels/`), nnU-Net raw (`imagesTr/`, `labelsTr/`, `imagesTs/`)
//! and simple BIDS. The patient is the unit of privacy: `patients.csv` says who a scan shows; in BIDS the subject does;
//! otherwise every scan counts as a patient of its own. Whatever is ambiguous is an error that says what to do, and
//! nothing is left out silently.

mod layout;
mod patients;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use self::layout::{Entry, Listing, flat_files};

use crate::data::grid::{Grid, GridMismatch};
use crate::data::nifti::{self, NiftiError};
use crate::data::volume::{Image, LabelMap};

/// Why a folder is refused. Messages name the file and the remedy.
#[derive(Debug, Error)]
pub enum FolderError {
    /// No such folder.
    #[error("there is no folder `{0}`: check the path")]
    Missing(PathBuf),
    /// The folder, or a part of it, cannot be listed or read.
    #[error("cannot read `{path}` ({error}): check that this program may read it")]
    Read {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// None of the layouts.
    #[error(
        "`{0}` has no scans in a known layout: put scans into `images/NAME.nii.gz` and their masks into `labels/NAME.nii.gz` (nnU-Net raw and BIDS are read too)"
    )]
    Layout(PathBuf),
    /// The layout is there, the scans are not.
    #[error("`{0}` holds no .nii or .nii.gz file: put the scans there")]
    Empty(PathBuf),
    /// A label of nothing.
    #[error("the label `{0}` has no image: add the image of the same name, or remove the label")]
    LabelWithoutImage(PathBuf),
    /// Two files of one name.
    #[error("`{first}` and `{second}` are the same scan by name: rename or remove one")]
    Duplicate {
        /// One file.
        first: PathBuf,
        /// The other one.
        second: PathBuf,
    },
    /// A label that fits several images.
    #[error("the label `{label}` fits several images, such as `{image}`: name it after its image, `IMAGE_dseg.nii.gz`")]
    AmbiguousLabel {
        /// The label.
        label: PathBuf,
        /// One of the images.
        image: PathBuf,
    },
    /// More than one channel per case.
    #[error("`{0}` is a second channel: scans of one channel are read, keep the `_0000` files only")]
    Channel(PathBuf),
    /// A row of `patients.csv`.
    #[error("`{path}`, line {line}: {problem}")]
    Patients {
        /// The table.
        path: PathBuf,
        /// 1-based.
        line: usize,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Nothing to learn from.
    #[error("`{0}` has no labelled scan: put at least one mask into its labels folder, under the name of its image")]
    NoLabel(PathBuf),
    /// A scan that cannot be read.
    #[error(transparent)]
    Scan(#[from] NiftiError),
    /// Image and label do not match.
    #[error(
        "the label `{label}` is not on the grid of its image `{image}` ({mismatch}): resample the label to the image"
    )]
    Grid {
        /// The label.
        label: PathBuf,
        /// The image.
        image: PathBuf,
        /// How they differ.
        mismatch: GridMismatch,
    },
}

/// A scan and, where there is one, its label.
#[derive(Clone, PartialEq, Eq)]
pub struct Scan {
    /// Name within the cohort, without folder and extension.
    pub name: String,
    /// The image.
    pub image: PathBuf,
    /// The mask.
    pub label: Option<PathBuf>,
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scan(labelled: {})", self.label.is_some())
    }
}

impl Scan {
    /// Reads the image and its label, and checks that they share a grid.
    pub fn read(&self) -> Result<(Image, Option<LabelMap>), FolderError> {
        let image = nifti::read_image(&self.image)?;
        let Some(label) = &self.label else { return Ok((image, None)) };
        let labels = nifti::read_labels(label)?;
        must_match(&self.image, &(&image).into(), label, &(&labels).into())?;
        Ok((image, Some(labels)))
    }
}

/// Fails where a label is not on the grid of its image.
pub fn must_match(image: &Path, image_grid: &Grid, label: &Path, label_grid: &Grid) -> Result<(), FolderError> {
    image_grid.must_equal(label_grid).map_err(|mismatch| {
        let (image, label) = (image.to_owned(), label.to_owned());
        FolderError::Grid { label, image, mismatch }
    })
}

/// A person: the unit of privacy.
#[derive(Clone, PartialEq, Eq)]
pub struct Patient {
    /// Identifier within the hospital. Never logged, never sent.
    pub id: String,
    /// Scans of this person, by name.
    pub scans: Vec<Scan>,
}

impl fmt::Debug for Patient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Patient({} scans)", self.scans.len())
    }
}

/// All scans of a hospital, by patient, in an order that depends on the names alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cohort {
    /// The folder.
    pub root: PathBuf,
    /// By identifier.
    pub patients: Vec<Patient>,
}

impl Cohort {
    /// Lists a folder. Scans are not opened.
    pub fn open(root: &Path) -> Result<Self, FolderError> {
        let listing = Listing::of(root)?;
        if listing.images.is_empty() {
            return Err(FolderError::Empty(listing.images_folder));
        }
        let mut scans: BTreeMap<String, (Scan, Option<String>)> = BTreeMap::new();
        for Entry { name, path, subject } in &listing.images {
            let scan = Scan { name: name.clone(), image: path.clone(), label: None };
            if let Some((first, _)) = scans.insert(name.clone(), (scan, subject.clone())) {
                return Err(FolderError::Duplicate { first: first.image, second: path.clone() });
            }
        }
        for label in &listing.labels {
            let name = listing.image_of(label)?;
            let Some((scan, _)) = scans.get_mut(&name) else {
                return Err(FolderError::LabelWithoutImage(label.path.clone()));
            };
            if let Some(first) = scan.label.replace(label.path.clone()) {
                return Err(FolderError::Duplicate { first, second: label.path.clone() });
            }
        }
        let table = listing.patients(root)?;
        let mut patients: BTreeMap<String, Vec<Scan>> = BTreeMap::new();
        for (name, (scan, subject)) in scans {
            let id = match table.get(&name) {
                Some(id) => id.clone(),
                None => subject.unwrap_or(name),
            };
            patients.entry(id).or_default().push(scan);
        }
        let patients = patients.into_iter().map(|(id, scans)| Patient { id, scans }).collect();
        Ok(Self { root: root.to_owned(), patients })
    }

    /// Fails where no scan has a label.
    pub fn require_labelled(&self) -> Result<(), FolderError> {
        if self.labelled().next().is_none() { Err(FolderError::NoLabel(self.root.clone())) } else { Ok(()) }
    }

    /// All scans, patient by patient.
    pub fn scans(&self) -> impl Iterator<Item = &Scan> {
        self.patients.iter().flat_map(|patient| &patient.scans)
    }

    /// All scans, patient by patient, with the labels of the first `labels` labelled ones alone: that the others have any is
    /// forgotten here, so that nobody can open them.
    pub fn declared(&self, labels: Option<usize>) -> Vec<Scan> {
        let mut left = labels.unwrap_or(usize::MAX);
        let mut declared = |scan: &Scan| {
            let label = scan.label.clone().filter(|_| left > 0);
            left -= usize::from(label.is_some());
            Scan { label, ..scan.clone() }
        };
        self.scans().map(&mut declared).collect()
    }

    /// Scans with a label, patient by patient.
    pub fn labelled(&self) -> impl Iterator<Item = &Scan> {
        self.scans().filter(|scan| scan.label.is_some())
    }
}
