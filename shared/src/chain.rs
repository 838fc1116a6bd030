//! Hash-chained, signed logs: one canonical JSON record a line, each carrying the SHA-256 of the line before it and an
//! Ed25519 signature. A hospital's privacy ledger and the coordinator's journal are such logs.
//!
//! A line has exactly one spelling, so any changed byte is found: the line is re-written from what was read and must be
//! equal; the next record's `prev` covers the signature too.

use std::marker::PhantomData;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub mod file;

use crate::{
    canonical::{CanonicalError, to_canonical},
    ids::{Digest, PublicKey, UnixMillis},
    signing::{Domain, Signature, SigningError, SigningKey},
};

/// The version of the record format.
pub const VERSION: u32 = 1;

/// The largest line, in bytes.
pub const MAX_LINE: usize = 256 * 1024;

/// What is signed: everything of a line but the signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<E> {
    v: u32,
    seq: u64,
    prev: Digest,
    at: UnixMillis,
    event: E,
}

/// One record of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<E> {
    /// Its number, counted from 0.
    pub seq: u64,
    /// The digest of the line before it; zero for the first.
    pub prev: Digest,
    /// When it was written.
    pub at: UnixMillis,
    /// What happened.
    pub event: E,
    /// The digest of its own line.
    pub hash: Digest,
}

/// Why a line does not continue a chain.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// Not canonical JSON of a record.
    #[error("not a record: {0}")]
    Format(String),
    /// Spelt differently from what it says.
    #[error("the line is not in canonical form: it was edited")]
    Spelling,
    /// A version that this program does not know.
    #[error("record format version {0} is unknown: use a newer program")]
    Version(u32),
    /// A number out of order.
    #[error("record number {found} stands where {expected} should")]
    Sequence {
        /// The number that should follow.
        expected: u64,
        /// The number that stands there.
        found: u64,
    },
    /// The digest of the previous line differs.
    #[error("the record does not follow the line before it: a line was changed, removed or inserted")]
    Broken,
    /// The signature is void.
    #[error(transparent)]
    Signature(#[from] SigningError),
    /// The record cannot be written.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
}

/// Where a chain ends: what the next record must follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// How many records there are: the number of the next one.
    pub length: u64,
    /// The digest of the last line; zero if there is none.
    pub hash: Digest,
}

impl Head {
    /// The head of an empty chain.
    pub const EMPTY: Head = Head { length: 0, hash: Digest::ZERO };
}

/// Reads and writes the lines of one chain, and remembers where it ends.
#[derive(Debug)]
pub struct Chain<E> {
    domain: Domain,
    head: Head,
    event: PhantomData<E>,
}

impl<E: Serialize + DeserializeOwned> Chain<E> {
    /// An empty chain.
    pub fn new(domain: Domain) -> Self {
        Self { domain, head: Head::EMPTY, event: PhantomData }
    }

    /// The next line, with its line feed, and the record that it holds.
    ///
    /// # Errors
    /// If the event cannot be written canonically.
    pub fn write(&mut self, event: E, at: UnixMillis, key: &SigningKey) -> Result<(String, Record<E>), ChainError> {
        let body = Body { v: VERSION, seq: self.head.length, prev: self.head.hash, at, event };
        let signature = key.sign(self.domain, to_canonical(&body)?.as_bytes());
        let mut line = spell(&body, &signature)?;
        let hash = Digest::of(line.as_bytes());
        line.push('\n');
        self.head = Head { length: body.seq + 1, hash };
        Ok((line, Record { seq: body.seq, prev: body.prev, at, event: body.event, hash }))
    }

    /// The record in the next line (without its line feed), signed by `key`. The key is a function of the event, since
    /// the first record of a chain names the key of all.
    ///
    /// # Errors
    /// If anything about the line is not as `write` would have left it. The chain is then as before.
    pub fn read(
        &mut self,
        line: &str,
        key: impl FnOnce(&E) -> Result<PublicKey, SigningError>,
    ) -> Result<Record<E>, ChainError> {
        if line.len() > MAX_LINE {
            return Err(ChainError::Format(format!("the line has more than {MAX_LINE} bytes")));
        }
        let mut value: serde_json::Value = serde_json::from_str(line).map_err(|e| ChainError::Format(e.to_string()))?;
        let signature = value.as_object_mut().and_then(|fields| fields.remove("sig"));
        let signature = signature.ok_or_else(|| ChainError::Format("it has no signature".into()))?;
        let format = |e: serde_json::Error| ChainError::Format(e.to_string());
        let signature: Signature = serde_json::from_value(signature).map_err(format)?;
        let body: Body<E> = serde_json::from_value(value).map_err(format)?;
        if body.v != VERSION {
            return Err(ChainError::Version(body.v));
        }
        if spell(&body, &signature)? != line {
            return Err(ChainError::Spelling);
        }
        if body.seq != self.head.length {
            return Err(ChainError::Sequence { expected: self.head.length, found: body.seq });
        }
        if body.prev != self.head.hash {
            return Err(ChainError::Broken);
        }
        signature.verify(key(&body.event)?, self.domain, to_canonical(&body)?.as_bytes())?;
        let hash = Digest::of(line.as_bytes());
        self.head = Head { length: body.seq + 1, hash };
        Ok(Record { seq: body.seq, prev: body.prev, at: body.at, event: body.event, hash })
    }

    /// Where the chain ends.
    pub fn head(&self) -> Head {
        self.head
    }
}

fn spell<E: Serialize>(body: &Body<E>, signature: &Signature) -> Result<String, CanonicalError> {
    let mut value = serde_json::to_value(body)?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("sig".into(), serde_json::to_value(signature)?);
    }
    to_canonical(&value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(key: &SigningKey) -> Vec<String> {
        let mut chain = Chain::<String>::new(Domain::Ledger);
        (0..3).map(|i| chain.write(format!("event {i}"), UnixMillis(i), key).expect("written").0).collect()
    }

    fn read_all(lines: &[String], key: &SigningKey) -> Result<Head, ChainError> {
        let mut chain = Chain::<String>::new(Domain::Ledger);
        for line in lines {
            chain.read(line.trim_end_matches('\n'), |_| Ok(key.public()))?;
        }
        Ok(chain.head())
    }

    #[test]
    fn any_changed_byte_is_found() {
        let key = SigningKey::generate().expect("entropy");
        let good = lines(&key);
        assert_eq!(read_all(&good, &key).expect("sound").length, 3);
        for line in 0..good.len() {
            for byte in 0..good[line].len() - 1 {
                for change in [1_u8, 0x20] {
                    let mut bytes = good[line].clone().into_bytes();
                    bytes[byte] ^= change;
                    let Ok(text) = String::from_utf8(bytes) else { continue };
                    let mut bad = good.clone();
                    bad[line] = text;
                    assert!(read_all(&bad, &key).is_err(), "line {line} byte {byte} change {change}");
                }
            }
        }
    }

    #[test]
    fn removed_swapped_and_foreign_records_are_found() {
        let key = SigningKey::generate().expect("entropy");
        let good = lines(&key);
        assert!(matches!(read_all(&good[1..], &key), Err(ChainError::Sequence { expected: 0, found: 1 })));
        let swapped = [good[0].clone(), good[2].clone(), good[1].clone()];
        assert!(read_all(&swapped, &key).is_err());
        let spliced = [good[0].clone(), lines(&key)[1].replace("event 1", "event x")];
        assert!(read_all(&spliced, &key).is_err());
        assert!(read_all(&good, &SigningKey::generate().expect("entropy")).is_err());
    }
}
