//! `semisam-node run`: takes part in the federation until all its rounds are done.

use std::sync::Arc;

use semisam_shared::{clock, tls::TlsError};
use serde_json::json;
use tokio::runtime::Builder;

use super::{Dir, Exit, Failure, Format, Rim, resolve, signals};
use crate::{
    client::Client,
    config::NodeConfig,
    data::cache::{Cache, CacheError},
    generalist::store::Store,
    participant::{Outcome, Participant, ParticipantError, contribution::Contributor},
    privacy::book::BookError,
    site_folder::SiteFolder,
    train::scans::Storage,
};

/// How much memory prepared scans may take between the rounds; the others are read from the cache when their patient's
/// turn comes.
const MEMORY_BYTES: u64 = 2 << 30;

/// Arguments of `run`.
#[derive(Clone, Debug, clap::Args)]
pub struct Run {
    #[command(flatten)]
    site: Dir,
}

/// A site cannot start.
#[derive(Debug, thiserror::Error)]
enum RunError {
    /// No certificate.
    #[error(
        "this site has no certificate yet: send `tls/request.csr` to the consortium, then run `semisam-node enroll`"
    )]
    NotEnrolled,
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Run {
    pub(super) fn run(self, rim: &mut Rim<'_>) -> Result<Exit, Failure> {
        let folder = SiteFolder::open(&self.site.dir)?;
        let config = folder.config()?;
        if !folder.is_enrolled() {
            return Err(Failure::refused(RunError::NotEnrolled));
        }
        let device = resolve(config.device)?;
        let contributor = Contributor::new(config.data.clone(), device, storage(&folder, &config)?);
        let contributor = Arc::new(contributor.with_generalists(folder.generalists(), embeddings(&folder, &config)?));
        let book = folder.book()?;
        let site =
            book.ledger().owner.as_ref().map(|owner| owner.site).ok_or(BookError::Empty { path: folder.ledger() })?;
        tracing::info!("site `{}` ({}), coordinator `{}`", config.name, site.short(), config.coordinator);
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let ended = runtime.block_on(async {
            let client = Client::new(&folder.tls(), &config.coordinator, &config.server_name)?;
            let (payloads, models) = (folder.payloads(), folder.models());
            let mut participant = Participant { site, client, book, payloads, models, contributor };
            participant.run(signals::watch()).await
        });
        // Training cannot be interrupted in the middle of a step; the ledger needs no farewell.
        runtime.shutdown_background();
        report(ended, rim)
    }
}

fn storage(folder: &SiteFolder, config: &NodeConfig) -> Result<Storage, CacheError> {
    let bytes = u64::from(config.cache_gib) << 30;
    let open = || Cache::open(&folder.cache(), bytes, Box::new(clock::now)).map(Arc::new);
    Ok(Storage { cache: (bytes > 0).then(open).transpose()?, memory_bytes: MEMORY_BYTES })
}

/// Embeddings of generalists take up to an eighth of what prepared scans may take, beside them.
fn embeddings(folder: &SiteFolder, config: &NodeConfig) -> Result<Store, CacheError> {
    let bytes = (u64::from(config.cache_gib) << 30) / 8;
    let open = || Cache::open(&folder.cache().join("embeddings"), bytes, Box::new(clock::now)).map(Store::on_disk);
    if bytes == 0 { Ok(Store::default()) } else { open() }
}

fn report(ended: Result<Outcome, ParticipantError>, rim: &mut Rim<'_>) -> Result<Exit, Failure> {
    match ended {
        Ok(Outcome::Done { model, rounds }) => {
            match rim.format {
                Format::Json => rim.json(&json!({"done": true, "rounds": rounds, "model": model}))?,
                Format::Text => {
                    writeln!(rim.out, "all {rounds} rounds are done; the last model is {}", model.display())?
                }
            }
            Ok(Exit::Done)
        }
        Ok(Outcome::Stopped) => Ok(Exit::TryAgain),
        Err(error) if error.is_refusal() => Err(Failure::refused(error)),
        Err(error) => Err(error.into()),
    }
}
