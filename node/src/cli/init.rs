//! `semisam-node init`: the folder of a new site.
//!
//! Everything that can be wrong is checked, and both keys are made, before the first file is written; the ledger comes
//! last, so that a folder with a ledger is whole.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use semisam_shared::{
    clock,
    ids::SiteId,
    issue::{self, IssueError, Request},
    signing::{SigningError, SigningKey},
};
use serde_json::json;

use super::{Exit, Failure, Format, Rim};
use crate::{
    config::{DEFAULT_CACHE_GIB, DEFAULT_POLICY, NodeConfig, parse_policy, split_address},
    device::DeviceChoice,
    privacy::book::{Book, BookError},
    site_folder::SiteFolder,
};

/// Arguments of `init`.
#[derive(Clone, Debug, clap::Args)]
pub struct Init {
    /// The folder to make
    #[arg(long, default_value = "node")]
    pub dir: PathBuf,
    /// What people call this site
    #[arg(long)]
    pub name: String,
    /// The coordinator, `host:port`
    #[arg(long)]
    pub coordinator: String,
    /// A name or address in the coordinator's certificate [default: the host of --coordinator]
    #[arg(long)]
    pub server_name: Option<String>,
    /// The folder of scans: images/, labels/, patients.csv
    #[arg(long)]
    pub data: PathBuf,
    /// Where to train
    #[arg(long, value_enum, default_value_t)]
    pub device: DeviceChoice,
    /// Whose budget the ledger keeps, if one site has several cohorts
    #[arg(long, default_value = "all patients")]
    pub cohort: String,
    /// Who approves plans here: the data protection officer
    #[arg(long)]
    pub approver: Option<String>,
}

/// No site was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Something is there.
    #[error(
        "`{}` exists and is not empty: a site is never made twice, because its ledger cannot be started again; name \
         another folder with `--dir`", .0.display()
    )]
    Exists(PathBuf),
    /// No such data.
    #[error("`{}` is not a folder that can be read: `--data` names the folder with images/ and labels/", path.display())]
    Data {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Option<io::Error>,
    },
    /// Not `host:port`.
    #[error("`{0}` must read `host:port`: ask the consortium where its coordinator is")]
    Coordinator(String),
    /// A file cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Key or request.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// Signing key.
    #[error(transparent)]
    Signing(#[from] SigningError),
    /// Ledger.
    #[error(transparent)]
    Book(#[from] BookError),
    /// The default policy.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
}

impl Init {
    /// Makes the folder and says what comes next.
    pub(super) fn run(self, rim: &mut Rim<'_>) -> Result<Exit, Failure> {
        let site = self.make()?;
        let folder = SiteFolder::at(&self.dir);
        let request = folder.request();
        if rim.format == Format::Json {
            rim.json(&json!({"name": self.name, "site": site, "dir": self.dir, "request": request}))?;
            return Ok(Exit::Done);
        }
        rim.table(&[
            ("name", self.name.clone()),
            ("site number", site.to_string()),
            ("folder", self.dir.display().to_string()),
            ("request", request.display().to_string()),
        ])?;
        let dir = self.dir.display();
        writeln!(rim.out, "\nnext:")?;
        writeln!(rim.out, "  1. send `{}` to the consortium", request.display())?;
        writeln!(rim.out, "  2. read the site number to them by telephone")?;
        writeln!(rim.out, "  3. semisam-node enroll --dir {dir} --certificate FILE --authority FILE")?;
        writeln!(
            rim.out,
            "  4. read `{}`; after a change: semisam-node policy set --dir {dir}",
            folder.policy_file().display()
        )?;
        writeln!(
            rim.out,
            "  5. semisam-node policy approve --dir {dir} DIGEST, with the plan's digest from the consortium"
        )?;
        writeln!(rim.out, "keep a copy of `signing.key` and `tls/key.pem`, and let no backup put an old ledger back")?;
        Ok(Exit::Done)
    }

    /// Makes the folder, and answers the number of the new site.
    ///
    /// # Errors
    /// If anything about it is wrong; nothing is left behind then.
    pub fn make(&self) -> Result<SiteId, InitError> {
        let existed = self.dir.exists();
        if existed && !is_empty(&self.dir) {
            return Err(InitError::Exists(self.dir.clone()));
        }
        let config = self.config()?;
        let request = issue::new_request(&self.name)?;
        let key = SigningKey::generate()?;
        let site = request.site;
        let made = self.write(&config, &request, key);
        if made.is_err() {
            clear(&self.dir, existed);
        }
        made.map(|()| site)
    }

    fn config(&self) -> Result<NodeConfig, InitError> {
        let host = split_address(&self.coordinator).ok_or_else(|| InitError::Coordinator(self.coordinator.clone()))?;
        let data = |source| InitError::Data { path: self.data.clone(), source };
        // Absolute, so that it means the same wherever the node is started.
        let absolute = fs::canonicalize(&self.data).map_err(|source| data(Some(source)))?;
        if !absolute.is_dir() {
            return Err(data(None));
        }
        Ok(NodeConfig {
            name: self.name.clone(),
            coordinator: self.coordinator.clone(),
            server_name: self.server_name.clone().unwrap_or_else(|| host.to_owned()),
            data: absolute,
            device: self.device,
            cache_gib: DEFAULT_CACHE_GIB,
            approver: self.approver.clone(),
        })
    }

    fn write(&self, config: &NodeConfig, request: &Request, key: SigningKey) -> Result<(), InitError> {
        let folder = SiteFolder::at(&self.dir);
        for path in [folder.path().to_owned(), folder.path().join("tls"), folder.payloads(), folder.models()] {
            private_folder(&path).map_err(|source| InitError::Write { path, source })?;
        }
        let write =
            |path: PathBuf, text: &str| fs::write(&path, text).map_err(|source| InitError::Write { path, source });
        issue::write_private(&folder.tls().key, &request.key_pem)?;
        issue::write_private(&folder.signing_key_file(), &key.to_hex())?;
        write(folder.request(), &request.csr_pem)?;
        write(folder.config_file(), &config.to_text())?;
        write(folder.policy_file(), DEFAULT_POLICY)?;
        let policy = parse_policy(&folder.policy_file(), DEFAULT_POLICY)?;
        let site = (request.site, self.name.as_str(), self.cohort.as_str());
        Book::create(&folder.ledger(), key, site, policy, clock::now())?;
        Ok(())
    }
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

fn private_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Takes back what a failed `init` left in a folder that was empty or not there before.
fn clear(dir: &Path, existed: bool) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        if let Err(error) = removed {
            tracing::warn!("`{}` is left over and may be removed: {error}", path.display());
        }
    }
    if !existed {
        let _ = fs::remove_dir(dir);
    }
}
