//! The scans that a run is trained on, however many there are: prepared once, kept on disk ([`crate::data::cache`]), and
//! as many as have room in memory too.
//!
//! A scan is fetched when it is needed: from memory, else from the cache, else from its own files. Which of these it was
//! makes no difference to a single bit. A scan that changes while it is trained on is an error: a run is a function of its
//! scans. Of a scan that the caller gives no label, no label is ever opened.

mod held;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::SystemTime,
};

use self::held::Held;
use super::{
    TrainError,
    crops::PreparedScan,
    prepare::{PREPARATION, prepare},
};
use crate::data::{
    cache::{Cache, Key, key::digest_of_file},
    folder::{FolderError, Scan},
    nifti,
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
        /// The image.
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
pub struct ScanSet {
    spacing_mm: [f64; 3],
    scans: Vec<Place>,
    cache: Option<Arc<Cache>>,
    held: Mutex<Held>,
}

/// Where a scan comes from.
enum Place {
    /// It is here, and stays.
    Memory(Arc<PreparedScan>),
    /// Its files.
    Disk {
        scan: Scan,
        /// What was found when it was first fetched.
        known: OnceLock<Known>,
    },
}

/// What is remembered of a scan on disk.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Known {
    key: Key,
    /// The highest class of its label.
    highest: Option<u8>,
}

impl ScanSet {
    /// Scans that are in memory.
    pub fn in_memory(scans: impl IntoIterator<Item = PreparedScan>) -> Self {
        let scans = scans.into_iter().map(|scan| Place::Memory(Arc::new(scan))).collect();
        Self { spacing_mm: [0.0; 3], scans, cache: None, held: Mutex::new(Held::new(0)) }
    }

    /// Scans on disk, at `spacing_mm`. Nothing is opened yet.
    pub fn on_disk(scans: impl IntoIterator<Item = Scan>, spacing_mm: [f64; 3], storage: Storage) -> Self {
        let scans = scans.into_iter().map(|scan| Place::Disk { scan, known: OnceLock::new() }).collect();
        Self { spacing_mm, scans, cache: storage.cache, held: Mutex::new(Held::new(storage.memory_bytes)) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.scans.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.scans.is_empty()
    }

    /// The positions of those that have a label, or of those that have none.
    pub fn positions(&self, labelled: bool) -> Vec<usize> {
        let has_label = |place: &Place| match place {
            Place::Memory(scan) => scan.labels.is_some(),
            Place::Disk { scan, .. } => scan.label.is_some(),
        };
        (0..self.len()).filter(|position| has_label(&self.scans[*position]) == labelled).collect()
    }

    /// The scan at `position`, prepared.
    ///
    /// # Errors
    /// If it cannot be read or prepared, or is not what it was before.
    pub fn get(&self, position: usize) -> Result<Arc<PreparedScan>, ScanError> {
        let (scan, known) = match &self.scans[position] {
            Place::Memory(scan) => return Ok(scan.clone()),
            Place::Disk { scan, known } => (scan, known),
        };
        let held = || self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let found = held().get(position);
        if let Some(found) = found {
            return Ok(found);
        }
        let (key, prepared) = self.fetch(scan, known.get().map(|known| known.key))?;
        let highest = prepared.labels.as_ref().and_then(|labels| labels.values.iter().copied().max());
        let found = Known { key, highest };
        if *known.get_or_init(|| found) != found {
            return Err(ScanError::Changed { path: scan.image.clone() });
        }
        let prepared = Arc::new(prepared);
        held().insert(position, &prepared);
        Ok(prepared)
    }

    /// Refuses a scan with a class that a student of `classes` classes does not have. Scans that were not fetched before are.
    ///
    /// # Errors
    /// If a scan does not fit, or cannot be read.
    pub fn check(&self, classes: usize) -> Result<(), TrainError> {
        (0..self.len()).try_for_each(|position| match &self.scans[position] {
            Place::Memory(scan) => scan.check(classes),
            Place::Disk { scan, known } => {
                if known.get().is_none() {
                    self.get(position)?;
                }
                let highest = known.get().and_then(|known| known.highest);
                match highest.filter(|label| usize::from(*label) >= classes) {
                    Some(label) => Err(unfit(scan, TrainError::Class { label, classes }).into()),
                    None => Ok(()),
                }
            }
        })
    }

    /// Takes everything out of the cache that was not made of these scans as they were last fetched.
    ///
    /// # Errors
    /// If an entry cannot be removed.
    pub fn forget_others(&self) -> io::Result<()> {
        let key = |place: &Place| match place {
            Place::Memory(_) => None,
            Place::Disk { known, .. } => known.get().map(|known| known.key),
        };
        let keys: BTreeSet<Key> = self.scans.iter().filter_map(key).collect();
        self.cache.as_ref().map_or(Ok(()), |cache| cache.keep_only(&keys))
    }

    /// A scan from the cache or its files, and its key. Where the key is known already, a cached scan's files are left alone.
    fn fetch(&self, scan: &Scan, known: Option<Key>) -> Result<(Key, PreparedScan), ScanError> {
        let cached = |key: &Key| {
            let (image, labels) = self.cache.as_ref()?.get(key)?;
            Some(PreparedScan { image, labels })
        };
        if let Some(key) = known
            && let Some(found) = cached(&key)
        {
            return Ok((key, found));
        }
        let before = stamps(scan)?;
        let key = self.key(scan)?;
        let changed = || ScanError::Changed { path: scan.image.clone() };
        if known.is_some_and(|known| known != key) {
            return Err(changed());
        }
        if known.is_none()
            && let Some(found) = cached(&key)
        {
            return Ok((key, found));
        }
        let prepared = self.make(scan)?;
        if stamps(scan)? != before {
            return Err(changed());
        }
        if let Some(cache) = &self.cache {
            cache.put(&key, &prepared.image, prepared.labels.as_ref());
        }
        Ok((key, prepared))
    }

    /// The key of a scan's files as they are now.
    fn key(&self, scan: &Scan) -> Result<Key, ScanError> {
        let digest = |path: &Path| {
            // Says what is wrong with a bad file, and does not wait at a pipe.
            nifti::read_grid(path).map_err(FolderError::from)?;
            digest_of_file(path).map_err(|source| ScanError::Digest { path: path.to_owned(), source })
        };
        let image = digest(&scan.image)?;
        let label = scan.label.as_deref().map(digest).transpose()?;
        Ok(Key::new(PREPARATION, self.spacing_mm, image, label))
    }

    fn make(&self, scan: &Scan) -> Result<PreparedScan, ScanError> {
        let (image, labels) = scan.read()?;
        let resample = |source| ScanError::Resample { path: scan.image.clone(), source };
        let prepared = prepare(&image, labels.as_ref(), self.spacing_mm).map_err(resample)?;
        prepared.check_grids().map_err(|error| unfit(scan, error))?;
        Ok(prepared)
    }
}

fn unfit(scan: &Scan, error: TrainError) -> ScanError {
    ScanError::Unfit { path: scan.image.clone(), source: Box::new(error) }
}

/// What tells that a scan's files were written to: their lengths and times.
fn stamps(scan: &Scan) -> Result<Vec<(u64, Option<SystemTime>)>, ScanError> {
    let stamp = |path: &PathBuf| {
        let meta = fs::metadata(path).map_err(|source| ScanError::Digest { path: path.clone(), source })?;
        Ok((meta.len(), meta.modified().ok()))
    };
    [Some(&scan.image), scan.label.as_ref()].into_iter().flatten().map(stamp).collect()
}
