//! Handshakes in memory, and every way in which the files can be wrong.

pub(crate) mod consortium;

use std::fs;

use consortium::{Consortium, moment};
use proptest::prelude::*;
use rustls::{ClientConnection, NamedGroup, ProtocolVersion, ServerConnection};

use super::*;
use crate::issue::Role;

/// Hands bytes to and fro until both are done or one refuses.
fn shake(
    client: rustls::ClientConfig,
    server: rustls::ServerConfig,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let mut client = ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap()).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    for _ in 0..20 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

#[test]
fn both_sides_prove_their_keys_with_post_quantum_key_exchange() {
    let consortium = Consortium::new("Consortium");
    let (files, site) = consortium.site("hospital-handshake");
    let server = server_config(&consortium.coordinator(), none_revoked()).unwrap();
    let (client, server) = shake(client_config(&files).unwrap(), server).unwrap();
    assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(server.alpn_protocol(), Some(ALPN));
    assert_eq!(client.tls13_tickets_received(), 0);
    let certificate = &server.peer_certificates().unwrap()[0];
    assert_eq!(site_id(certificate).unwrap(), site);
    assert_eq!(common_name(certificate).unwrap(), "hospital-handshake");
}

#[test]
fn another_application_protocol_is_refused() {
    let consortium = Consortium::new("Consortium");
    let mut client = client_config(&consortium.site("hospital-h3").0).unwrap();
    client.alpn_protocols = vec![b"h3".to_vec()];
    let server = server_config(&consortium.coordinator(), none_revoked()).unwrap();
    assert_eq!(shake(client, server).unwrap_err(), rustls::Error::NoApplicationProtocol);
}

#[test]
fn tls_1_2_is_refused() {
    // ClientHello of TLS 1.2: version, random, no session, one ECDHE suite, no compression, no extension
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    let mut record = vec![22, 3, 1, 0, hello.len() as u8 + 4, 1, 0, 0, hello.len() as u8];
    record.extend(hello);
    let consortium = Consortium::new("Consortium");
    let config = server_config(&consortium.coordinator(), none_revoked()).unwrap();
    let mut server = ServerConnection::new(Arc::new(config)).unwrap();
    server.read_tls(&mut &record[..]).unwrap();
    let error = server.process_new_packets().unwrap_err();
    assert!(matches!(error, rustls::Error::PeerIncompatible(_)), "{error:?}");
}

#[test]
fn a_wrong_file_is_named_with_its_remedy() {
    let consortium = Consortium::new("Consortium");
    let (good, _) = consortium.site("hospital-files");
    let (other, _) = consortium.site("hospital-other");
    let check = |files: &TlsFiles| files.check(moment(1)).unwrap_err().to_string();
    good.check(moment(1)).unwrap();

    let missing = TlsFiles { authority: consortium.path("nowhere.crt"), ..good.clone() };
    assert!(check(&missing).contains("nowhere.crt"));
    let mixed = TlsFiles { key: other.key.clone(), ..good.clone() };
    let text = check(&mixed);
    assert!(text.contains("do not belong together") && text.contains("hospital-other.key"), "{text}");
    let swapped = TlsFiles { certificate: good.key.clone(), ..good.clone() };
    assert!(check(&swapped).contains("holds no certificate"));
    let no_key = consortium.path("empty.key");
    crate::issue::write_private(&no_key, "").unwrap();
    assert!(check(&TlsFiles { key: no_key, ..good.clone() }).contains("holds no private key"));
    let leaf = TlsFiles { authority: other.certificate.clone(), ..good.clone() };
    assert!(check(&leaf).contains("not the certificate of an authority"));

    let text = fs::read_to_string(&good.certificate).unwrap();
    let broken = consortium.path("broken.crt");
    fs::write(&broken, text.replacen("MII", "MIJ", 1)).unwrap();
    assert!(check(&TlsFiles { certificate: broken.clone(), ..good.clone() }).contains("broken.crt"));
    fs::write(&broken, &text[..text.len() / 2]).unwrap();
    assert!(check(&TlsFiles { certificate: broken, ..good.clone() }).contains("broken.crt"));

    let expired = good.check(moment(91)).unwrap_err().to_string();
    assert!(expired.contains("expired on 20") && expired.contains("ask the consortium for a new one"), "{expired}");
    assert!(matches!(good.check(moment(-1)), Err(TlsError::NotYetValid { .. })));
}

#[cfg(unix)]
#[test]
fn a_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let consortium = Consortium::new("Consortium");
    let (files, _) = consortium.site("hospital-open");
    for (mode, text) in [(0o604, "readable by everybody: chmod 600"), (0o620, "writable by other users: chmod 600")] {
        fs::set_permissions(&files.key, fs::Permissions::from_mode(mode)).unwrap();
        let error = files.check(moment(1)).unwrap_err().to_string();
        assert!(error.contains(text) && error.contains("hospital-open.key"), "{error}");
    }
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o440)).unwrap();
    files.check(moment(1)).unwrap();
}

#[test]
fn a_coordinator_starts_only_with_a_coordinators_certificate_in_time() {
    let consortium = Consortium::new("Consortium");
    let refused = |files: &TlsFiles| match ServerTls::load(files, none_revoked()) {
        Ok(_) => panic!("accepted"),
        Err(error) => error.to_string(),
    };
    assert!(refused(&consortium.site("hospital-server").0).contains("issued for another role"));
    let names = Role::Coordinator { names: vec!["localhost".to_owned()] };
    assert!(refused(&consortium.party("old", &names, -10, 5).0).contains("expired on"));
    let stranger = TlsFiles { authority: Consortium::new("Others").path("authority.crt"), ..consortium.coordinator() };
    assert!(refused(&stranger).contains("authority.crt"), "its folder is gone");
    let others = Consortium::new("Others");
    let stranger = TlsFiles { authority: others.path("authority.crt"), ..consortium.party("two", &names, 0, 5).0 };
    assert!(refused(&stranger).contains("not signed by this consortium's authority"));
}

#[test]
fn a_hostile_name_cannot_forge_a_log_line() {
    assert_eq!(printable("a\nWARN b\u{1b}[31m`"), "a?WARN b??31m?");
    assert_eq!(printable(""), "unnamed");
    assert_eq!(printable(&"x".repeat(1000)).len(), 64);
}

proptest! {
    #[test]
    fn hostile_certificates_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(identity(&bytes).is_err());
    }

    #[test]
    fn a_changed_certificate_never_panics(at in 0_usize..300, bit in 0_u8..8) {
        let mut der = sample();
        let at = at % der.len();
        der[at] ^= 1 << bit;
        let _ = identity(&der);
    }
}

fn sample() -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let authority = crate::issue::new_authority("A", 10, moment(0)).unwrap();
    CertificateDer::from_pem_slice(authority.certificate_pem.as_bytes()).unwrap().to_vec()
}
