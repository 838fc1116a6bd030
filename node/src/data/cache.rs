//! Prepared scans on disk, so that a scan is read, resampled and normalised once and not at every start.
//!
//! An entry is named by what it was made of ([`key`]): a changed scan, label, spacing or way of preparing finds nothing,
//! a renamed scan finds its own. It is written beside, synced and renamed, so a crash leaves all of it or nothing, and
//! whoever reads it checks its digest ([`entry`]). The folder is bounded: entries that were not used for longest go first.
//! When an entry was last used is the time of its file, so that several processes may share a folder without telling each
//! other; one that is just being read is locked and stays. Entries hold patients' voxels: they are for the owner alone.
//!
//! A cache is never needed. What fails here costs time, not results, so it is a warning, which is said once and names no
//! entry: how often it happens would tell how many scans there are.

pub mod entry;
pub mod key;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fmt, fs,
    fs::{File, TryLockError},
    io::{self, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use semisam_shared::ids::UnixMillis;
use thiserror::Error;

use self::entry::EntryError;
pub use self::key::Key;
use crate::data::volume::{Image, LabelMap};

/// Ends the names of entries.
const ENTRY: &str = ".scan";
/// Starts the names of files that are being written.
const WRITING: &str = ".writing-";
/// The file that writers hold shared.
const LOCK: &str = ".lock";

/// Why a folder cannot be a cache.
#[derive(Debug, Error)]
pub enum CacheError {
    /// It cannot be made or used.
    #[error("cannot keep prepared scans in `{}`: name a folder on a disk with room that this program may write to, or keep none", path.display())]
    Folder {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Anybody could put scans into it.
    #[error("every user of this machine may write to `{}`, so it cannot hold prepared scans: chmod 700 it, or name a folder of your own", .0.display())]
    Open(PathBuf),
}

/// A bounded folder of prepared scans. Prints nothing of it.
pub struct Cache {
    folder: PathBuf,
    bytes: u64,
    clock: Clock,
    /// Whether the warning was given: of damage, of failing to write.
    warned: [AtomicBool; 2],
}

/// Tells the time; what was used last is decided by it.
pub type Clock = Box<dyn Fn() -> UnixMillis + Send + Sync>;

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cache")
    }
}

/// An entry as the folder shows it.
struct Listed {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

impl Cache {
    /// The cache in `folder`, which is made where it is missing, of at most `bytes` bytes.
    ///
    /// # Errors
    /// If there can be no such folder, or everybody may write to it.
    pub fn open(folder: &Path, bytes: u64, clock: Clock) -> Result<Self, CacheError> {
        let failed = |source| CacheError::Folder { path: folder.to_owned(), source };
        private_folder(folder).map_err(failed)?;
        if open_to_others(folder).map_err(failed)? {
            return Err(CacheError::Open(folder.to_owned()));
        }
        let cache =
            Self { folder: folder.to_owned(), bytes, clock, warned: [AtomicBool::new(false), AtomicBool::new(false)] };
        cache.sweep().map_err(failed)?;
        cache.evict(None).map_err(failed)?;
        Ok(cache)
    }

    /// The prepared scan of `key`. A damaged one is taken away with a warning, as if it had not been there.
    pub fn get(&self, key: &Key) -> Option<(Image, Option<LabelMap>)> {
        self.get_with(key, entry::read)
    }

    /// The entry of `key`, whatever it holds, as `read` finds it.
    pub fn get_with<T>(
        &self,
        key: &Key,
        read: impl FnOnce(&mut BufReader<&File>, &Key) -> Result<T, EntryError>,
    ) -> Option<T> {
        let path = self.path(key);
        let file = File::open(&path).ok()?;
        // Where the system has no locks an entry may vanish while it is read, which hurts nobody who has it open.
        let _ = file.lock_shared();
        match read(&mut BufReader::with_capacity(1 << 20, &file), key) {
            Ok(found) => {
                let _ = file.set_modified(self.now());
                Some(found)
            }
            Err(error) => {
                self.warn(0, || {
                    format!("the cache of prepared scans is damaged ({error}): what is wrong is made again")
                });
                let _ = fs::remove_file(&path);
                None
            }
        }
    }

    /// Keeps a prepared scan, and takes others away where they have no room together.
    pub fn put(&self, key: &Key, image: &Image, labels: Option<&LabelMap>) {
        self.put_with(key, entry::size(image, labels), |writer| entry::write(writer, key, image, labels));
    }

