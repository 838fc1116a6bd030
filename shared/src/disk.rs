//! What is done to the disk where a crash matters, one effect at a time: everything that a ledger and the updates beside it
//! write goes through here.
//!
//! The methods are what the system does. They have names of their own so that a test can be the disk: let the program
//! end before, within or after each effect, or lose what was not synced (POSIX: what a file holds is durable once the file
//! is synced, that it is there under its name once the folder is). Programs have [`RealDisk`] and nothing else.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::Path,
};

/// A disk.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Makes a folder and those above it, where they are missing.
    ///
    /// # Errors
    /// What the system says.
    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)
    }

    /// Makes an empty file, or empties the one that is there.
    ///
    /// # Errors
    /// What the system says.
    fn create(&self, path: &Path) -> io::Result<File> {
        File::create(path)
    }

    /// Opens a file for reading, and for writing at its end, and makes it where it is missing.
    ///
    /// # Errors
    /// What the system says.
    fn append_to(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).append(true).create(true).open(path)
    }

    /// Writes all of `bytes` where `file`, the one at `path`, stands.
    ///
    /// # Errors
    /// What the system says; part of them may be written.
    fn write(&self, _path: &Path, mut file: &File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    /// Cuts `file` off, or fills it up with zeros.
    ///
    /// # Errors
    /// What the system says.
    fn set_length(&self, _path: &Path, file: &File, length: u64) -> io::Result<()> {
        file.set_len(length)
    }

    /// Returns when everything written to `file` is durable.
    ///
    /// # Errors
    /// What the system says; then nothing is known of what was written.
    fn sync(&self, _path: &Path, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    /// Gives a file another name, at once: whoever looks sees the old one or the new.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    /// Returns when the names in `folder` are durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }
}

/// The disk of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {}

/// The folder that holds `path`.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
