//! One chained log, read without trust: its first record names the key that signed all of it.

use std::{cell::Cell, path::Path};

use semisam_shared::{
    chain::{Head, Record, file},
    ids::PublicKey,
    signing::{Domain, SigningError},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Kind, Verdict, VerifyError, folder};

/// A log and how far it can be believed.
#[derive(Debug)]
pub(crate) struct Log<E> {
    /// As findings name it.
    pub(crate) file: String,
    /// The records up to the first that is wrong.
    pub(crate) records: Vec<Record<E>>,
    /// Whether that is all of them: what is absent from a broken log proves nothing.
    pub(crate) whole: bool,
}

impl<E: Serialize + DeserializeOwned> Log<E> {
    /// Reads the log at `path`. `key` gives the key that a first record, called `first`, names.
    pub(super) fn read(
        verdict: &mut Verdict,
        root: &Path,
        path: &Path,
        domain: Domain,
        first: &str,
        key: fn(&E) -> Option<PublicKey>,
    ) -> Result<Self, VerifyError> {
        let (signer, nameless) = (Cell::new(None), Cell::new(false));
        let read = file::read(path, domain, |event| {
            let known: Option<PublicKey> = signer.get().or_else(|| key(event));
            nameless.set(known.is_none());
            signer.set(known);
            known.ok_or(SigningError::Mismatch(PublicKey([0; 32])))
        })?;
        let file = folder::relative(root, path);
        match &read.broken {
            Some((record, _)) if nameless.get() => {
                verdict.find(
                    &file,
                    Some(*record),
                    Kind::Beginning,
                    format!("the first record is not {first}: the beginning is missing"),
                );
            }
            Some((record, error)) => verdict.find(&file, Some(*record), Kind::Record, error.to_string()),
            None if read.records.is_empty() => verdict.find(&file, None, Kind::Beginning, "the log has no record"),
            None => {}
        }
        if read.torn > 0 {
            let problem = format!(
                "{} bytes of an unfinished record stand at the end: if a crash left them, starting the program once cuts them off",
                read.torn
            );
            verdict.find(&file, Some(read.records.len() as u64), Kind::Torn, problem);
        }
        Ok(Self { file, whole: read.broken.is_none(), records: read.records })
    }

    /// Whether the log had this head once.
    pub(super) fn had(&self, head: Head) -> bool {
        let last = head.length.checked_sub(1).and_then(|last| usize::try_from(last).ok());
        last.and_then(|last| self.records.get(last)).is_some_and(|record| record.hash == head.hash)
    }
}
