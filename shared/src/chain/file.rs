//! A chain on disk: appended and fsynced before anybody learns of the record.
//!
//! A crash can leave the last line torn. Such a record was never acknowledged to anybody, so opening for writing cuts it
//! off; an auditor, who only reads, reports it.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{Chain, ChainError, Head, Record};
use crate::{
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
    path: PathBuf,
    file: File,
    length: u64,
    chain: Chain<E>,
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
        let created = !path.exists();
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).open(path).map_err(io_error("open", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ChainFileError::Locked { path: path.into() }),
            Err(TryLockError::Error(source)) => return Err(io_error("lock", path)(source)),
        }
        if created {
            sync_directory(path)?;
        }
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
            file.set_len(length).and_then(|()| file.sync_all()).map_err(io_error("truncate", path))?;
        }
        Ok((Self { path: path.into(), file, length, chain }, found.records))
    }

    /// Appends one record; it is on disk when this returns.
    ///
    /// # Errors
    /// If it cannot be written. What was written of it is taken back, so that the log stays sound and another attempt
    /// may follow, for example after a full disk was cleared.
    pub fn append(&mut self, event: E, at: UnixMillis, key: &SigningKey) -> Result<Record<E>, ChainFileError> {
        let mut next = Chain::new(self.chain.domain);
        next.head = self.chain.head;
        let number = next.head.length;
        let (line, record) = next.write(event, at, key).map_err(|source| ChainFileError::Record {
            path: self.path.clone(),
            record: number,
            source,
        })?;
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // If this fails too the torn line is cut off at the next start.
            let undone = self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::End(0)));
            if let Err(error) = undone {
                tracing::error!("`{}`: an unfinished record could not be taken back: {error}", self.path.display());
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
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ChainFileError {
    let path = path.to_owned();
    move |source| ChainFileError::Io { action, path, source }
}

fn sync_directory(path: &Path) -> Result<(), ChainFileError> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|file| file.sync_all()).map_err(io_error("sync the folder of", path))
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
        let disk = std::mem::replace(&mut log.file, OpenOptions::new().write(true).open(full).expect("open"));
        assert!(matches!(log.append("lost".into(), UnixMillis(1), &key), Err(ChainFileError::Io { .. })));
        log.file = disk;
        assert_eq!(log.append("second".into(), UnixMillis(2), &key).expect("appended").seq, 1);
    }
}
