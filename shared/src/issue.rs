//! How certificates are made: a site makes its own key and a request, a person compares fingerprints, the authority signs.
//!
//! The doorkeeper of rcgen. Private keys never travel: [`new_request`] runs at the site, [`sign_request`] at the authority.
//! Of a request the authority takes the public key and the common name alone; purpose, names and dates are its own decision
//! (RFC 2986 leaves that to the authority). Keys are Ed25519 (RFC 8410).

use std::{fs, io::Write, net::IpAddr, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, pem::PemObject};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::ids::{Digest, SiteId, UnixMillis};

#[cfg(test)]
mod tests;

/// A certificate is valid from this long before it was made, so that a clock that is behind does not refuse it.
pub const BACKDATED_SECONDS: u64 = 3600;

/// No certificate lives longer, in days.
pub const MAX_DAYS: u32 = 36_500;

const DAY_MILLIS: u64 = 86_400_000;

/// Why a certificate was not made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// A name that cannot stand in a certificate.
    #[error("`{0}` cannot be a name: use 1 to 64 letters, digits, spaces, `.`, `-` or `_`")]
    Name(String),
    /// Neither a DNS name nor an address.
    #[error("`{0}` is neither a DNS name nor an IP address")]
    ServerName(String),
    /// A coordinator without a name cannot be found.
    #[error("a coordinator's certificate needs at least one DNS name or IP address")]
    NoServerName,
    /// Zero days or too many.
    #[error("a certificate cannot be valid for {0} days: ask for 1 to {MAX_DAYS}")]
    Days(u32),
    /// The certificate would outlive its authority.
    #[error(
        "the authority's certificate ends on {0}, before the new one would: ask for fewer days, or make a new authority"
    )]
    Outlives(UnixMillis),
    /// Not PEM, or not this kind.
    #[error("the {what} cannot be read: {reason}")]
    Unreadable {
        /// The kind of file.
        what: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// The request was not signed with its own key.
    #[error(
        "the request is not signed with its own key: it was damaged or changed on its way, ask the site for a new one"
    )]
    Forged,
    /// The request asks for more than a site may have.
    #[error("the request of `{0}` asks to become an authority: refused, ask the site for a plain request")]
    WantsAuthority(String),
    /// The request is for a kind of key that could not be carried over unchanged.
    #[error("the request has a kind of key that is not supported: make it with Ed25519 or ECDSA P-256")]
    KeyKind,
    /// The authority's files are not an authority's.
    #[error("the authority's certificate and key do not belong together, or the certificate is not an authority's")]
    Authority,
    /// No random bytes.
    #[error("the operating system gave no random bytes: {0}")]
    Entropy(String),
    /// The file is there already.
    #[error("`{0}` exists already, and a private key is never overwritten: move it away first")]
    Exists(String),
    /// The file cannot be written.
    #[error("cannot write `{path}`: {source}")]
    Write {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The certificate library failed.
    #[error("the certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// A new authority. The key is the consortium's most precious secret.
pub struct Authority {
    /// For every party.
    pub certificate_pem: String,
    /// For nobody else.
    pub key_pem: Zeroizing<String>,
}

/// A new key, and the request that goes to the authority.
pub struct Request {
    /// Stays at the site.
    pub key_pem: Zeroizing<String>,
    /// Goes to the authority.
    pub csr_pem: String,
    /// The fingerprint that people compare over another channel.
    pub site: SiteId,
}

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// A hospital: it dials.
    Site,
    /// The coordinator: it is dialled.
    Coordinator {
        /// DNS names and IP addresses by which it is reached.
        names: Vec<String>,
    },
}

/// Makes an authority whose certificate is valid from `now` for `valid_days`.
///
/// # Errors
/// If the name or the number of days is out of range.
pub fn new_authority(name: &str, valid_days: u32, now: UnixMillis) -> Result<Authority, IssueError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
    let mut params = certificate(name, valid_days, now)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate_pem = params.self_signed(&key)?.pem();
    Ok(Authority { certificate_pem, key_pem: Zeroizing::new(key.serialize_pem()) })
}

/// Makes a key and a request for a certificate in the name of `common_name`.
///
/// # Errors
/// If the name cannot stand in a certificate.
pub fn new_request(common_name: &str) -> Result<Request, IssueError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(common_name)?;
    let csr_pem = params.serialize_request(&key)?.pem()?;
    let site = SiteId(Digest::of(&key.subject_public_key_info()).0);
    Ok(Request { key_pem: Zeroizing::new(key.serialize_pem()), csr_pem, site })
}

/// Who asks: the common name and the fingerprint of the key, after the signature of the request has been checked.
///
/// # Errors
/// If the request is damaged, forged, unnamed, or asks to become an authority.
pub fn describe_request(csr_pem: &str) -> Result<(String, SiteId), IssueError> {
    let (request, name) = read_request(csr_pem)?;
    Ok((name, SiteId(Digest::of(&request.public_key.subject_public_key_info()).0)))
}

