//! Requests that are honest, damaged, forged or greedy.

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::clock;

fn now() -> UnixMillis {
    UnixMillis(1_790_000_000_000)
}

fn sign(authority: &Authority, csr: &str, role: &Role, days: u32) -> Result<String, IssueError> {
    sign_request(&authority.certificate_pem, &authority.key_pem, csr, role, days, now())
}

fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

fn names(names: &[&str]) -> Role {
    Role::Coordinator { names: names.iter().map(|name| (*name).to_owned()).collect() }
}

#[test]
fn a_site_keeps_its_key_and_gets_a_certificate_for_it() {
    let authority = new_authority("Consortium", 3650, now()).unwrap();
    let request = new_request("hospital-a").unwrap();
    assert_eq!(describe_request(&request.csr_pem).unwrap(), ("hospital-a".to_owned(), request.site));
    let pem = sign(&authority, &request.csr_pem, &Role::Site, 90).unwrap();
    let who = crate::tls::identity(&der(&pem)).unwrap();
    assert_eq!((who.site, who.name.as_str()), (request.site, "hospital-a"));
    assert_eq!(who.not_before.0, now().0 - BACKDATED_SECONDS * 1000);
    assert_eq!(who.not_after, now().plus_seconds(90 * 86_400));

    let bytes = der(&pem);
    let (_, certificate) = X509Certificate::from_der(&bytes).unwrap();
    assert!(!certificate.is_ca());
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    let again = der(&sign(&authority, &request.csr_pem, &Role::Site, 90).unwrap());
    let (_, again) = X509Certificate::from_der(&again).unwrap();
    assert_ne!(again.raw_serial(), certificate.raw_serial(), "serial numbers are never used twice");
}

#[test]
fn a_coordinator_is_named_by_dns_or_address() {
    let authority = new_authority("Consortium", 365, now()).unwrap();
    let csr = new_request("coordinator").unwrap().csr_pem;
    let pem = sign(&authority, &csr, &names(&["fed.example.org", "10.0.0.1", "::1"]), 30).unwrap();
    let bytes = der(&pem);
    let (_, certificate) = X509Certificate::from_der(&bytes).unwrap();
    assert_eq!(certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 3);
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth);
    assert!(matches!(sign(&authority, &csr, &names(&[]), 30), Err(IssueError::NoServerName)));
    assert!(matches!(sign(&authority, &csr, &names(&["a b"]), 30), Err(IssueError::ServerName(_))));
}

#[test]
fn greedy_requests_are_refused() {
    let authority = new_authority("Consortium", 365, now()).unwrap();
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("greedy").unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    assert!(
        matches!(sign(&authority, &csr, &Role::Site, 30), Err(IssueError::WantsAuthority(name)) if name == "greedy")
    );
    params.is_ca = IsCa::NoCa;
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    assert!(matches!(describe_request(&csr), Err(IssueError::WantsAuthority(_))));

    // names and purposes that were only asked for are not given
    params.key_usages = vec![];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names = vec![SanType::DnsName("fed.example.org".try_into().unwrap())];
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let bytes = der(&sign(&authority, &csr, &Role::Site, 30).unwrap());
    let (_, certificate) = X509Certificate::from_der(&bytes).unwrap();
    assert!(certificate.subject_alternative_name().unwrap().is_none());
    assert!(!certificate.extended_key_usage().unwrap().unwrap().value.server_auth);
}

#[test]
fn a_request_with_an_ecdsa_key_is_signed_too() {
    let authority = new_authority("Consortium", 365, now()).unwrap();
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("hsm").unwrap();
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let pem = sign(&authority, &csr, &Role::Site, 30).unwrap();
    assert_eq!(crate::tls::site_id(&der(&pem)).unwrap(), describe_request(&csr).unwrap().1);
}

#[test]
fn a_request_that_was_changed_is_forged() {
    let request = new_request("hospital-a").unwrap();
    let sound = CertificateSigningRequestDer::from_pem_slice(request.csr_pem.as_bytes()).unwrap().to_vec();
    let at = sound.windows(10).position(|window| window == b"hospital-a").unwrap();
    let mut forged = sound;
    forged[at + 9] = b'b';
    let forged = to_pem("CERTIFICATE REQUEST", &forged);
    assert!(matches!(describe_request(&forged), Err(IssueError::Forged)));
}

#[test]
fn names_days_and_foreign_keys_are_checked() {
    for name in ["", " a", "a\nb", "a/CN=b", &"x".repeat(65)] {
        assert!(matches!(new_request(name), Err(IssueError::Name(_))), "{name:?}");
    }
    let authority = new_authority("Consortium", 365, now()).unwrap();
    let other = new_authority("Consortium", 365, now()).unwrap();
    let csr = new_request("hospital ä").unwrap().csr_pem;
    assert!(matches!(sign(&authority, &csr, &Role::Site, 366), Err(IssueError::Outlives(_))));
    sign(&authority, &csr, &Role::Site, 365).unwrap();
    for days in [0, MAX_DAYS + 1] {
        assert!(matches!(sign(&authority, &csr, &Role::Site, days), Err(IssueError::Days(_))));
    }
    let mixed = Authority { certificate_pem: authority.certificate_pem.clone(), key_pem: other.key_pem };
    assert!(matches!(sign(&mixed, &csr, &Role::Site, 30), Err(IssueError::Authority)));
    let request = new_request("hospital-b").unwrap();
    let leaf = sign(&authority, &request.csr_pem, &Role::Site, 30).unwrap();
    let leaf = Authority { certificate_pem: leaf, key_pem: request.key_pem };
    assert!(matches!(sign(&leaf, &csr, &Role::Site, 10), Err(IssueError::Authority)));
}

#[cfg(unix)]
#[test]
fn a_private_key_is_for_its_owner_and_never_overwritten() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("node.key");
    write_private(&path, "secret").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let error = write_private(&path, "other").unwrap_err();
    assert!(matches!(&error, IssueError::Exists(_)) && error.to_string().contains("node.key"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "secret");
    assert!(matches!(write_private(&dir.path().join("no/node.key"), ""), Err(IssueError::Write { .. })));
}

#[test]
fn the_real_clock_makes_certificates_too() {
    let authority = new_authority("Consortium", MAX_DAYS, clock::now()).unwrap();
    let who = crate::tls::identity(&der(&authority.certificate_pem)).unwrap();
    assert!(who.not_after.to_string().starts_with("21"), "dates after 2050 have another encoding");
}

proptest! {
    #[test]
    fn hostile_requests_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(describe_request(&to_pem("CERTIFICATE REQUEST", &bytes)).is_err());
        prop_assert!(describe_request(&String::from_utf8_lossy(&bytes)).is_err());
    }
}

/// DER as PEM.
fn to_pem(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in der.chunks(3) {
        let mut bytes = [0_u8; 3];
        bytes[..group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]);
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit)) as usize & 63;
            text.push(if digit <= group.len() { ALPHABET[value] as char } else { '=' });
        }
    }
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
