//! Uploads on their way: one unfinished file a site, no longer than the plan's update, resumed from its length.
//!
//! The bytes are hashed as they arrive, so an update is written once and read once, by the fold (spec/operations.md,
//! A5). Writes are plain and synchronous: when a part is dropped nothing is under way any more, so no late write can
//! change bytes after they were checked.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use semisam_shared::{
    ids::{Digest, SiteId},
    receipt::Receipt,
};
use sha2::{Digest as _, Sha256};

use crate::disk::{self, DiskError};

/// The folder of unfinished uploads.
#[derive(Clone, Debug)]
pub struct Spool {
    root: PathBuf,
}

/// An upload in progress. Dropping it keeps what came, for the next attempt.
#[derive(Debug)]
pub struct Part {
    path: PathBuf,
    file: File,
    hash: Sha256,
    length: u64,
    receipt: Receipt,
}

/// An update that is on disk, whole, with the digest that was announced.
#[derive(Debug)]
pub struct Verified {
    pub(crate) path: PathBuf,
    pub(crate) receipt: Receipt,
}

/// How an upload ended.
#[derive(Debug)]
pub enum Finish {
    /// It is what was announced.
    Verified(Verified),
    /// It is something else; it was thrown away.
    WrongDigest,
}

impl Spool {
    /// The spool below `root`, made if need be.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn open(root: &Path) -> Result<Self, DiskError> {
        disk::make_folder(root)?;
        Ok(Self { root: root.to_owned() })
    }

    /// The unfinished upload of what `receipt` announces; what its site had begun before is thrown away.
    /// The caller sees to it that a site has one at a time, and that the announced length is the plan's.
    ///
    /// # Errors
    /// If the disk says no.
    pub fn part(&self, receipt: Receipt) -> Result<Part, DiskError> {
        let path = self.path(receipt.site, receipt.payload);
        for other in self.parts()? {
            if other != path && is_of(&other, receipt.site) {
                disk::remove(&other)?;
            }
        }
        let failed = |source| DiskError { action: "open the upload", path: path.clone(), source };
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = options.map_err(failed)?;
        if file.metadata().map_err(failed)?.len() > receipt.bytes {
            file.set_len(0).map_err(failed)?;
        }
        let mut hash = Sha256::new();
        let length = hash_all(&mut file, &mut hash).map_err(failed)?;
        file.seek(SeekFrom::Start(length)).map_err(failed)?;
        Ok(Part { path, file, hash, length, receipt })
    }

    /// Throws everything away that was not accepted: its round is over.
    ///
    /// # Errors
    /// If the disk says no.
    pub fn clear(&self) -> Result<(), DiskError> {
        self.parts()?.iter().try_for_each(|path| disk::remove(path))
    }

    /// The files of unfinished uploads.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub fn parts(&self) -> Result<Vec<PathBuf>, DiskError> {
        let entries = fs::read_dir(&self.root).map_err(DiskError::at("list", &self.root))?;
        Ok(entries.flatten().map(|entry| entry.path()).collect())
    }

    fn path(&self, site: SiteId, payload: Digest) -> PathBuf {
        self.root.join(format!("{site}-{payload}.part"))
    }
}

fn is_of(path: &Path, site: SiteId) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&site.to_string()))
}

fn hash_all(file: &mut File, hash: &mut Sha256) -> io::Result<u64> {
    let (mut buffer, mut length) = (vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(length),
            count => {
                hash.update(&buffer[..count]);
                length += count as u64;
            }
        }
    }
}

impl Part {
    /// How many bytes there are: where to resume.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// How many there should be.
    pub fn total(&self) -> u64 {
        self.receipt.bytes
    }

    /// Makes the bytes durable and holds them against the announced digest.
    ///
    /// # Errors
    /// If the disk says no.
    pub fn finish(self) -> Result<Finish, DiskError> {
        if self.length != self.receipt.bytes || Digest(self.hash.finalize().into()) != self.receipt.payload {
            disk::remove(&self.path)?;
            return Ok(Finish::WrongDigest);
        }
        self.file.sync_all().map_err(DiskError::at("sync the upload", &self.path))?;
        Ok(Finish::Verified(Verified { path: self.path, receipt: self.receipt }))
    }
}

impl Write for Part {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.length + bytes.len() as u64 > self.receipt.bytes {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more bytes than were announced"));
        }
        let count = self.file.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // nothing is buffered
    }
}

impl Verified {
    /// What was received.
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// Throws the update away: the rules do not want it.
    pub fn discard(self) {
        if let Err(error) = disk::remove(&self.path) {
            tracing::warn!("{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use semisam_shared::{chain::Head, ids::RoundNumber};

    fn receipt(bytes: &[u8]) -> Receipt {
        Receipt {
            plan: Digest::ZERO,
            round: RoundNumber(1),
            site: SiteId([7; 32]),
            payload: Digest::of(bytes),
            bytes: bytes.len() as u64,
            ledger: Head::EMPTY,
        }
    }

    #[test]
    fn an_upload_resumes_where_it_was_cut_at_any_byte() {
        let folder = tempfile::tempdir().expect("folder");
        let spool = Spool::open(&folder.path().join("spool")).expect("made");
        let update = b"twelve bytes";
        for cut in 0..=update.len() {
            let mut part = spool.part(receipt(update)).expect("opened");
            assert_eq!(part.length(), 0);
            part.write_all(&update[..cut]).expect("written");
            drop(part);
            let mut part = spool.part(receipt(update)).expect("opened");
            assert_eq!(part.length(), cut as u64);
            part.write_all(&update[cut..]).expect("written");
            assert!(part.write_all(b"!").is_err(), "a byte too many");
            let Finish::Verified(verified) = part.finish().expect("synced") else { panic!("wrong digest at {cut}") };
            assert_eq!(fs::read(&verified.path).expect("there"), update);
            verified.discard();
        }
    }

    #[test]
    fn wrong_bytes_are_thrown_away_and_a_site_has_one_part() {
        let folder = tempfile::tempdir().expect("folder");
        let spool = Spool::open(folder.path()).expect("made");
        let mut part = spool.part(receipt(b"right")).expect("opened");
        part.write_all(b"wrong").expect("written");
        assert!(matches!(part.finish().expect("read"), Finish::WrongDigest));
        assert!(spool.parts().expect("listed").is_empty());
        drop(spool.part(receipt(b"first")).expect("opened"));
        drop(spool.part(receipt(b"second")).expect("opened"));
        let other = Receipt { site: SiteId([8; 32]), ..receipt(b"first") };
        drop(spool.part(other).expect("opened"));
        assert_eq!(spool.parts().expect("listed").len(), 2);
        spool.clear().expect("cleared");
        assert!(spool.parts().expect("listed").is_empty());
    }

    #[test]
    fn a_part_that_is_too_long_starts_anew() {
        let folder = tempfile::tempdir().expect("folder");
        let spool = Spool::open(folder.path()).expect("made");
        let path = spool.path(SiteId([7; 32]), Digest::of(b"short"));
        fs::write(path, b"much too long").expect("written");
        assert_eq!(spool.part(receipt(b"short")).expect("opened").length(), 0);
    }
}
