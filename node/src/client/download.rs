//! Published blobs on the node's disk: named by their digest, verified before they get their name.

use std::path::{Path, PathBuf};

use semisam_shared::{
    ids::Digest,
    message::{Request, Response},
    transport::{Connection, TransportError},
};

use super::ClientError;

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ClientError {
    let path = path.to_owned();
    move |source| ClientError::File { action, path, source }
}

pub(super) async fn fetch(connection: &Connection, blob: Digest, folder: &Path) -> Result<PathBuf, ClientError> {
    let path = folder.join(blob.to_string());
    if let Ok(bytes) = std::fs::read(&path) {
        if Digest::of(&bytes) == blob {
            return Ok(path);
        }
        tracing::warn!("`{}` is damaged and is fetched again", path.display());
        std::fs::remove_file(&path).map_err(file_error("remove", &path))?;
    }
    std::fs::create_dir_all(folder).map_err(file_error("create", folder))?;
    let part = path.with_extension("part");
    let offset = std::fs::metadata(&part).map_or(0, |metadata| metadata.len());
    let received = receive(connection, blob, &part, offset).await;
    let length = match received {
        Ok(length) => length,
        Err(error) => {
            let too_long = matches!(error, ClientError::Transport(TransportError::ResumeOffset { .. }));
            if too_long || !error.may_pass() {
                discard(&part)?;
            }
            return Err(error);
        }
    };
    let bytes = std::fs::read(&part).map_err(file_error("read", &part))?;
    if bytes.len() as u64 != length || Digest::of(&bytes) != blob {
        discard(&part)?;
        return Err(ClientError::Damaged(blob));
    }
    std::fs::rename(&part, &path).map_err(file_error("rename", &part))?;
    Ok(path)
}

async fn receive(connection: &Connection, blob: Digest, part: &Path, offset: u64) -> Result<u64, ClientError> {
    let mut exchange = connection.open().await?;
    exchange.send(&Request::Fetch { blob, offset }).await?;
    exchange.finish().await?;
    match exchange.receive().await? {
        Response::Blob { length } => {
            exchange.receive_file(part, offset, length).await.map_err(|error| match error {
                // A full disk is this machine's fault, and no connection mends it: say so instead of trying again.
                TransportError::File { what, path, source } => ClientError::File { action: what, path, source },
                other => other.into(),
            })?;
            Ok(length)
        }
        Response::Rejected(rejection) => Err(ClientError::Rejected(rejection)),
        _ => Err(ClientError::Unexpected("fetch")),
    }
}

fn discard(part: &Path) -> Result<(), ClientError> {
    match std::fs::remove_file(part) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(file_error("remove", part)(error)),
        _ => Ok(()),
    }
}
