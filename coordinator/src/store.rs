//! Models, momenta, the basis and accepted updates: files named by the SHA-256 of their bytes.
//!
//! A blob is complete before it gets its name (temporary file, fsync, rename, fsync of the folder), and it is never
//! overwritten, so whatever the journal names is whole. Every read that matters is checked against the name: a disk that
//! forgets is found, not trusted. The layout is that of a git object folder: `<first 2 hex digits>/<64 hex digits>`.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use semisam_shared::ids::Digest;
use sha2::{Digest as _, Sha256};

use crate::disk::{self, DiskError};

/// How much of a blob is in memory at a time. A multiple of 4, so that no coordinate of an update is split.
const CHUNK: usize = 1 << 20;

/// A blob cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// No such blob.
    #[error("blob {digest} is not in `{}`: restore the folder from a backup", root.display())]
    Missing {
        /// Which.
        digest: Digest,
        /// Where it should be.
        root: PathBuf,
    },
    /// The bytes do not fit the name.
    #[error(
        "`{}` does not hold the bytes that its name promises: the disk damaged it, restore that file from a backup",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
}

/// A folder of blobs.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The store below `root`, for reading. Nothing is made or swept.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The store below `root`, made if need be; what a crash left unfinished is swept.
    ///
    /// # Errors
    /// If the folder cannot be made or read.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        disk::make_folder(root)?;
        let list = |folder: &Path| fs::read_dir(folder).map_err(DiskError::at("list", folder));
        for entry in list(root)?.flatten().filter(|entry| entry.path().is_dir()) {
            for file in list(&entry.path())?.flatten() {
                if file.file_name().to_string_lossy().starts_with(disk::TEMPORARY) {
                    disk::remove(&file.path())?;
                }
            }
        }
        Ok(Self::at(root))
    }

    /// Where the blob is, or would be.
    pub fn path(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.root.join(&name[..2]).join(&name)
    }

    /// Stores `bytes`; they are on disk when this returns.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        let path = self.path(digest);
        if !self.intact(digest)? {
            disk::make_folder(disk::folder_of(&path))?;
            disk::write(&path, bytes)?;
        }
        Ok(digest)
    }

    /// Takes over a file whose bytes are on disk and are known to have this digest.
    ///
    /// # Errors
    /// If it cannot be moved.
    pub fn adopt(&self, file: &Path, digest: Digest) -> Result<(), StoreError> {
        let path = self.path(digest);
        if self.intact(digest)? {
            return Ok(disk::remove(file)?);
        }
        disk::make_folder(disk::folder_of(&path))?;
        Ok(disk::rename(file, &path)?)
    }

    /// All bytes of a blob, checked.
    ///
    /// # Errors
    /// If it is missing or damaged.
    pub fn get(&self, digest: Digest) -> Result<Vec<u8>, StoreError> {
        let (_, length) = self.open_blob(digest)?;
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        self.read_through(digest, |chunk| bytes.extend_from_slice(chunk))?;
        Ok(bytes)
    }

    /// Shows all bytes of a blob to `each`, in pieces of at most a mebibyte whose length is a multiple of 4 except for
    /// the last. What `each` made of them counts only if this succeeds: the digest is known at the end.
    ///
    /// # Errors
    /// If it is missing or damaged.
    pub fn read_through(&self, digest: Digest, mut each: impl FnMut(&[u8])) -> Result<(), StoreError> {
        let (mut file, _) = self.open_blob(digest)?;
        let path = self.path(digest);
        let mut hash = Sha256::new();
        let mut buffer = vec![0; CHUNK];
        loop {
            let filled = fill(&mut file, &mut buffer).map_err(DiskError::at("read", &path))?;
            hash.update(&buffer[..filled]);
            each(&buffer[..filled]);
            if filled < buffer.len() {
                break;
            }
        }
        if Digest(hash.finalize().into()) == digest { Ok(()) } else { Err(StoreError::Damaged { path }) }
    }

    /// An open blob and its length. The bytes are not checked: whoever receives them does that.
    ///
    /// # Errors
    /// If it is missing.
    pub fn open_blob(&self, digest: Digest) -> Result<(File, u64), StoreError> {
        let path = self.path(digest);
        let file = File::open(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => StoreError::Missing { digest, root: self.root.clone() },
            _ => DiskError { action: "open", path: path.clone(), source }.into(),
        })?;
        let length = file.metadata().map_err(DiskError::at("read", &path))?.len();
        Ok((file, length))
    }

    fn intact(&self, digest: Digest) -> Result<bool, StoreError> {
        match self.read_through(digest, |_| {}) {
            Ok(()) => Ok(true),
            Err(StoreError::Missing { .. } | StoreError::Damaged { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn new_store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().expect("folder");
        let store = Store::open(&folder.path().join("store")).expect("made");
        (folder, store)
    }

    #[test]
    fn damaged_and_missing_blobs_are_named_and_a_good_copy_heals() {
        let (_folder, store) = new_store();
        let digest = store.put(b"model").expect("stored");
        let path = store.path(digest);
        fs::write(&path, b"mode1").expect("damaged");
        assert!(store.get(digest).expect_err("damaged").to_string().contains(&path.display().to_string()));
        assert_eq!(store.put(b"model").expect("healed"), digest);
        assert_eq!(store.get(digest).expect("whole"), b"model");
        let nobody = Digest::of(b"never stored");
        assert!(matches!(store.get(nobody), Err(StoreError::Missing { .. })));
        assert!(store.open_blob(nobody).is_err());
    }

    #[test]
    fn what_a_crash_left_unfinished_is_swept_and_never_read() {
        let (folder, store) = new_store();
        let digest = store.put(b"whole").expect("stored");
        let litter = disk::folder_of(&store.path(digest)).join(format!("{}1-2", disk::TEMPORARY));
        fs::write(&litter, b"who").expect("written");
        let store = Store::open(&folder.path().join("store")).expect("opened");
        assert!(!litter.exists());
        assert_eq!(store.get(digest).expect("whole"), b"whole");
    }

    #[test]
    fn a_store_that_cannot_be_written_says_where() {
        let (folder, store) = new_store();
        let digest = Digest::of(b"blocked");
        let in_the_way = store.path(digest);
        fs::write(disk::folder_of(&in_the_way), b"a file where a folder should be").expect("written");
        let error = store.put(b"blocked").expect_err("blocked").to_string();
        assert!(error.contains(&folder.path().display().to_string()), "{error}");
    }

    #[test]
    fn a_file_is_taken_over_once() {
        let (folder, store) = new_store();
        let part = folder.path().join("part");
        for _ in 0..2 {
            fs::write(&part, b"update").expect("written");
            store.adopt(&part, Digest::of(b"update")).expect("adopted");
            assert!(!part.exists());
        }
        assert_eq!(store.get(Digest::of(b"update")).expect("whole"), b"update");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn every_blob_comes_back_whole(
            blobs in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..5000), 1..6),
            long in (CHUNK - 2)..(2 * CHUNK + 2),
        ) {
            let (_folder, store) = new_store();
            let blobs: Vec<Vec<u8>> = blobs.into_iter().chain([vec![7; long]]).collect();
            let digests: Vec<Digest> = blobs.iter().map(|blob| store.put(blob).expect("stored")).collect();
            for (digest, blob) in digests.iter().zip(&blobs) {
                prop_assert_eq!(&store.get(*digest).expect("whole"), blob);
                prop_assert_eq!(store.open_blob(*digest).expect("open").1, blob.len() as u64);
                prop_assert_eq!(store.put(blob).expect("again"), *digest);
            }
        }
    }
}