    /// Keeps whatever `write` writes, which is so many bytes.
    pub fn put_with(&self, key: &Key, bytes: u64, write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>) {
        if bytes > self.bytes {
            let (bytes, most) = (bytes.div_ceil(1 << 20), self.bytes >> 20);
            self.warn(1, || {
                format!("a prepared scan of {bytes} MiB has no room in a cache of {most} MiB: allow it more")
            });
        } else if let Err(error) = self.write(key, write).and_then(|()| self.evict(Some(key))) {
            self.warn(1, || {
                format!("prepared scans cannot be kept and will be made again ({error}): is the disk full?")
            });
        }
    }

    /// Takes all entries away but those of `keys`: scans that are no longer there leave nothing behind.
    ///
    /// # Errors
    /// If an entry cannot be removed.
    pub fn keep_only(&self, keys: &BTreeSet<Key>) -> io::Result<()> {
        let kept: BTreeSet<PathBuf> = keys.iter().map(|key| self.path(key)).collect();
        let strangers = self.entries()?.into_iter().filter(|entry| !kept.contains(&entry.path));
        strangers.into_iter().try_for_each(|entry| remove(&entry.path).map(drop))
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.folder.join(key.name() + ENTRY)
    }

    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis((self.clock)().0)
    }

    fn warn(&self, which: usize, words: impl FnOnce() -> String) {
        if !self.warned[which].swap(true, Ordering::Relaxed) {
            tracing::warn!("{}", words());
        }
    }

    fn write(&self, key: &Key, write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>) -> io::Result<()> {
        let lock = self.lock()?;
        // Shared by all writers, so that nobody takes an unfinished file for a forgotten one.
        let _ = lock.lock_shared();
        let file = tempfile::Builder::new().prefix(WRITING).tempfile_in(&self.folder)?;
        let mut writer = BufWriter::with_capacity(1 << 20, file.as_file());
        write(&mut writer)?;
        writer.flush()?;
        drop(writer);
        file.as_file().set_modified(self.now())?;
        file.as_file().sync_all()?;
        file.persist(self.path(key))?;
        // The name is on disk once the folder is; a crash before that loses an entry, not a result.
        File::open(&self.folder).and_then(|folder| folder.sync_all())
    }

    fn lock(&self) -> io::Result<File> {
        let mut options = File::options();
        options.write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(self.folder.join(LOCK))
    }

    /// Removes what writers that died have left, if nobody is writing.
    fn sweep(&self) -> io::Result<()> {
        if self.lock()?.try_lock().is_err() {
            return Ok(());
        }
        for file in fs::read_dir(&self.folder)? {
            let file = file?;
            if file.file_name().to_string_lossy().starts_with(WRITING) {
                gone(fs::remove_file(file.path()))?;
            }
        }
        Ok(())
    }

    /// Removes what was not used for longest until the rest has room; `fresh` stays.
    fn evict(&self, fresh: Option<&Key>) -> io::Result<()> {
        let mut entries = self.entries()?;
        let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
        entries.sort_by(|one, two| (one.used, &one.path).cmp(&(two.used, &two.path)));
        let fresh = fresh.map(|key| self.path(key));
        for entry in entries {
            if total <= self.bytes {
                break;
            }
            if Some(&entry.path) != fresh.as_ref() && remove(&entry.path)? {
                total -= entry.bytes;
            }
        }
        Ok(())
    }

    /// All entries; no other file in the folder is ours.
    fn entries(&self) -> io::Result<Vec<Listed>> {
        let mut entries = Vec::new();
        for file in fs::read_dir(&self.folder)? {
            let file = file?;
            let name = file.file_name();
            if !name.to_str().and_then(|name| name.strip_suffix(ENTRY)).is_some_and(Key::is_name) {
                continue;
            }
            // One that another process has just removed is none.
            let Ok(meta) = file.metadata() else { continue };
            entries.push(Listed { path: file.path(), bytes: meta.len(), used: meta.modified()? });
        }
        Ok(entries)
    }
}

/// Removes an entry, unless somebody reads it.
fn remove(path: &Path) -> io::Result<bool> {
    match File::open(path) {
        Ok(file) if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) => Ok(false),
        // The lock, where there are any, is held until the entry is gone.
        Ok(_file) => gone(fs::remove_file(path)).map(|()| true),
        Err(error) => gone(Err(error)).map(|()| true),
    }
}

/// That somebody else was faster is no failure.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn private_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

#[cfg(unix)]
fn open_to_others(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::metadata(path)?.permissions().mode() & 0o002 != 0)
}

#[cfg(not(unix))]
fn open_to_others(_path: &Path) -> io::Result<bool> {
    Ok(false)
}
