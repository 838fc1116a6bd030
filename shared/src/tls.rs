//! Who may talk: mutual TLS 1.3 from three PEM files.
//!
//! The doorkeeper of rustls. The rules are the same for every transport (DESIGN, wire contract): the aws-lc-rs provider,
//! TLS 1.3 alone, X25519MLKEM768 before X25519, ALPN `semisam/1`, and no resumption, because a resumed session would
//! skip the check of the certificate, and with it revocation and 0-RTT replay protection.
//! A party is its public key ([`site_id`]); the name in a certificate is only for people.

mod files;
mod verify;

#[cfg(test)]
pub(crate) mod tests;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use rustls::{
    RootCertStore,
    client::{Resumption, WebPkiServerVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use serde::Deserialize;
use x509_parser::prelude::{FromDer, X509Certificate};

pub use verify::Refusal;
use verify::{SiteVerifier, SpokenVerifier};

use crate::{
    clock,
    ids::{Digest, SiteId, UnixMillis},
};

/// The one application protocol that is spoken.
pub const ALPN: &[u8] = b"semisam/1";

/// Whether a site is shut out. Asked at every handshake and again at every request, so it must be quick.
pub type RevocationCheck = Arc<dyn Fn(&SiteId) -> bool + Send + Sync>;

/// Nobody is shut out.
pub fn none_revoked() -> RevocationCheck {
    Arc::new(|_| false)
}

/// Where the three PEM files of a party are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The certificate of the consortium's authority (several, while an old and a new one overlap).
    pub authority: PathBuf,
    /// The certificate of this party, and what chains it to the authority.
    pub certificate: PathBuf,
    /// The private key of this party. It never leaves this machine.
    pub key: PathBuf,
}

/// What a certificate says about its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The owner: the digest of the public key.
    pub site: SiteId,
    /// The common name, printable, for people.
    pub name: String,
    /// Valid from.
    pub not_before: UnixMillis,
    /// Valid until.
    pub not_after: UnixMillis,
}