/// Signs a request, and returns the certificate as PEM.
///
/// # Errors
/// If the request or the authority is not sound, or the certificate would outlive the authority.
pub fn sign_request(
    authority_cert_pem: &str,
    authority_key_pem: &str,
    csr_pem: &str,
    role: &Role,
    valid_days: u32,
    now: UnixMillis,
) -> Result<String, IssueError> {
    let (mut request, name) = read_request(csr_pem)?;
    let (issuer, ends) = read_authority(authority_cert_pem, authority_key_pem)?;
    let mut params = certificate(&name, valid_days, now)?;
    if i128::from(ends.0) < params.not_after.unix_timestamp_nanos() / 1_000_000 {
        return Err(IssueError::Outlives(ends));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    match role {
        Role::Site => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
        Role::Coordinator { names } => {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            params.subject_alt_names = names.iter().map(|name| server_name(name)).collect::<Result<_, _>>()?;
            if params.subject_alt_names.is_empty() {
                return Err(IssueError::NoServerName);
            }
        }
    }
    request.params = params;
    Ok(request.signed_by(&issuer)?.pem())
}

/// Writes a private key so that only its owner can read it. It never overwrites.
///
/// # Errors
/// If the file exists or cannot be written.
pub fn write_private(path: &Path, text: &str) -> Result<(), IssueError> {
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AlreadyExists => IssueError::Exists(path.display().to_string()),
        _ => IssueError::Write { path: path.display().to_string(), source },
    };
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| {
        let _ = fs::remove_file(path); // half a key is worse than none
        failed(error)
    })
}

/// What every certificate has: a subject, a random serial number (RFC 5280, 4.1.2.2) and dates.
fn certificate(name: &str, valid_days: u32, now: UnixMillis) -> Result<CertificateParams, IssueError> {
    if !(1..=MAX_DAYS).contains(&valid_days) {
        return Err(IssueError::Days(valid_days));
    }
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(|e| IssueError::Entropy(e.to_string()))?;
    serial[0] = serial[0] & 0x7f | 0x40; // positive, and always 16 bytes
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(name)?;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = moment(UnixMillis(now.0.saturating_sub(BACKDATED_SECONDS * 1000)))?;
    params.not_after = moment(UnixMillis(now.0.saturating_add(u64::from(valid_days) * DAY_MILLIS)))?;
    Ok(params)
}

fn subject(name: &str) -> Result<DistinguishedName, IssueError> {
    let allowed = |c: char| c.is_alphanumeric() || " .-_".contains(c);
    if name.trim() != name || !(1..=64).contains(&name.chars().count()) || !name.chars().all(allowed) {
        return Err(IssueError::Name(name.chars().take(80).flat_map(char::escape_debug).collect()));
    }
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    Ok(subject)
}

fn server_name(name: &str) -> Result<SanType, IssueError> {
    let refuse = || IssueError::ServerName(name.chars().take(80).flat_map(char::escape_debug).collect());
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    rustls::pki_types::DnsName::try_from(name).map_err(|_| refuse())?;
    Ok(SanType::DnsName(name.try_into().map_err(|_| refuse())?))
}

fn moment(at: UnixMillis) -> Result<OffsetDateTime, IssueError> {
    // whole seconds: a certificate has no finer ones
    let seconds = i64::try_from(at.0 / 1000).map_err(|_| rcgen::Error::Time)?;
    Ok(OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| rcgen::Error::Time)?)
}

fn read_request(csr_pem: &str) -> Result<(CertificateSigningRequestParams, String), IssueError> {
    let unreadable = |reason: String| IssueError::Unreadable { what: "certificate request", reason };
    let der =
        CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes()).map_err(|e| unreadable(e.to_string()))?;
    let request = CertificateSigningRequestParams::from_der(&der).map_err(|error| match error {
        rcgen::Error::InvalidCertificationRequestSignature => IssueError::Forged,
        rcgen::Error::UnsupportedSignatureAlgorithm => IssueError::KeyKind,
        other => unreadable(other.to_string()),
    })?;
    let (_, parsed) = x509_parser::certification_request::X509CertificationRequest::from_der(&der)
        .map_err(|e| unreadable(e.to_string()))?;
    // the library takes the kind of key from the signature: the certificate must carry the very key of the request
    if parsed.certification_request_info.subject_pki.raw != request.public_key.subject_public_key_info() {
        return Err(IssueError::KeyKind);
    }
    let name = match request.params.distinguished_name.get(&DnType::CommonName) {
        Some(DnValue::Utf8String(name)) => name.clone(),
        Some(DnValue::PrintableString(name)) => name.as_str().to_owned(),
        Some(other) => return Err(unreadable(format!("its common name is not UTF-8: {other:?}"))),
        None => return Err(unreadable("it has no common name".to_owned())),
    };
    subject(&name)?;
    let signs = request.params.key_usages.contains(&KeyUsagePurpose::KeyCertSign);
    if signs || matches!(request.params.is_ca, IsCa::Ca(_)) {
        return Err(IssueError::WantsAuthority(name));
    }
    Ok((request, name))
}

/// The issuer, and until when it is valid.
fn read_authority(cert_pem: &str, key_pem: &str) -> Result<(Issuer<'static, KeyPair>, UnixMillis), IssueError> {
    let unreadable = |what, reason: String| IssueError::Unreadable { what, reason };
    let key = KeyPair::from_pem(key_pem).map_err(|e| unreadable("authority's key", e.to_string()))?;
    let der = CertificateDer::from_pem_slice(cert_pem.as_bytes())
        .map_err(|e| unreadable("authority's certificate", e.to_string()))?;
    let (_, parsed) =
        X509Certificate::from_der(&der).map_err(|e| unreadable("authority's certificate", e.to_string()))?;
    if !parsed.is_ca() || parsed.public_key().raw != key.subject_public_key_info() {
        return Err(IssueError::Authority);
    }
    let ends = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
    Ok((Issuer::from_ca_cert_der(&der, key)?, UnixMillis(ends.saturating_mul(1000))))
}
