//! The checks of rustls, unchanged, wrapped so that a refusal says who was refused, why, and what to do.
//!
//! At the moment of a refusal the peer has not yet proved that it owns the key: the log says what the certificate says.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{Identity, RevocationCheck, identity};
use crate::ids::UnixMillis;

/// Why the peer's certificate was refused in one handshake, if it was.
#[derive(Clone, Debug, Default)]
pub struct Refusal(Arc<OnceLock<String>>);

impl Refusal {
    /// The reason, with the remedy.
    pub fn reason(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    fn set(&self, reason: String) {
        let _ = self.0.set(reason); // the first reason stands
    }
}

/// Lets in sites of this consortium that are not revoked, and logs everybody else.
pub(super) struct SiteVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    revoked: RevocationCheck,
    peer: Option<SocketAddr>,
    refusal: Refusal,
}

impl SiteVerifier {
    pub(super) fn new(
        inner: Arc<dyn ClientCertVerifier>,
        revoked: RevocationCheck,
        peer: Option<SocketAddr>,
        refusal: Refusal,
    ) -> Self {
        Self { inner, revoked, peer, refusal }
    }

    fn refuse(&self, error: Error, certificate: &CertificateDer<'_>) -> Error {
        let reason = reason(&error, certificate);
        let peer = self.peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string());
        match identity(certificate) {
            Ok(Identity { site, name, .. }) => {
                tracing::warn!(site = %site.short(), %peer, "refused site `{name}`: {reason}");
            }
            Err(_) => tracing::warn!(%peer, "refused a peer: {reason}"),
        }
        self.refusal.set(reason);
        error
    }
}

impl fmt::Debug for SiteVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteVerifier").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for SiteVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .inner
            .verify_client_cert(end_entity, intermediates, now)
            .map_err(|error| self.refuse(error, end_entity))?;
        match identity(end_entity) {
            Ok(Identity { site, .. }) if !(self.revoked)(&site) => Ok(verified),
            Ok(_) => Err(self.refuse(CertificateError::Revoked.into(), end_entity)),
            Err(_) => Err(self.refuse(CertificateError::BadEncoding.into(), end_entity)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss).map_err(|error| self.refuse(error, cert))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Checks the coordinator's certificate and keeps the reason of a refusal.
#[derive(Debug)]
pub(super) struct SpokenVerifier {
    inner: Arc<WebPkiServerVerifier>,
    refusal: Refusal,
}

impl SpokenVerifier {
    pub(super) fn new(inner: Arc<WebPkiServerVerifier>, refusal: Refusal) -> Self {
        Self { inner, refusal }
    }
}

impl ServerCertVerifier for SpokenVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .inspect_err(|error| self.refusal.set(reason(error, end_entity)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// What is wrong with a certificate, and the remedy. Expects to stand after "the certificate of X".
pub(super) fn reason(error: &Error, certificate: &CertificateDer<'_>) -> String {
    use CertificateError as C;
    let validity = identity(certificate).ok();
    let date = |pick: fn(&Identity) -> UnixMillis| validity.as_ref().map_or(UnixMillis(0), pick);
    let Error::InvalidCertificate(problem) = error else {
        return format!(
            "the proof of its certificate failed ({error}): its certificate and key do not belong together"
        );
    };
    match problem {
        C::Expired | C::ExpiredContext { .. } => {
            format!("its certificate expired on {}: the consortium must issue a new one", date(|i| i.not_after))
        }
        C::NotValidYet | C::NotValidYetContext { .. } => format!(
            "its certificate is not valid before {}: check the clocks of both machines, or wait",
            date(|i| i.not_before)
        ),
        C::UnknownIssuer => "its certificate was not signed by this consortium's authority: \
                             use a certificate and an authority file of the same consortium"
            .to_owned(),
        C::Revoked => "its certificate was revoked: ask the consortium".to_owned(),
        C::InvalidPurpose | C::InvalidPurposeContext { .. } => "its certificate was issued for another role: \
                                                                 sites and coordinators need certificates of their own"
            .to_owned(),
        C::NotValidForName | C::NotValidForNameContext { .. } => {
            format!("its certificate is for another name ({problem}): set the server name that it was issued for")
        }
        other => format!("its certificate is not acceptable ({other}): the consortium must issue a new one"),
    }
}
