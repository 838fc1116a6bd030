//! `semisam-node enroll`: installs the certificate that the consortium made from this site's request.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use semisam_shared::{
    clock,
    ids::SiteId,
    issue::{self, IssueError},
    tls::{Identity, TlsError, TlsFiles},
};
use serde_json::json;

use super::{Dir, Exit, Failure, Format, Rim};
use crate::{
    privacy::book::{BookError, reading},
    site_folder::{SiteFolder, SiteFolderError},
};

/// Arguments of `enroll`.
#[derive(Clone, Debug, clap::Args)]
pub struct Enroll {
    #[command(flatten)]
    site: Dir,
    /// The certificate that the consortium made
    #[arg(long)]
    certificate: PathBuf,
    /// The consortium's authority.pem
    #[arg(long)]
    authority: PathBuf,
}

/// The certificate was not installed.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The files do not fit.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It is for another site.
    #[error(
        "the certificate is for site {certificate}, but this ledger belongs to site {ledger}: a site's number is its key, so put back the `tls/key.pem` that `init` made"
    )]
    OtherSite {
        /// The certificate's.
        certificate: SiteId,
        /// The ledger's.
        ledger: SiteId,
    },
    /// A file cannot be copied.
    #[error("cannot copy to `{}`", path.display())]
    Copy {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The folder.
    #[error(transparent)]
    Folder(#[from] SiteFolderError),
    /// The ledger.
    #[error(transparent)]
    Book(#[from] BookError),
}

impl Enroll {
    pub(super) fn run(self, rim: &mut Rim<'_>) -> Result<Exit, Failure> {
        let folder = SiteFolder::open(&self.site.dir)?;
        let identity = install(&folder, &self.certificate, &self.authority).map_err(|error| match error {
            EnrollError::Tls(TlsError::Read { .. }) | EnrollError::Copy { .. } | EnrollError::Issue(_) => error.into(),
            refused => Failure::refused(refused),
        })?;
        let config = folder.config()?;
        if identity.name != config.name {
            tracing::warn!("the certificate calls this site `{}`, node.toml `{}`", identity.name, config.name);
        }
        if rim.format == Format::Json {
            let until = identity.not_after.to_string();
            rim.json(&json!({"name": identity.name, "site": identity.site, "valid_until": until}))?;
            return Ok(Exit::Done);
        }
        rim.table(&[
            ("name", identity.name.clone()),
            ("site number", identity.site.to_string()),
            ("valid until", identity.not_after.to_string()),
        ])?;
        Ok(Exit::Done)
    }
}

/// Checks certificate and authority against this site's key and ledger, and copies them into its folder. A later
/// certificate for the same key replaces an earlier one.
///
/// # Errors
/// If they do not belong here; the folder is then as before.
pub fn install(folder: &SiteFolder, certificate: &Path, authority: &Path) -> Result<Identity, EnrollError> {
    let installed = folder.tls();
    let offered = TlsFiles { authority: authority.into(), certificate: certificate.into(), key: installed.key.clone() };
    let identity = offered.check(clock::now())?;
    if let Some(owner) = reading(&folder.ledger())?.ledger.owner
        && owner.site != identity.site
    {
        return Err(EnrollError::OtherSite { certificate: identity.site, ledger: owner.site });
    }
    replace(authority, &installed.authority)?;
    replace(certificate, &installed.certificate)?;
    Ok(identity)
}

/// Puts a private copy of `from` at `to`, whole or not at all.
fn replace(from: &Path, to: &Path) -> Result<(), EnrollError> {
    let failed = |source| EnrollError::Copy { path: to.into(), source };
    let text = fs::read_to_string(from).map_err(failed)?;
    let part = to.with_extension("part");
    match fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    issue::write_private(&part, &text)?;
    fs::rename(&part, to).map_err(failed)
}
