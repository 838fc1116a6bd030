//! A chain on disk: appended and fsynced before anybody learns of the record.
//!
//! A crash can leave the last line torn. Such a record was never acknowledged to anybody, so opening for writing cuts it
//! off; an auditor, who only reads, reports it.

use std::{
    fs::{File, TryLockError},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Serialize, de::DeserializeOwned};

use super::{Chain, ChainError, Head, Record};
use crate::{
    disk::{Disk, RealDisk, folder_of},
    ids::{PublicKey, UnixMillis},
    signing::{Domain, SigningError, SigningKey},
};

/// A log on disk failed or is not sound.
#[derive(Debug, thiserror::Error)]
pub enum ChainFileError {
    /// The file system said no.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another process has it.
    #[error("`{}` is in use by another process: stop that one first, two writers would break the log", path.display())]
    Locked {
        /// Where.
        path: PathBuf,
    },
    /// An earlier record could neither be finished nor taken back.
    #[error("`{}` takes no more records: a write failed and could not be taken back. Mend the disk, then start again", path.display())]
    Stuck {
        /// Where.
        path: PathBuf,
    },
    /// A record is wrong.
    #[error("`{}`, record {record}", path.display())]
    Record {
        /// Where.
        path: PathBuf,
        /// Its number, counted from 0.
        record: u64,
        /// What is wrong.
        #[source]
        source: ChainError,
    },
}

/// What reading a log without touching it found.
#[derive(Debug)]
pub struct ReadBack<E> {
    /// The records up to the first that is wrong.
    pub records: Vec<Record<E>>,
    /// The first record that is wrong: its number and why.
    pub broken: Option<(u64, ChainError)>,
    /// How many bytes of an unfinished line stand at the end.
    pub torn: usize,
}

/// Reads a log without changing it.
///
/// # Errors
/// If the file cannot be read; what is wrong inside is in the answer.
pub fn read<E: Serialize + DeserializeOwned>(
    path: &Path,
    domain: Domain,
    key: impl Fn(&E) -> Result<PublicKey, SigningError>,
) -> Result<ReadBack<E>, ChainFileError> {
    let bytes = std::fs::read(path).map_err(io_error("read", path))?;
    Ok(parse(&bytes, &mut Chain::new(domain), key))
}

fn parse<E: Serialize + DeserializeOwned>(
    bytes: &[u8],
    chain: &mut Chain<E>,
    key: impl Fn(&E) -> Result<PublicKey, SigningError>,
) -> ReadBack<E> {
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |position| position + 1);
    let mut records = Vec::new();
    for line in bytes[..end].split_inclusive(|byte| *byte == b'\n') {
        let text = std::str::from_utf8(&line[..line.len() - 1]).map_err(|e| ChainError::Format(e.to_string()));
        match text.and_then(|text| chain.read(text, &key)) {
            Ok(record) => records.push(record),
            Err(error) => {
                let broken = Some((records.len() as u64, error));
                return ReadBack { records, broken, torn: bytes.len() - end };
            }
        }
    }
    ReadBack { records, broken: None, torn: bytes.len() - end }
}

/// A log that is open for appending. One process at a time.
#[derive(Debug)]
pub struct ChainFile<E> {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: File,
    length: u64,
    chain: Chain<E>,
    /// Whether the file may end in something that the chain does not know.
    stuck: bool,
}

impl<E: Serialize + DeserializeOwned> ChainFile<E> {
    /// Opens or creates the log at `path`, checks every record, cuts a torn last line off, and returns the records.
    ///
    /// # Errors
    /// If the file cannot be opened, another process has it, or a record is wrong.
    pub fn open(
        path: &Path,
        domain: Domain,
        key: impl Fn(&E) -> Result<PublicKey, SigningError>,
    ) -> Result<(Self, Vec<Record<E>>), ChainFileError> {
        Self::open_on(Arc::new(RealDisk), path, domain, key)
    }

