//! The scans that a run is trained on, however many there are: prepared once, kept on disk ([`crate::data::cache`]), and
//! as many as have room in memory too.
//!
//! A scan is fetched when it is needed: from memory, else from the cache, else from its own files. Which of these it was
//! makes no difference to a single bit. A scan that changes while it is trained on is an error: a run is a function of its
//! scans. Of a scan that the caller gives no label, no label is ever opened.

mod disk;
mod held;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use self::disk::OnDisk;
use super::{TrainError, crops::PreparedScan};
use crate::data::{
    cache::Cache,
    classes::{ClassMap, Unnamed},
    folder::{FolderError, Scan},
    resample::ResampleError,
};

/// Why a scan cannot be trained on. Messages name its file.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// Its image or label cannot be read, or they do not belong together.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Its bytes cannot be read.
    #[error("cannot read scan `{path}`; check the path and that this program may read it")]
    Digest {
        /// The image or the label.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It cannot be brought to the spacing.
    #[error("`{path}`: {source}")]
    Resample {
        /// The image.
        path: PathBuf,
        /// Why not.
        #[source]
        source: ResampleError,
    },
    /// A value of its label that has no class.
    #[error("the label `{path}`: {unnamed}")]
    Unnamed {
        /// The label.
        path: PathBuf,
        /// Which value.
        unnamed: Unnamed,
    },
    /// It is another one than at the start.
    #[error(
        "`{path}` or its label has changed since it was first read; leave scans alone while they are trained on, and start again"
    )]
    Changed {
        /// The image.
        path: PathBuf,
    },
    /// It does not fit the student.
    #[error("`{path}`: {source}")]
    Unfit {
        /// The image, or its label.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<TrainError>,
    },
}

/// Where prepared scans are kept.
#[derive(Clone, Debug)]
pub struct Storage {
    /// On disk, if they are.
    pub cache: Option<Arc<Cache>>,
    /// In memory, at most this many bytes.
    pub memory_bytes: u64,
}

/// Scans by position.
pub struct ScanSet(Source);

enum Source {
    Memory(Vec<Arc<PreparedScan>>),
    Disk(OnDisk),
}

impl ScanSet {
    /// Scans that are in memory, and stay.
    pub fn in_memory(scans: impl IntoIterator<Item = PreparedScan>) -> Self {
        Self(Source::Memory(scans.into_iter().map(Arc::new).collect()))
    }

    /// Scans on disk, at `spacing_mm`, whose labels hold classes. Nothing is opened yet.
    pub fn on_disk(scans: impl IntoIterator<Item = Scan>, spacing_mm: [f64; 3], storage: Storage) -> Self {
        Self::with_classes(scans, spacing_mm, storage, None)
    }

    /// Scans on disk whose labels hold values that `classes` has classes for.
    pub fn with_classes(
        scans: impl IntoIterator<Item = Scan>,
        spacing_mm: [f64; 3],
        storage: Storage,
        classes: Option<ClassMap>,
    ) -> Self {
        Self(Source::Disk(OnDisk::new(scans.into_iter().collect(), spacing_mm, storage, classes)))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Source::Memory(scans) => scans.len(),
            Source::Disk(scans) => scans.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The positions of those that have a label, or of those that have none.
    pub fn positions(&self, labelled: bool) -> Vec<usize> {
        let has_label = |position: usize| match &self.0 {
            Source::Memory(scans) => scans[position].labels.is_some(),
            Source::Disk(scans) => scans.scan(position).label.is_some(),
        };
        (0..self.len()).filter(|position| has_label(*position) == labelled).collect()
    }

    /// The file of the image at a position, or the scan itself where it is in memory.
    pub(super) fn image_of(&self, position: usize) -> Result<&Path, &PreparedScan> {
        match &self.0 {
            Source::Memory(scans) => Err(&scans[position]),
            Source::Disk(scans) => Ok(&scans.scan(position).image),
        }
    }

    /// The scan at `position`, prepared.
    ///
    /// # Errors
    /// If it cannot be read or prepared, or is not what it was before.
    pub fn get(&self, position: usize) -> Result<Arc<PreparedScan>, ScanError> {
        match &self.0 {
            Source::Memory(scans) => Ok(scans[position].clone()),
            Source::Disk(scans) => scans.get(position),
        }
    }

    /// Refuses a scan with a class that a student of `classes` classes does not have. Those that were not fetched before
    /// are.
    ///
    /// # Errors
    /// If a scan does not fit, or cannot be read.
    pub fn check(&self, classes: usize) -> Result<(), TrainError> {
        (0..self.len()).try_for_each(|position| match &self.0 {
            Source::Memory(scans) => scans[position].check(classes),
            Source::Disk(scans) => Ok(scans.check(position, classes)?),
        })
    }

    /// Takes everything out of the cache that was not made of these scans as they were last fetched.
    ///
    /// # Errors
    /// If an entry cannot be removed.
    pub fn forget_others(&self) -> io::Result<()> {
        match &self.0 {
            Source::Memory(_) => Ok(()),
            Source::Disk(scans) => scans.forget_others(),
        }
    }
}
