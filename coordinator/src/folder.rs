//! Where things are in the coordinator's folder. Nothing else knows these names.

use std::{
    fs,
    path::{Path, PathBuf},
};

use semisam_shared::{
    ids::SiteId,
    signing::{SigningError, SigningKey},
    tls::TlsFiles,
};

use crate::disk::{self, DiskError};

/// The folder is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// No federation was founded there.
    #[error("`{}` holds no federation: make one with `semisam-coordinator init --dir {}`", .0.display(), .0.display())]
    NotFounded(PathBuf),
    /// The file system said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A key file is damaged.
    #[error("`{}`", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: SigningError,
    },
    /// The list of excluded sites is damaged.
    #[error("`{}` must hold a JSON list of sites, 64 hex digits each: {reason}", path.display())]
    Revoked {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// The coordinator's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The folder at `root`, whether or not it is there.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The folder at `root`, in which a federation was founded.
    ///
    /// # Errors
    /// If there is none.
    pub fn open(root: &Path) -> Result<Self, FolderError> {
        let folder = Self::new(root);
        if folder.journal().is_file() { Ok(folder) } else { Err(FolderError::NotFounded(root.to_owned())) }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The configuration.
    pub fn config(&self) -> PathBuf {
        self.root.join("coordinator.toml")
    }

    /// The certificate of the consortium's authority.
    pub fn authority_certificate(&self) -> PathBuf {
        self.root.join("consortium/authority.pem")
    }

    /// The key of the consortium's authority.
    pub fn authority_key(&self) -> PathBuf {
        self.root.join("consortium/authority.key")
    }

    /// The key that signs the plan.
    pub fn plan_key(&self) -> PathBuf {
        self.root.join("consortium/plan.key")
    }

    /// What the coordinator shows to sites.
    pub fn tls_files(&self) -> TlsFiles {
        TlsFiles {
            authority: self.authority_certificate(),
            certificate: self.root.join("tls/certificate.pem"),
            key: self.root.join("tls/key.pem"),
        }
    }

    /// The key that signs journal and receipts.
    pub fn signing_key(&self) -> PathBuf {
        self.root.join("signing.key")
    }

    /// The signed plan, for people; what counts is the first record of the journal.
    pub fn plan(&self) -> PathBuf {
        self.root.join("plan.json")
    }

    /// The journal.
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal.jsonl")
    }

    /// Content-addressed blobs.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Unfinished uploads.
    pub fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    /// Certificates that were issued.
    pub fn sites(&self) -> PathBuf {
        self.root.join("sites")
    }

    /// The certificate that was issued to `name`.
    pub fn site_certificate(&self, name: &str) -> PathBuf {
        self.sites().join(format!("{name}.pem"))
    }

    /// Sites that are excluded.
    pub fn revoked(&self) -> PathBuf {
        self.root.join("revoked.json")
    }

    /// Where the server listens, once it does.
    pub fn address(&self) -> PathBuf {
        self.root.join("address")
    }

    /// The key that signs journal and receipts.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read_signing_key(&self) -> Result<SigningKey, FolderError> {
        let path = self.signing_key();
        let text = fs::read_to_string(&path).map_err(DiskError::at("read", &path))?;
        SigningKey::from_hex(&text).map_err(|source| FolderError::Key { path, source })
    }

    /// The sites that are excluded; none without the file.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn read_revoked(&self) -> Result<Vec<SiteId>, FolderError> {
        let path = self.revoked();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
            Err(source) => return Err(DiskError { action: "read", path, source }.into()),
        };
        serde_json::from_str(&text).map_err(|error| FolderError::Revoked { path, reason: error.to_string() })
    }

    /// Writes the sites that are excluded.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_revoked(&self, sites: &[SiteId]) -> Result<(), FolderError> {
        let list: Vec<String> = sites.iter().map(|site| format!("  \"{site}\"")).collect();
        Ok(disk::write(&self.revoked(), format!("[\n{}\n]\n", list.join(",\n")).as_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excluded_sites_are_read_back_and_nonsense_is_named() {
        let folder = tempfile::tempdir().expect("folder");
        let folder = Folder::new(folder.path());
        assert_eq!(folder.read_revoked().expect("none"), []);
        let sites = [SiteId([1; 32]), SiteId([2; 32])];
        folder.write_revoked(&sites).expect("written");
        assert_eq!(folder.read_revoked().expect("read"), sites);
        fs::write(folder.revoked(), "[\"north\"]").expect("written");
        assert!(folder.read_revoked().expect_err("nonsense").to_string().contains("revoked.json"));
        assert!(matches!(Folder::open(folder.root()), Err(FolderError::NotFounded(_))));
    }
}
