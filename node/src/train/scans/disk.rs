//! Scans on disk: which of memory, cache and files a scan is taken from, and whether it is still the same.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::SystemTime,
};

use super::{ScanError, Storage, held::Held};
use crate::{
    data::{
        cache::{Cache, Key, key::digest_of_file},
        classes::ClassMap,
        folder::{FolderError, Scan},
        nifti,
    },
    train::{
        TrainError,
        crops::PreparedScan,
        prepare::{PREPARATION, prepare},
    },
};

/// Scans of one spacing.
pub(super) struct OnDisk {
    spacing_mm: [f64; 3],
    scans: Vec<Place>,
    cache: Option<Arc<Cache>>,
    held: Mutex<Held>,
    /// What turns labels into classes. The cache holds them as they are in their files.
    classes: Option<ClassMap>,
}

struct Place {
    scan: Scan,
    /// What was found when the scan was first fetched.
    known: OnceLock<Known>,
}

/// What is remembered of a scan.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Known {
    key: Key,
    /// The highest class of its label.
    highest: Option<u8>,
}

impl OnDisk {
    pub(super) fn new(scans: Vec<Scan>, spacing_mm: [f64; 3], storage: Storage, classes: Option<ClassMap>) -> Self {
        let scans = scans.into_iter().map(|scan| Place { scan, known: OnceLock::new() }).collect();
        let held = Mutex::new(Held::new(storage.memory_bytes));
        Self { spacing_mm, scans, cache: storage.cache, held, classes }
    }

    pub(super) fn len(&self) -> usize {
        self.scans.len()
    }

    pub(super) fn scan(&self, position: usize) -> &Scan {
        &self.scans[position].scan
    }

    pub(super) fn get(&self, position: usize) -> Result<Arc<PreparedScan>, ScanError> {
        let held = || self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let found = held().get(position);
        if let Some(found) = found {
            return Ok(found);
        }
        let Place { scan, known } = &self.scans[position];
        let (key, mut prepared) = self.fetch(scan, known.get().map(|known| known.key))?;
        if let (Some(labels), Some(classes), Some(path)) = (&mut prepared.labels, &self.classes, &scan.label) {
            classes.to_classes(labels).map_err(|unnamed| ScanError::Unnamed { path: path.clone(), unnamed })?;
        }
        let highest = prepared.labels.as_ref().and_then(|labels| labels.values.iter().copied().max());
        let found = Known { key, highest };
        if *known.get_or_init(|| found) != found {
            return Err(changed(scan));
        }
        let prepared = Arc::new(prepared);
        held().insert(position, &prepared);
        Ok(prepared)
    }

    pub(super) fn check(&self, position: usize, classes: usize) -> Result<(), ScanError> {
        let Place { scan, known } = &self.scans[position];
        if known.get().is_none() {
            self.get(position)?;
        }
        let highest = known.get().and_then(|known| known.highest);
        match highest.filter(|label| usize::from(*label) >= classes) {
            Some(label) => Err(unfit(scan.label.as_ref().unwrap_or(&scan.image), TrainError::Class { label, classes })),
            None => Ok(()),
        }
    }

    pub(super) fn forget_others(&self) -> io::Result<()> {
        let keys: BTreeSet<Key> = self.scans.iter().filter_map(|place| Some(place.known.get()?.key)).collect();
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
        if known.is_some_and(|known| known != key) {
            return Err(changed(scan));
        }
        if known.is_none()
            && let Some(found) = cached(&key)
        {
            return Ok((key, found));
        }
        let prepared = self.make(scan)?;
        if stamps(scan)? != before {
            return Err(changed(scan));
        }
        if let Some(cache) = &self.cache {
            cache.put(&key, &prepared.image, prepared.labels.as_ref());
        }
        Ok((key, prepared))
    }

    /// The key of a scan's files as they are now.
    pub(super) fn key(&self, scan: &Scan) -> Result<Key, ScanError> {
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
        prepared.check_grids().map_err(|error| unfit(&scan.image, error))?;
        Ok(prepared)
    }
}

fn changed(scan: &Scan) -> ScanError {
    ScanError::Changed { path: scan.image.clone() }
}

fn unfit(path: &Path, error: TrainError) -> ScanError {
    ScanError::Unfit { path: path.to_path_buf(), source: Box::new(error) }
}

/// What tells that a scan's files were written to: their lengths and times.
fn stamps(scan: &Scan) -> Result<Vec<(u64, Option<SystemTime>)>, ScanError> {
    let stamp = |path: &PathBuf| {
        let meta = fs::metadata(path).map_err(|source| ScanError::Digest { path: path.clone(), source })?;
        Ok((meta.len(), meta.modified().ok()))
    };
    [Some(&scan.image), scan.label.as_ref()].into_iter().flatten().map(stamp).collect()
}
