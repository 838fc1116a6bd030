//! Where everything of one site is: the folder that `--dir` names.

use std::path::{Path, PathBuf};

use semisam_shared::{
    signing::{SigningError, SigningKey},
    tls::TlsFiles,
};
use zeroize::Zeroizing;

use crate::{
    config::{ConfigError, NodeConfig},
    privacy::book::{Book, BookError},
};

/// The folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SiteFolderError {
    /// It is not a site's folder.
    #[error(
        "`{0}` is not a site's folder: make one with `semisam-node init --dir {0} ..`, or name another with `--dir`"
    )]
    Missing(String),
    /// The signing key cannot be read.
    #[error("cannot read `{}`: restore it from your copy, a ledger cannot be continued without its key", path.display())]
    Key {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The signing key is not one.
    #[error("`{}` is damaged: restore it from your copy", path.display())]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: SigningError,
    },
    /// Others could read the signing key.
    #[error("`{}` can be read by other users: chmod 600 it; if others use this machine, set the site up anew", path.display())]
    Permissions {
        /// Where.
        path: PathBuf,
    },
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The ledger cannot be used.
    #[error(transparent)]
    Book(#[from] BookError),
}

/// The paths of one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteFolder(PathBuf);

impl SiteFolder {
    /// The paths below `dir`, whether or not they exist.
    pub fn at(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    /// A folder that `semisam-node init` made.
    ///
    /// # Errors
    /// If there is none.
    pub fn open(dir: &Path) -> Result<Self, SiteFolderError> {
        let folder = Self::at(dir);
        if folder.config_file().is_file() || folder.ledger().is_file() {
            return Ok(folder);
        }
        Err(SiteFolderError::Missing(dir.display().to_string()))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// How the site runs.
    pub fn config_file(&self) -> PathBuf {
        self.0.join("node.toml")
    }

    /// What the site allows.
    pub fn policy_file(&self) -> PathBuf {
        self.0.join("policy.toml")
    }

    /// What was spent and sent.
    pub fn ledger(&self) -> PathBuf {
        self.0.join("ledger.jsonl")
    }

    /// Committed updates.
    pub fn payloads(&self) -> PathBuf {
        self.0.join("payloads")
    }

    /// Published models, as they were fetched.
    pub fn models(&self) -> PathBuf {
        self.0.join("models")
    }

    /// Prepared scans; they are made again where they are missing.
    pub fn cache(&self) -> PathBuf {
        self.0.join("cache")
    }

    /// Checkpoints of generalists that plans may ask for.
    pub fn generalists(&self) -> PathBuf {
        self.0.join("generalists")
    }

    /// The key that signs the ledger.
    pub fn signing_key_file(&self) -> PathBuf {
        self.0.join("signing.key")
    }

    /// The request for a certificate.
    pub fn request(&self) -> PathBuf {
        self.0.join("tls/request.csr")
    }

    /// Certificate, key and authority.
    pub fn tls(&self) -> TlsFiles {
        let tls = self.0.join("tls");
        TlsFiles {
            authority: tls.join("authority.pem"),
            certificate: tls.join("certificate.pem"),
            key: tls.join("key.pem"),
        }
    }

    /// Whether a certificate was installed.
    pub fn is_enrolled(&self) -> bool {
        let TlsFiles { authority, certificate, .. } = self.tls();
        authority.is_file() && certificate.is_file()
    }

    /// Reads `node.toml`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn config(&self) -> Result<NodeConfig, ConfigError> {
        NodeConfig::load(&self.config_file())
    }

    /// Reads the signing key.
    ///
    /// # Errors
    /// If it is missing, damaged, or open to other users of this machine.
    pub fn signing_key(&self) -> Result<SigningKey, SiteFolderError> {
        let path = self.signing_key_file();
        if open_to_others(&path) {
            return Err(SiteFolderError::Permissions { path });
        }
        match std::fs::read_to_string(&path).map(Zeroizing::new) {
            Ok(text) => SigningKey::from_hex(&text).map_err(|source| SiteFolderError::Damaged { path, source }),
            Err(source) => Err(SiteFolderError::Key { path, source }),
        }
    }

    /// Opens the ledger for writing.
    ///
    /// # Errors
    /// If it is missing, in use, unsound, or does not belong to the signing key.
    pub fn book(&self) -> Result<Book, SiteFolderError> {
        Ok(Book::open(&self.ledger(), self.signing_key()?)?)
    }
}

#[cfg(unix)]
fn open_to_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o007 != 0)
}

#[cfg(not(unix))]
fn open_to_others(_path: &Path) -> bool {
    false
}
