//! Follows a log while its program writes it: the events of new, complete lines.
//!
//! For display and timing only: nothing is verified here, the auditor does that on the finished logs.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    marker::PhantomData,
    path::PathBuf,
};

use serde::{Deserialize, de::DeserializeOwned};

/// A log cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// The file system said no.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// Which log.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A line is no record.
    #[error("`{}` holds a line that is no record: a program of this version writes no such line", path.display())]
    Line {
        /// Which log.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

#[derive(Deserialize)]
struct Line<E> {
    event: E,
}

/// A log that grows.
#[derive(Debug)]
pub(crate) struct Tail<E> {
    path: PathBuf,
    /// Where the first line begins that was not read yet.
    offset: u64,
    /// The length of the file when it was last read, to notice growth without opening it.
    length: u64,
    event: PhantomData<E>,
}

impl<E: DeserializeOwned> Tail<E> {
    /// Follows the log at `path`, which need not exist yet, from its beginning.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, offset: 0, length: 0, event: PhantomData }
    }

    /// What was written since the last call. A line that is not complete yet waits for the next.
    pub(crate) fn news(&mut self) -> Result<Vec<E>, TailError> {
        let length = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            Err(source) => return Err(TailError::Io { path: self.path.clone(), source }),
        };
        if length == self.length {
            return Ok(vec![]);
        }
        self.length = length;
        let bytes = self.rest().map_err(|source| TailError::Io { path: self.path.clone(), source })?;
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines = bytes[..end].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let events = lines.map(|line| serde_json::from_slice::<Line<E>>(line).map(|line| line.event));
        let events = events.collect::<Result<_, _>>();
        self.offset += end as u64;
        events.map_err(|source| TailError::Line { path: self.path.clone(), source })
    }

    fn rest(&self) -> io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_lines_come_once_and_torn_ones_wait() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log.jsonl");
        let mut tail = Tail::<u32>::new(path.clone());
        assert!(tail.news().expect("no file yet").is_empty());
        std::fs::write(&path, "{\"event\":1,\"sig\":\"x\"}\n{\"event\":2}\n{\"ev").expect("written");
        assert_eq!(tail.news().expect("two"), [1, 2]);
        assert!(tail.news().expect("nothing new").is_empty());
        // A crash tore the last line; the next start cut it off and wrote another one.
        std::fs::write(&path, "{\"event\":1,\"sig\":\"x\"}\n{\"event\":2}\n{\"event\":3}\n").expect("written");
        assert_eq!(tail.news().expect("one"), [3]);
        std::fs::write(&path, "{\"event\":1,\"sig\":\"x\"}\n{\"event\":2}\n{\"event\":3}\nnonsense\n")
            .expect("written");
        assert!(tail.news().is_err());
    }
}
