//! Where commands that train keep prepared scans, and how they are prepared before the first step.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Args;
use rayon::prelude::*;
use semisam_shared::clock;

use super::progress::Progress;
use crate::{
    data::{
        cache::{Cache, CacheError},
        classes::ClassMap,
        folder::Scan,
    },
    generalist::store::Store,
    train::scans::{ScanError, ScanSet, Storage},
};

/// Where prepared scans are kept.
#[derive(Clone, Debug, Args)]
pub struct StorageArgs {
    /// Keep prepared scans in this folder, so that the next start need not prepare them. It holds patients' voxels, and
    /// only you can read them [default: for `train` the folder `cache` in --out, for `bench train` none].
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// The most that the cache takes; scans that were not used for longest go first.
    #[arg(long, value_name = "SIZE", default_value = "10GiB", value_parser = parse_size)]
    pub cache_size: u64,
    /// Keep no prepared scans on disk.
    #[arg(long, conflicts_with_all = ["cache", "cache_size"])]
    pub no_cache: bool,
    /// The most that prepared scans take in memory; the others are read again when a step needs them.
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = parse_size)]
    pub memory: u64,
}

impl StorageArgs {
    /// Where embeddings of generalists are kept: in `embeddings` below the cache, where they take an eighth of its size
    /// beside it.
    ///
    /// # Errors
    /// If there can be no cache in that folder.
    pub(super) fn open_embeddings(&self, default: Option<&Path>) -> Result<Store, CacheError> {
        let Some(folder) = self.cache.as_deref().or(default).filter(|_| !self.no_cache) else {
            return Ok(Store::default());
        };
        let cache = Cache::open(&folder.join("embeddings"), self.cache_size / 8, Box::new(clock::now))?;
        Ok(Store::on_disk(cache))
    }

    /// What was asked for, with the cache in `default` if no other folder was named.
    ///
    /// # Errors
    /// If there can be no cache in that folder.
    pub(super) fn open(&self, default: Option<&Path>) -> Result<Storage, CacheError> {
        let folder = self.cache.as_deref().or(default).filter(|_| !self.no_cache);
        let open = |folder| Cache::open(folder, self.cache_size, Box::new(clock::now)).map(Arc::new);
        Ok(Storage { cache: folder.map(open).transpose()?, memory_bytes: self.memory })
    }
}

/// The scans at `spacing` millimetres, with classes made of their labels where there is a map, each of them fetched once
/// and checked, which shows how far it is; none if `cancel` was set on the way.
///
/// # Errors
/// Names a scan that cannot be used.
pub(super) fn fetch_all<'a>(
    scans: impl Iterator<Item = &'a Scan>,
    (spacing, classes): (f64, Option<&ClassMap>),
    storage: Storage,
    cancel: &AtomicBool,
) -> Result<Option<ScanSet>, ScanError> {
    let set = ScanSet::with_classes(scans.cloned(), [spacing; 3], storage, classes.cloned());
    let progress = Progress::new("preparing scans", set.len());
    (0..set.len()).into_par_iter().try_for_each(|position| {
        if !cancel.load(Ordering::Relaxed) {
            set.get(position)?;
            progress.step();
        }
        Ok::<_, ScanError>(())
    })?;
    drop(progress);
    Ok((!cancel.load(Ordering::Relaxed)).then_some(set))
}

/// Reads a number of bytes, such as `500MiB` or `2.5GB`.
///
/// # Errors
/// Says what is wrong, for clap.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 7] = [
        ("TiB", 1024_f64 * 1024.0 * 1024.0 * 1024.0),
        ("GiB", 1024.0 * 1024.0 * 1024.0),
        ("MiB", 1024.0 * 1024.0),
        ("TB", 1e12),
        ("GB", 1e9),
        ("MB", 1e6),
        ("B", 1.0),
    ];
    let of_unit = |(unit, factor): &(&str, f64)| {
        let number: f64 = text.trim().strip_suffix(unit)?.trim().parse().ok()?;
        (0.0..=1e18).contains(&(number * factor)).then_some((number * factor) as u64)
    };
    UNITS.iter().find_map(of_unit).ok_or_else(|| "give a size with its unit, such as 500MiB or 10GiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_unit() {
        let sizes = [("10GiB", 10 << 30), ("1.5 MiB", 3 << 19), ("2TB", 2_000_000_000_000), ("7B", 7), ("0GB", 0)];
        for (text, bytes) in sizes {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "10", "GiB", "-1GB", "nan GB", "1e30TB", "1 PB", "infMB", "10gib"] {
            assert!(parse_size(bad).expect_err(bad).contains("10GiB"));
        }
    }
}
