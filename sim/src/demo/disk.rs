//! The file operations of the demonstration, each with an error that names the path.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The file system said no.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`; check that the path exists, may be written and that the disk has room", path.display())]
pub struct DiskError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DiskError + use<'a> {
    move |source| DiskError { action, path: path.into(), source }
}

/// Creates a folder and those above it.
pub(crate) fn create_folder(path: &Path) -> Result<(), DiskError> {
    fs::create_dir_all(path).map_err(failed("create folder", path))
}

/// Removes a folder and all that is in it; links are removed, what they point to is not.
pub(crate) fn remove_folder(path: &Path) -> Result<(), DiskError> {
    fs::remove_dir_all(path).map_err(failed("remove folder", path))
}

/// Writes a file.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    fs::write(path, bytes).map_err(failed("write", path))
}

/// Reads a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, DiskError> {
    fs::read(path).map_err(failed("read", path))
}

/// Reads a text file.
pub(crate) fn read_text(path: &Path) -> Result<String, DiskError> {
    fs::read_to_string(path).map_err(failed("read", path))
}

/// Copies a file.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), DiskError> {
    fs::copy(from, to).map(|_| ()).map_err(failed("copy", from))
}

/// Makes the file `from` appear at `to` too: a hard link, else a symbolic link, else a copy.
pub(crate) fn link(from: &Path, to: &Path) -> Result<(), DiskError> {
    let target = fs::canonicalize(from).map_err(failed("read", from))?;
    if fs::hard_link(&target, to).is_ok() {
        return Ok(());
    }
    #[cfg(unix)]
    if std::os::unix::fs::symlink(&target, to).is_ok() {
        return Ok(());
    }
    copy(&target, to)
}

/// The entries of a folder, in ascending order of name.
pub(crate) fn list(path: &Path) -> Result<Vec<PathBuf>, DiskError> {
    let entries = fs::read_dir(path).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut entries: Vec<PathBuf> = entries.map_err(failed("list", path))?;
    entries.sort();
    Ok(entries)
}

/// The same path, from the root of the file system.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, DiskError> {
    std::path::absolute(path).map_err(failed("find", path))
}

/// Opens a file for appending, creating it if need be.
pub(crate) fn append(path: &Path) -> Result<fs::File, DiskError> {
    fs::OpenOptions::new().create(true).append(true).open(path).map_err(failed("append to", path))
}
