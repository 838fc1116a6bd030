//! The coordinator's side: a socket that one bad peer cannot stop.
//!
//! Every handshake runs in a task of its own with a time limit, so a peer that stalls, lies or floods costs nobody else anything.
//! Handshakes, connections, connections of one site, and requests of one connection are bounded.

use std::{
    collections::{HashMap, VecDeque},
    net::{SocketAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use quinn::crypto::rustls::QuicServerConfig;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use zeroize::Zeroizing;

use super::{
    CLOSE_DONE, CLOSE_SUPERSEDED, Exchange, HANDSHAKE, MAX_STREAMS, TransportError, alert, explain_alert, frame::Guard,
    transport_config,
};
use crate::{
    ids::SiteId,
    tls::{self, Identity, Refusal, RevocationCheck, ServerTls, TlsError, TlsFiles},
};

/// Handshakes at a time; from half of it on, new peers must first prove their address (RFC 9000, 8.1.2).
const MAX_HANDSHAKES: usize = 256;
/// Bytes of a connection id.
const CONNECTION_ID: usize = 8;
/// Connections at a time.
const MAX_CONNECTIONS: usize = 4096;
/// Connections of one site: a node that was killed and started again leaves some behind until they time out.
const MAX_PER_SITE: usize = 4;

/// Names the secret behind stateless resets apart from every other use of the private key's bytes.
const RESET_DOMAIN: &[u8] = b"semisam/1 stateless reset\0";

/// A configuration with which a coordinator that was killed and started again tells its old peers at once that their
/// connections are gone (RFC 9000, 10.3): the reset secret is a function of the private key, so it survives the process.
/// Without it every node would wait out the idle time.
fn remembered(files: &TlsFiles) -> Result<quinn::EndpointConfig, TransportError> {
    let read = |source| TransportError::File { what: "read", path: files.key.clone(), source };
    let key = Zeroizing::new(std::fs::read(&files.key).map_err(read)?);
    let secret: Zeroizing<[u8; 32]> =
        Zeroizing::new(Sha256::new_with_prefix(RESET_DOMAIN).chain_update(key.as_slice()).finalize().into());
    let reset = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_slice());
    let mut config = quinn::EndpointConfig::new(Arc::new(reset));
    config.cid_generator(|| Box::new(RandomIds));
    Ok(config)
}

/// Random connection ids. quinn's own carry a mark of this process, and it answers no reset to ids of an earlier one.
struct RandomIds;

impl quinn::ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        let mut id = [0; CONNECTION_ID];
        getrandom::fill(&mut id).expect("the operating system has random bytes");
        quinn::ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A coordinator's socket.
pub struct Listener {
    endpoint: quinn::Endpoint,
    identity: Identity,
    peers: mpsc::Receiver<Peer>,
}

impl Listener {
    /// Opens the socket and begins to take handshakes. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the files are not a coordinator's, or the address cannot be used.
    pub fn bind(address: SocketAddr, files: &TlsFiles, revoked: RevocationCheck) -> Result<Self, TransportError> {
        let tls = ServerTls::load(files, revoked)?;
        let identity = tls.identity().clone();
        let bind = |source| TransportError::Bind { address: address.to_string(), source };
        let socket = UdpSocket::bind(address).map_err(bind)?;
        let config = Some(quic_config(&tls, None)?.0);
        let endpoint =
            quinn::Endpoint::new(remembered(files)?, config, socket, Arc::new(quinn::TokioRuntime)).map_err(bind)?;
        let (sender, peers) = mpsc::channel(64);
        let door = Arc::new(Door { tls, sites: Arc::default() });
        tokio::spawn(door.admit(endpoint.clone(), sender));
        Ok(Self { endpoint, identity, peers })
    }

    /// The address of the socket.
    ///
    /// # Errors
    /// If the socket is gone.
    pub fn local_addr(&self) -> Result<SocketAddr, TransportError> {
        self.endpoint.local_addr().map_err(|source| TransportError::Bind { address: "?".to_owned(), source })
    }

    /// Who this coordinator is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The next site that proved who it is; `None` after the socket was closed. One bad peer never ends this.
    pub async fn accept(&mut self) -> Option<Peer> {
        self.peers.recv().await
    }

    /// Closes all connections, and waits a little until the peers know.
    pub async fn close(&self) {
        self.endpoint.close(CLOSE_DONE, b"the coordinator stops");
        let _ = timeout(Duration::from_secs(3), self.endpoint.wait_idle()).await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.endpoint.close(CLOSE_DONE, b"the coordinator stops");
    }
}

/// A site that proved who it is. Dropping it closes the connection.
pub struct Peer {
    /// Who it is.
    pub site: SiteId,
    /// The name in its certificate, for people.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    guard: Guard,
    sites: Arc<Sites>,
}

impl Peer {
    /// The next request. Exchanges may run side by side, in tasks of their own.
    ///
    /// # Errors
    /// If the connection ended ([`TransportError::Closed`] if in order), or the site was revoked meanwhile.
    pub async fn accept(&self) -> Result<Exchange, TransportError> {
        let stream = self.guard.connection.accept_bi().await?; // bounded by the idle time-out of the connection
        self.guard.check()?;
        Ok(Exchange::new(stream, Some(self.guard.clone())))
    }

    /// Ends the connection.
    pub fn close(&self) {
        self.guard.connection.close(CLOSE_DONE, b"done");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.close();
        self.sites.leave(self.site, &self.guard.connection);
    }
}

/// The live connections of each site: the newest few may stay.
#[derive(Default)]
struct Sites(Mutex<HashMap<SiteId, VecDeque<quinn::Connection>>>);

impl Sites {
    fn enter(&self, site: SiteId, connection: &quinn::Connection) {
        let mut sites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let live = sites.entry(site).or_default();
        live.retain(|other| other.close_reason().is_none());
        live.push_back(connection.clone());
        while live.len() > MAX_PER_SITE
            && let Some(oldest) = live.pop_front()
        {
            oldest.close(CLOSE_SUPERSEDED, b"superseded");
        }
    }

    fn leave(&self, site: SiteId, connection: &quinn::Connection) {
        let mut sites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(live) = sites.get_mut(&site) {
            live.retain(|other| other.stable_id() != connection.stable_id());
            if live.is_empty() {
                sites.remove(&site);
            }
        }
    }
}

struct Door {
    tls: ServerTls,
    sites: Arc<Sites>,
}

impl Door {
    async fn admit(self: Arc<Self>, endpoint: quinn::Endpoint, peers: mpsc::Sender<Peer>) {
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        while let Some(incoming) = endpoint.accept().await {
            let address = incoming.remote_address();
            let busy = handshakes.available_permits() < MAX_HANDSHAKES / 2;
            if busy && !incoming.remote_address_validated() && incoming.may_retry() {
                let _ = incoming.retry(); // cannot fail: it may retry
                continue;
            }
            let permit = handshakes.clone().try_acquire_owned();
            let (Ok(permit), true) = (permit, endpoint.open_connections() < MAX_CONNECTIONS) else {
                tracing::warn!(peer = %address, "refused a peer: too many connections at a time");
                incoming.refuse();
                continue;
            };
            let (door, peers) = (self.clone(), peers.clone());
            tokio::spawn(async move {
                let peer = door.greet(incoming).await;
                drop(permit);
                if let Some(peer) = peer {
                    let _ = peers.send(peer).await; // a listener that is gone takes nobody
                }
            });
        }
    }

    /// One handshake. Whatever goes wrong is logged here, or by the check of the certificate.
    async fn greet(&self, incoming: quinn::Incoming) -> Option<Peer> {
        let address = incoming.remote_address();
        let outcome = quic_config(&self.tls, Some(address))
            .map(|(config, refusal)| (incoming.accept_with(Arc::new(config)), refusal));
        let (accepted, refusal) = match outcome {
            Ok(pair) => pair,
            Err(error) => {
                tracing::warn!(peer = %address, "refused a peer: {error}");
                return None;
            }
        };
        let handshake = async { accepted?.await };
        match timeout(HANDSHAKE, handshake).await {
            Ok(Ok(connection)) => self.welcome(connection, address),
            Ok(Err(_)) if refusal.reason().is_some() => None, // logged with the name of the site
            Ok(Err(error)) => {
                tracing::warn!(peer = %address, "{}", explain_failure(&error, address));
                None
            }
            Err(_) => {
                tracing::warn!(peer = %address, "a peer at {address} did not complete its handshake within {} s", HANDSHAKE.as_secs());
                None
            }
        }
    }

    fn welcome(&self, connection: quinn::Connection, address: SocketAddr) -> Option<Peer> {
        let chain = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        let Some(Identity { site, name, .. }) = chain.and_then(|chain| tls::identity(chain.first()?).ok()) else {
            tracing::warn!(peer = %address, "a peer at {address} presented no certificate: refused");
            connection.close(CLOSE_DONE, b"no certificate");
            return None;
        };
        self.sites.enter(site, &connection);
        tracing::debug!(site = %site.short(), peer = %address, "connected: `{name}`");
        let guard = Guard { site, revoked: self.tls.revoked(), connection };
        Some(Peer { site, name, address, guard, sites: self.sites.clone() })
    }
}

fn quic_config(tls: &ServerTls, peer: Option<SocketAddr>) -> Result<(quinn::ServerConfig, Refusal), TlsError> {
    let (config, refusal) = tls.for_peer(peer)?;
    let crypto = QuicServerConfig::try_from(config).map_err(|e| rustls::Error::General(e.to_string()))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport_config(MAX_STREAMS, false));
    Ok((config, refusal))
}

/// A handshake that failed for another reason than a bad certificate of the peer.
fn explain_failure(error: &quinn::ConnectionError, address: SocketAddr) -> String {
    match error {
        quinn::ConnectionError::TransportError(error) => match alert(error.code.into()) {
            Some(116) => {
                format!("a peer at {address} presented no certificate: refused; a site must set certificate and key")
            }
            Some(120) => {
                format!("a peer at {address} does not speak semisam/1: refused; check what it is, and its version")
            }
            _ => format!("the handshake with {address} failed: {error}"),
        },
        quinn::ConnectionError::ConnectionClosed(close) => match alert(close.error_code.into()) {
            Some(alert) => {
                format!("the peer at {address} refused this coordinator's certificate: {}", explain_alert(alert))
            }
            None => format!("the handshake with {address} failed: {close}"),
        },
        other => format!("the handshake with {address} failed: {other}"),
    }
}