/// Why a certificate or a key cannot be used. Each says which file, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Other users of the machine can read or change the key.
    #[error(
        "`{path}` is {whom}: chmod 600 `{path}`, and ask for a new certificate if others had access to this machine"
    )]
    KeyPermissions {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        whom: &'static str,
    },
    /// No certificate in the file.
    #[error("`{0}` holds no certificate: it must be a PEM file with a `BEGIN CERTIFICATE` line")]
    NoCertificate(PathBuf),
    /// No private key in the file.
    #[error("`{0}` holds no private key: it must be a PEM file with a `BEGIN PRIVATE KEY` line")]
    NoKey(PathBuf),
    /// The file has the right kind of content, but broken.
    #[error("`{path}` is damaged ({reason}): copy it again from where it was made")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// The file does not hold a certificate of an authority.
    #[error("`{0}` is not the certificate of an authority: ask the consortium for its authority certificate")]
    NotAnAuthority(PathBuf),
    /// The certificate is for another key.
    #[error("certificate and key do not belong together: `{certificate}` was not made for `{key}`")]
    Mismatch {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// Too late.
    #[error("the certificate in `{path}` expired on {not_after}: ask the consortium for a new one")]
    Expired {
        /// Which file.
        path: PathBuf,
        /// Since when.
        not_after: UnixMillis,
    },
    /// Too early.
    #[error(
        "the certificate in `{path}` is valid from {not_before}, and it is {now} here: set this machine's clock, or wait"
    )]
    NotYetValid {
        /// Which file.
        path: PathBuf,
        /// From when.
        not_before: UnixMillis,
        /// What the clock says.
        now: UnixMillis,
    },
    /// A coordinator must have a certificate that its own consortium signed, for a coordinator.
    #[error("`{path}` cannot be a coordinator's certificate: {reason}")]
    NotACoordinator {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Bytes that are not a certificate.
    #[error("the peer's certificate cannot be read: {0}")]
    Certificate(String),
    /// The TLS library refused the configuration.
    #[error("the TLS configuration was refused: {0}")]
    Configuration(#[from] rustls::Error),
}

impl TlsFiles {
    /// Reads and checks all three files, and says who this party is.
    ///
    /// # Errors
    /// If a file is missing, damaged, open to others, expired, or if the files do not fit together.
    pub fn check(&self, now: UnixMillis) -> Result<Identity, TlsError> {
        let (identity, ..) = files::load(self, &provider())?;
        files::in_time(&self.certificate, &identity, now)?;
        Ok(identity)
    }
}

/// The TLS side of a coordinator. It makes one configuration for each peer, so that a refusal can name the peer.
#[derive(Clone)]
pub struct ServerTls {
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ClientCertVerifier>,
    key: Arc<SingleCertAndKey>,
    revoked: RevocationCheck,
    identity: Identity,
}

impl ServerTls {
    /// Reads the files of a coordinator.
    ///
    /// # Errors
    /// If the files are not a coordinator's, or not in time: nobody could connect.
    pub fn load(files: &TlsFiles, revoked: RevocationCheck) -> Result<Self, TlsError> {
        let provider = provider();
        let (identity, roots, key) = files::load(files, &provider)?;
        files::in_time(&files.certificate, &identity, clock::now())?;
        files::for_coordinator(&files.certificate, &key, &roots, &provider)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        Ok(Self { provider, verifier, key: Arc::new(key.into()), revoked, identity })
    }

    /// Who this coordinator is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The revocation check, for the requests that follow the handshake.
    pub fn revoked(&self) -> RevocationCheck {
        self.revoked.clone()
    }

    /// The configuration for one handshake, and a slot that tells afterwards whether the certificate was refused.
    ///
    /// # Errors
    /// If the provider lacks TLS 1.3.
    pub fn for_peer(&self, peer: Option<SocketAddr>) -> Result<(rustls::ServerConfig, Refusal), TlsError> {
        let refusal = Refusal::default();
        let verifier = SiteVerifier::new(self.verifier.clone(), self.revoked.clone(), peer, refusal.clone());
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(self.key.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok((config, refusal))
    }
}

/// The TLS side of a node.
#[derive(Clone)]
pub struct ClientTls {
    provider: Arc<CryptoProvider>,
    verifier: Arc<WebPkiServerVerifier>,
    key: Arc<SingleCertAndKey>,
    identity: Identity,
}

impl ClientTls {
    /// Reads the files of a node.
    ///
    /// An expired certificate is a warning here, not an error: the coordinator's clock decides, and its log must show the attempt.
    ///
    /// # Errors
    /// If a file is missing, damaged, open to others, or if the files do not fit together.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let provider = provider();
        let (identity, roots, key) = files::load(files, &provider)?;
        if let Err(problem) = files::in_time(&files.certificate, &identity, clock::now()) {
            tracing::warn!("{problem}");
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        Ok(Self { provider, verifier, key: Arc::new(key.into()), identity })
    }

    /// Who this node is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The configuration for one handshake, and a slot that tells afterwards why the server's certificate was refused.
    ///
    /// # Errors
    /// If the provider lacks TLS 1.3.
    pub fn for_server(&self) -> Result<(rustls::ClientConfig, Refusal), TlsError> {
        let refusal = Refusal::default();
        let verifier = SpokenVerifier::new(self.verifier.clone(), refusal.clone());
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous() // the verifier is WebPkiServerVerifier, wrapped so that it can say what is wrong
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(self.key.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        Ok((config, refusal))
    }
}

/// The configuration of a coordinator, for a transport that cannot tell peers apart before the handshake.
///
/// # Errors
/// As [`ServerTls::load`].
pub fn server_config(files: &TlsFiles, revoked: RevocationCheck) -> Result<rustls::ServerConfig, TlsError> {
    Ok(ServerTls::load(files, revoked)?.for_peer(None)?.0)
}

/// The configuration of a node.
///
/// # Errors
/// As [`ClientTls::load`].
pub fn client_config(files: &TlsFiles) -> Result<rustls::ClientConfig, TlsError> {
    Ok(ClientTls::load(files)?.for_server()?.0)
}

/// Who the owner of a certificate is: SHA-256 of its DER SubjectPublicKeyInfo.
///
/// # Errors
/// If the bytes are not one X.509 certificate.
pub fn site_id(cert_der: &[u8]) -> Result<SiteId, TlsError> {
    Ok(identity(cert_der)?.site)
}

/// The common name in a certificate, made printable and cut at 64 characters; `unnamed` if there is none.
///
/// # Errors
/// If the bytes are not one X.509 certificate.
pub fn common_name(cert_der: &[u8]) -> Result<String, TlsError> {
    Ok(identity(cert_der)?.name)
}

/// What a certificate says about its owner. It says nothing about who signed it.
///
/// # Errors
/// If the bytes are not one X.509 certificate.
pub fn identity(cert_der: &[u8]) -> Result<Identity, TlsError> {
    let (rest, certificate) = X509Certificate::from_der(cert_der).map_err(|e| TlsError::Certificate(e.to_string()))?;
    if !rest.is_empty() {
        return Err(TlsError::Certificate(format!("{} bytes follow it", rest.len())));
    }
    let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let moment = |time: x509_parser::time::ASN1Time| {
        UnixMillis(u64::try_from(time.timestamp()).unwrap_or_default().saturating_mul(1000))
    };
    Ok(Identity {
        site: SiteId(Digest::of(certificate.public_key().raw).0),
        name: printable(name.unwrap_or_default()),
        not_before: moment(certificate.validity().not_before),
        not_after: moment(certificate.validity().not_after),
    })
}

/// A name that anybody may have chosen, safe to put into a log line.
pub(crate) fn printable(name: &str) -> String {
    let safe = |c: char| if c.is_alphanumeric() || " .-_@:/+()".contains(c) { c } else { '?' };
    let name: String = name.chars().take(64).map(safe).collect();
    if name.trim().is_empty() { "unnamed".to_owned() } else { name }
}

fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::kx_group::{SECP256R1, X25519, X25519MLKEM768};
    Arc::new(CryptoProvider { kx_groups: vec![X25519MLKEM768, X25519, SECP256R1], ..aws_lc_rs::default_provider() })
}

type Loaded = (Identity, Arc<RootCertStore>, CertifiedKey);
