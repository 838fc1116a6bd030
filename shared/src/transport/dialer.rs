//! The node's side: it only dials out, and says in one line why a connection did not come about.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use quinn::crypto::rustls::QuicClientConfig;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{CLOSE_DONE, Exchange, HANDSHAKE, STALL, TransportError, transport_config};
use crate::tls::{ClientTls, Identity, Refusal, TlsError, TlsFiles};

/// The head start of each address of a host: where IPv6 is broken, IPv4 must not wait for a time-out.
const STAGGER: Duration = Duration::from_millis(250);
/// So many addresses of a host are tried.
const MAX_ADDRESSES: usize = 8;

/// What a node dials with.
pub struct Dialer {
    tls: ClientTls,
    transport: Arc<quinn::TransportConfig>,
    /// One socket for each family of addresses that this machine has.
    sockets: Vec<quinn::Endpoint>,
}

impl Dialer {
    /// Opens the sockets; `bind` chooses the local address, `None` any port of IPv4 and IPv6. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the files cannot be used, or no socket can be opened.
    pub fn new(files: &TlsFiles, bind: Option<SocketAddr>) -> Result<Self, TransportError> {
        let tls = ClientTls::load(files)?;
        let any = [IpAddr::from(Ipv6Addr::UNSPECIFIED), IpAddr::from(Ipv4Addr::UNSPECIFIED)].map(|ip| (ip, 0).into());
        let mut sockets = Vec::new();
        let mut failure = None;
        for address in bind.as_ref().map_or(&any[..], std::slice::from_ref) {
            match quinn::Endpoint::client(*address) {
                Ok(socket) => sockets.push(socket),
                Err(source) => failure = Some(TransportError::Bind { address: address.to_string(), source }),
            }
        }
        match failure {
            Some(failure) if sockets.is_empty() => Err(failure),
            _ => Ok(Self { tls, transport: transport_config(0, true), sockets }),
        }
    }

    /// Who this node is.
    pub fn identity(&self) -> &Identity {
        self.tls.identity()
    }

    /// Connects to `address` (`host:port`), whose certificate must be for `server_name`. All addresses of the host are tried,
    /// each a little after the one before it (RFC 8305), and the first that answers decides.
    /// When this returns, both sides have accepted each other.
    ///
    /// # Errors
    /// Which step failed, why, and what to do.
    pub async fn connect(&self, address: &str, server_name: &str) -> Result<Connection, TransportError> {
        let lookup = |reason: String| TransportError::Lookup { address: address.to_owned(), reason };
        let found = timeout(HANDSHAKE, tokio::net::lookup_host(address))
            .await
            .map_err(|_| lookup("no answer in time".to_owned()))?
            .map_err(|e| lookup(e.to_string()))?;
        let none = lookup("it has no address that this machine can reach".to_owned());
        self.race(found.take(MAX_ADDRESSES), server_name, none).await
    }

    /// The first of `servers` that accepts or refuses decides; `failure` if there are none.
    pub(super) async fn race(
        &self,
        servers: impl Iterator<Item = SocketAddr>,
        server_name: &str,
        mut failure: TransportError,
    ) -> Result<Connection, TransportError> {
        let mut attempts = JoinSet::new();
        for (server, socket) in servers.filter_map(|server| Some((server, self.socket(server)?.clone()))) {
            let (config, refusal) = self.quic_config()?;
            let (name, delay) = (server_name.to_owned(), STAGGER * u32::try_from(attempts.len()).unwrap_or(u32::MAX));
            attempts.spawn(async move {
                sleep(delay).await;
                let attempt = establish(&socket, config, server, &name, &refusal);
                let outcome = timeout(HANDSHAKE, attempt).await.unwrap_or(Err(TransportError::NoAnswer(server)));
                outcome.map(|inner| Connection { inner, server })
            });
        }
        while let Some(outcome) = attempts.join_next().await {
            match outcome {
                Ok(Err(error @ (TransportError::NoAnswer(_) | TransportError::Lost(_)))) => failure = error,
                Ok(decided) => return decided, // another address has the same certificates
                Err(stopped) => failure = TransportError::Lost(stopped.to_string()),
            }
        }
        Err(failure)
    }

    fn socket(&self, server: SocketAddr) -> Option<&quinn::Endpoint> {
        let fits = |socket: &&quinn::Endpoint| socket.local_addr().is_ok_and(|own| own.is_ipv4() == server.is_ipv4());
        self.sockets.iter().find(fits)
    }

    fn quic_config(&self) -> Result<(quinn::ClientConfig, Refusal), TlsError> {
        let (config, refusal) = self.tls.for_server()?;
        let crypto = QuicClientConfig::try_from(config).map_err(|e| rustls::Error::General(e.to_string()))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(self.transport.clone());
        Ok((config, refusal))
    }
}

async fn establish(
    socket: &quinn::Endpoint,
    config: quinn::ClientConfig,
    server: SocketAddr,
    server_name: &str,
    refusal: &Refusal,
) -> Result<quinn::Connection, TransportError> {
    let connecting = socket.connect_with(config, server, server_name).map_err(|error| match error {
        quinn::ConnectError::InvalidServerName(name) => TransportError::ServerName(name),
        other => TransportError::Lost(other.to_string()),
    })?;
    let connection = connecting.await.map_err(|error| match (refusal.reason(), error) {
        (Some(reason), _) => TransportError::ServerRefused { address: server, reason: reason.to_owned() },
        (None, quinn::ConnectionError::TimedOut) => TransportError::NoAnswer(server),
        (None, other) => other.into(),
    })?;
    confirmed(&connection).await?;
    Ok(connection)
}

/// In TLS 1.3 a client is done before the server has seen the client's certificate. The server's HANDSHAKE_DONE frame
/// (RFC 9001, 4.1.2) says that it has, and the library counts these.
async fn confirmed(connection: &quinn::Connection) -> Result<(), TransportError> {
    while connection.stats().frame_rx.handshake_done == 0 {
        tokio::select! {
            error = connection.closed() => return Err(error.into()),
            () = sleep(Duration::from_millis(2)) => {}
        }
    }
    Ok(())
}

/// A node's connection to the coordinator. Dropping it closes it.
pub struct Connection {
    inner: quinn::Connection,
    server: SocketAddr,
}

impl Connection {
    /// Begins a request. The coordinator learns of it with the first bytes.
    ///
    /// # Errors
    /// If the connection is gone, or too many requests are open.
    pub async fn open(&self) -> Result<Exchange, TransportError> {
        let stream = timeout(STALL, self.inner.open_bi())
            .await
            .map_err(|_| TransportError::Stalled("waiting for another request to end"))??;
        Ok(Exchange::new(stream, None))
    }

    /// Sends one message, and receives the one that answers it.
    ///
    /// # Errors
    /// If either fails.
    pub async fn ask<Q: Serialize, A: DeserializeOwned>(&self, question: &Q) -> Result<A, TransportError> {
        let mut exchange = self.open().await?;
        exchange.send(question).await?;
        exchange.finish().await?;
        let answer = exchange.receive().await?;
        exchange.receive_end().await?;
        Ok(answer)
    }

    /// The address that answered.
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// Whether the connection has ended, for whatever reason.
    pub fn is_closed(&self) -> bool {
        self.inner.close_reason().is_some()
    }

    /// Ends the connection in order.
    pub fn close(&self) {
        self.inner.close(CLOSE_DONE, b"done");
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}
