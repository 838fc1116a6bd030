//! PEM files on disk, and every way in which they can be wrong before a connection is tried.

use std::{fs, io::Read, path::Path, sync::Arc};

use rustls::{
    InconsistentKeys, RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::{Identity, Loaded, TlsError, TlsFiles, identity, verify};
use crate::ids::UnixMillis;

/// No certificate chain or key is nearly as long.
const MAX_PEM: u64 = 1 << 20;

/// The identity, the authorities, and the certificate with its key.
pub(super) fn load(files: &TlsFiles, provider: &CryptoProvider) -> Result<Loaded, TlsError> {
    let roots = authorities(&files.authority)?;
    let chain = certificates(&files.certificate)?;
    let who = identity(&chain[0]).map_err(|e| damaged(&files.certificate, e))?;
    let key = private_key(&files.key)?;
    let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsError::Mismatch { certificate: files.certificate.clone(), key: files.key.clone() }
        }
        other => damaged(&files.key, other),
    })?;
    Ok((who, Arc::new(roots), key))
}

/// Whether the certificate is in time.
pub(super) fn in_time(path: &Path, who: &Identity, now: UnixMillis) -> Result<(), TlsError> {
    if now > who.not_after {
        return Err(TlsError::Expired { path: path.to_owned(), not_after: who.not_after });
    }
    if now < who.not_before {
        return Err(TlsError::NotYetValid { path: path.to_owned(), not_before: who.not_before, now });
    }
    Ok(())
}

/// Whether the authority signed this certificate, and for a coordinator.
pub(super) fn for_coordinator(
    path: &Path,
    key: &CertifiedKey,
    roots: &RootCertStore,
    provider: &CryptoProvider,
) -> Result<(), TlsError> {
    let leaf = &key.cert[0];
    let algorithms = provider.signature_verification_algorithms.all;
    ParsedCertificate::try_from(leaf)
        .and_then(|parsed| {
            verify_server_cert_signed_by_trust_anchor(&parsed, roots, &key.cert[1..], UnixTime::now(), algorithms)
        })
        .map_err(|error| TlsError::NotACoordinator { path: path.to_owned(), reason: verify::reason(&error, leaf) })
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|e| damaged(path, e))?;
        if !parsed.is_ca() {
            return Err(TlsError::NotAnAuthority(path.to_owned()));
        }
        roots.add(certificate).map_err(|e| damaged(path, e))?;
    }
    Ok(roots)
}

/// At least one certificate.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>().map_err(|e| damaged(path, e))?;
    if found.is_empty() {
        return Err(TlsError::NoCertificate(path.to_owned()));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    guarded(path)?;
    let bytes = read(path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => TlsError::NoKey(path.to_owned()),
        other => damaged(path, other),
    })
}

/// Others must not read a key, and nobody but its owner may write it. A group may read it: that is how
/// service managers and containers hand out secrets.
#[cfg(unix)]
fn guarded(path: &Path) -> Result<(), TlsError> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = fs::metadata(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    let mode = metadata.permissions().mode();
    let whom = match mode {
        _ if mode & 0o004 != 0 => "readable by everybody",
        _ if mode & 0o022 != 0 => "writable by other users",
        _ => return Ok(()),
    };
    Err(TlsError::KeyPermissions { path: path.to_owned(), whom })
}

#[cfg(not(unix))]
fn guarded(_path: &Path) -> Result<(), TlsError> {
    Ok(())
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let mut bytes = Zeroizing::new(Vec::new());
    fs::File::open(path)
        .and_then(|file| file.take(MAX_PEM).read_to_end(&mut bytes))
        .map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    Ok(bytes)
}

fn damaged(path: &Path, reason: impl ToString) -> TlsError {
    TlsError::Damaged { path: path.to_owned(), reason: reason.to_string() }
}
