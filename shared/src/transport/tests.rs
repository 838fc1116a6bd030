//! Real sockets on loopback: who is let in, what travels, and what hostile peers cannot do.

mod blobs;
mod door;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::*;
use crate::tls::{self, RevocationCheck, TlsFiles, tests::consortium::Consortium};

/// What the server of these tests can do.
#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    /// Say it again, and who I am.
    Echo(String),
    /// Send a file from an offset.
    Get { file: String, from: u64 },
    /// Take a file from an offset.
    Put { file: String, from: u64, total: u64 },
    /// How many bytes of a file are there?
    Have { file: String },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Answer {
    Echo { text: String, site: SiteId, name: String },
    Total(u64),
    Failed(String),
}

struct Server {
    address: SocketAddr,
    _task: JoinHandle<()>,
}

impl Server {
    /// Serves the files of the consortium's folder.
    fn start(consortium: &Consortium, files: &TlsFiles, revoked: RevocationCheck) -> Self {
        let mut listener = Listener::bind("127.0.0.1:0".parse().unwrap(), files, revoked).unwrap();
        let address = listener.local_addr().unwrap();
        let folder = consortium.dir.path().to_owned();
        let task = tokio::spawn(async move {
            while let Some(peer) = listener.accept().await {
                tokio::spawn(serve(Arc::new(peer), folder.clone()));
            }
        });
        Self { address, _task: task }
    }

    fn plain(consortium: &Consortium) -> Self {
        Self::start(consortium, &consortium.coordinator(), tls::none_revoked())
    }

    async fn dial(&self, files: &TlsFiles) -> Result<Connection, TransportError> {
        Dialer::new(files, None)?.connect(&self.address.to_string(), "localhost").await
    }
}

async fn serve(peer: Arc<Peer>, folder: PathBuf) {
    while let Ok(exchange) = peer.accept().await {
        tokio::spawn(handle(peer.clone(), exchange, folder.clone()));
    }
}

async fn handle(peer: Arc<Peer>, mut exchange: Exchange, folder: PathBuf) {
    if let Err(error) = answer(&peer, &mut exchange, &folder).await {
        let _ = exchange.send(&Answer::Failed(error.to_string())).await;
    }
    let _ = exchange.finish().await;
}

async fn answer(peer: &Peer, exchange: &mut Exchange, folder: &std::path::Path) -> Result<(), TransportError> {
    let length = |file: &str| std::fs::metadata(folder.join(file)).map_or(0, |metadata| metadata.len());
    match exchange.receive::<Ask>().await? {
        Ask::Echo(text) => {
            exchange.receive_end().await?;
            exchange.send(&Answer::Echo { text, site: peer.site, name: peer.name.clone() }).await
        }
        Ask::Get { file, from } => {
            exchange.send(&Answer::Total(length(&file))).await?;
            exchange.send_file(&folder.join(&file), from, length(&file)).await.map(|_| ())
        }
        Ask::Put { file, from, total } => {
            exchange.receive_file(&folder.join(&file), from, total).await?;
            exchange.receive_end().await?;
            exchange.send(&Answer::Total(length(&file))).await
        }
        Ask::Have { file } => exchange.send(&Answer::Total(length(&file))).await,
    }
}

async fn echo(connection: &Connection, text: &str) -> Result<Answer, TransportError> {
    connection.ask(&Ask::Echo(text.to_owned())).await
}