    /// The same on `disk`.
    ///
    /// # Errors
    /// If the file cannot be opened, another process has it, or a record is wrong.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        path: &Path,
        domain: Domain,
        key: impl Fn(&E) -> Result<PublicKey, SigningError>,
    ) -> Result<(Self, Vec<Record<E>>), ChainFileError> {
        let mut file = disk.append_to(path).map_err(io_error("open", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ChainFileError::Locked { path: path.into() }),
            Err(TryLockError::Error(source)) => return Err(io_error("lock", path)(source)),
        }
        // Each time: the start that made the file may have ended before its name was durable.
        disk.sync_folder(folder_of(path)).map_err(io_error("sync the folder of", path))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io_error("read", path))?;
        let mut chain = Chain::new(domain);
        let found = parse(&bytes, &mut chain, key);
        if let Some((record, source)) = found.broken {
            return Err(ChainFileError::Record { path: path.into(), record, source });
        }
        let length = (bytes.len() - found.torn) as u64;
        if found.torn > 0 {
            tracing::warn!(
                "`{}`: cutting off {} bytes of a record that a crash left unfinished",
                path.display(),
                found.torn
            );
            let cut = disk.set_length(path, &file, length).and_then(|()| disk.sync(path, &file));
            cut.map_err(io_error("truncate", path))?;
        }
        Ok((Self { disk, path: path.into(), file, length, chain, stuck: false }, found.records))
    }

    /// Appends one record; it is on disk when this returns.
    ///
    /// # Errors
    /// If it cannot be written. What was written of it is taken back, so that the log stays sound and another attempt
    /// may follow, for example after a full disk was cleared.
    pub fn append(&mut self, event: E, at: UnixMillis, key: &SigningKey) -> Result<Record<E>, ChainFileError> {
        if self.stuck {
            return Err(ChainFileError::Stuck { path: self.path.clone() });
        }
        let mut next = Chain::new(self.chain.domain);
        next.head = self.chain.head;
        let number = next.head.length;
        let (line, record) = next.write(event, at, key).map_err(|source| ChainFileError::Record {
            path: self.path.clone(),
            record: number,
            source,
        })?;
        let (disk, path) = (&self.disk, &self.path);
        let written = disk.write(path, &self.file, line.as_bytes()).and_then(|()| disk.sync(path, &self.file));
        if let Err(source) = written {
            // If this fails too the next start cuts a torn line off, and counts a whole one.
            // Synced, because what failed to be synced may yet reach the disk.
            let undone = disk.set_length(path, &self.file, self.length).and_then(|()| disk.sync(path, &self.file));
            if let Err(error) = undone {
                tracing::error!("`{}`: an unfinished record could not be taken back: {error}", self.path.display());
                self.stuck = true;
            }
            return Err(io_error("append to", &self.path)(source));
        }
        self.length += line.len() as u64;
        self.chain = next;
        Ok(record)
    }

    /// Where the chain ends.
    pub fn head(&self) -> Head {
        self.chain.head()
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The disk that it is on.
    pub fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ChainFileError {
    let path = path.to_owned();
    move |source| ChainFileError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path, key: &SigningKey) -> Result<(ChainFile<String>, Vec<Record<String>>), ChainFileError> {
        let public = key.public();
        ChainFile::open(path, Domain::Ledger, move |_| Ok(public))
    }

    #[test]
    fn a_cut_at_any_byte_keeps_the_finished_records_and_goes_on() {
        let folder = tempfile::tempdir().expect("folder");
        let (path, key) = (folder.path().join("log"), SigningKey::generate().expect("entropy"));
        let (mut log, _) = open(&path, &key).expect("new");
        for number in 0..3 {
            log.append(format!("event {number}"), UnixMillis(number), &key).expect("appended");
        }
        drop(log);
        let whole = std::fs::read(&path).expect("bytes");
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).expect("cut");
            let finished = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
            let (mut log, records) = open(&path, &key).expect("repaired");
            assert_eq!(records.len(), finished, "cut at {cut}");
            log.append("after the crash".into(), UnixMillis(9), &key).expect("appended");
            drop(log);
            assert_eq!(open(&path, &key).expect("sound").1.len(), finished + 1);
        }
    }

    #[test]
    fn two_writers_are_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let (path, key) = (folder.path().join("log"), SigningKey::generate().expect("entropy"));
        let _first = open(&path, &key).expect("new");
        assert!(matches!(open(&path, &key), Err(ChainFileError::Locked { .. })));
    }

    #[test]
    fn a_full_disk_is_an_error_and_loses_nothing() {
        let full = Path::new("/dev/full");
        if !full.exists() {
            return;
        }
        let (folder, key) = (tempfile::tempdir().expect("folder"), SigningKey::generate().expect("entropy"));
        let (mut log, _) = open(&folder.path().join("log"), &key).expect("new");
        log.append("first".into(), UnixMillis(0), &key).expect("appended");
        let disk = std::mem::replace(&mut log.file, File::options().write(true).open(full).expect("open"));
        assert!(matches!(log.append("lost".into(), UnixMillis(1), &key), Err(ChainFileError::Io { .. })));
        // A full disk can be cut off, this device cannot: so nothing more is taken until the next start.
        assert!(matches!(log.append("no".into(), UnixMillis(1), &key), Err(ChainFileError::Stuck { .. })));
        (log.file, log.stuck) = (disk, false);
        assert_eq!(log.append("second".into(), UnixMillis(2), &key).expect("appended").seq, 1);
    }
}
