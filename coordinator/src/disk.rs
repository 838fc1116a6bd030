//! Writing files so that a crash leaves the old content or the new, never half of either: temporary file, fsync, rename,
//! fsync of the folder (POSIX `rename`; the folder's entry is durable only once the folder itself is synced).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// The file system said no.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`: {source}{}", path.display(), remedy(source))]
pub struct DiskError {
    /// What was tried.
    pub action: &'static str,
    /// Where.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: io::Error,
}

impl DiskError {
    /// For `map_err`: what was tried, and where.
    pub fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { action, path, source }
    }
}

/// What an operator should do about `error`; empty if the error says it all.
pub fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "; free some space, nothing that was acknowledged is lost"
        }
        io::ErrorKind::ReadOnlyFilesystem => "; the file system is read-only: mount it for writing",
        io::ErrorKind::PermissionDenied => "; give this program's user access to it",
        _ => "",
    }
}

/// The prefix of files that a crash may leave behind; they are worth nothing.
pub const TEMPORARY: &str = ".new-";

/// A name in `folder` that no other writer uses.
fn temporary(folder: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    folder.join(format!("{TEMPORARY}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// The folder that holds `path`.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the entries of `folder` durable.
///
/// # Errors
/// If the folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> Result<(), DiskError> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(DiskError::at("sync the folder", folder))
}

/// Replaces `path` by what `fill` writes; it is on disk when this returns.
///
/// # Errors
/// If a step fails; `path` is then as before.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), DiskError> {
    let folder = folder_of(path);
    let new = temporary(folder);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&new)
        .and_then(|mut file| fill(&mut file).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&new, path));
    if let Err(source) = written {
        // It would be swept at the next start: what counts is the error that is reported.
        let _ = fs::remove_file(&new);
        return Err(DiskError { action: "write", path: path.to_owned(), source });
    }
    sync_folder(folder)
}

/// Replaces `path` by `bytes`; they are on disk when this returns.
///
/// # Errors
/// If a step fails; `path` is then as before.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    write_with(path, |file| file.write_all(bytes))
}

/// Moves `from` to `to` within one file system; the move is on disk when this returns.
///
/// # Errors
/// If it cannot be moved.
pub fn rename(from: &Path, to: &Path) -> Result<(), DiskError> {
    fs::rename(from, to).map_err(DiskError::at("move a file to", to))?;
    sync_folder(folder_of(to))
}

/// Makes `folder` and what is above it, durably.
///
/// # Errors
/// If it cannot be made.
pub fn make_folder(folder: &Path) -> Result<(), DiskError> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(DiskError::at("make the folder", folder))?;
    sync_folder(folder_of(folder))
}

/// Removes the file, if it is there.
///
/// # Errors
/// If it is there and cannot be removed.
pub fn remove(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(DiskError { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_content_and_no_litter() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        write(&path, b"old").expect("written");
        let error = write_with(&path, |file| {
            file.write_all(b"half")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        let text = error.expect_err("full").to_string();
        assert!(text.contains("free some space") && text.contains("file`"), "{text}");
        assert_eq!(fs::read(&path).expect("there"), b"old");
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1);
        write(&path, b"new").expect("written");
        assert_eq!(fs::read(&path).expect("there"), b"new");
    }
}
