//! `semisam-node run`: takes part in the federation until all its rounds are done.

use std::sync::Arc;

use semisam_shared::tls::TlsError;
use serde_json::json;
use tokio::runtime::Builder;

use super::{Dir, Exit, Failure, Format, Rim, resolve, signals};
use crate::{
    client::Client,
    participant::{Outcome, Participant, ParticipantError, contribution::Contributor},
    privacy::book::BookError,
    site_folder::SiteFolder,
};

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
        let contributor = Arc::new(Contributor::new(config.data.clone(), resolve(config.device)?));
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
