//! Who is let in, and who is told why not, while good sites are served.

use std::{collections::BTreeSet, sync::Mutex, time::Duration};

use quinn::crypto::rustls::QuicClientConfig;
use tokio::net::UdpSocket;

use super::*;
use crate::{issue::Role, tls::tests::consortium::logged, transport::chunks::ChunkHeader};

/// What a dial that must fail said.
async fn refusal(server: &Server, files: &TlsFiles) -> String {
    match server.dial(files).await {
        Ok(_) => panic!("let in"),
        Err(error) => error.to_string(),
    }
}

/// A client that breaks rules which [`Dialer`] keeps.
async fn raw(server: &Server, config: rustls::ClientConfig) -> Result<quinn::Connection, quinn::ConnectionError> {
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let crypto = QuicClientConfig::try_from(config).unwrap();
    endpoint.connect_with(quinn::ClientConfig::new(Arc::new(crypto)), server.address, "localhost").unwrap().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_knows_who_asks() {
    let consortium = Consortium::new("Consortium");
    let server = Server::plain(&consortium);
    let (files, site) = consortium.site("hospital-known");
    let connection = server.dial(&files).await.unwrap();
    let expected = Answer::Echo { text: "hello".to_owned(), site, name: "hospital-known".to_owned() };
    assert_eq!(echo(&connection, "hello").await.unwrap(), expected);
    // the address in the certificate serves as well as the name
    let dialer = Dialer::new(&files, None).unwrap();
    let connection = dialer.connect(&server.address.to_string(), "127.0.0.1").await.unwrap();
    assert_eq!(echo(&connection, "hello").await.unwrap(), expected);
    let port = server.address.port();
    let connection = dialer.connect(&format!("localhost:{port}"), "localhost").await.unwrap();
    assert_eq!(echo(&connection, "hello").await.unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_does_not_answer_delays_the_next_by_little() {
    let consortium = Consortium::new("Consortium");
    let server = Server::plain(&consortium);
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let dialer = Dialer::new(&consortium.site("hospital-two-addresses").0, None).unwrap();
    let addresses = [silent.local_addr().unwrap(), server.address];
    let race = dialer.race(addresses.into_iter(), "localhost", TransportError::Closed);
    let connection = tokio::time::timeout(Duration::from_secs(5), race).await.unwrap().unwrap();
    assert_eq!(connection.server(), server.address);
    echo(&connection, "hello").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_certificates_are_refused_by_name_and_reason_and_the_rest_go_on() {
    let consortium = Consortium::new("Consortium");
    let others = Consortium::new("Others");
    let server = Server::plain(&consortium);
    let good = server.dial(&consortium.site("hospital-good").0).await.unwrap();
    let authority = consortium.path("authority.crt");

    let (files, site) = others.site("hospital-stranger");
    let text = refusal(&server, &TlsFiles { authority: authority.clone(), ..files }).await;
    assert!(text.contains("not signed by the peer's authority"), "{text}");
    logged(&["WARN", "`hospital-stranger`", "not signed by this consortium's authority", &site.short(), "127.0.0.1:"]);
    echo(&good, "still there").await.unwrap();

    let (files, site) = consortium.party("hospital-expired", &Role::Site, -30, 20);
    let text = refusal(&server, &files).await;
    assert!(text.contains("expired"), "{text}");
    logged(&["WARN", "refused site `hospital-expired`", "expired on 20", "issue a new one", &site.short()]);
    logged(&["WARN", "hospital-expired.crt", "expired on", "ask the consortium for a new one"]);

    let (files, site) = consortium.party("hospital-early", &Role::Site, 10, 20);
    let text = refusal(&server, &files).await;
    assert!(text.contains("not valid yet"), "{text}");
    logged(&["WARN", "refused site `hospital-early`", "not valid before 20", "clocks", &site.short()]);

    let names = vec!["localhost".to_owned()];
    let (files, site) = consortium.party("coordinator-two", &Role::Coordinator { names }, 0, 20);
    let text = refusal(&server, &files).await;
    assert!(text.contains("another role"), "{text}");
    logged(&["WARN", "refused site `coordinator-two`", "another role", &site.short()]);
    echo(&good, "still there").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_without_a_certificate_or_protocol_is_refused_with_its_address() {
    let consortium = Consortium::new("Consortium");
    let server = Server::plain(&consortium);
    let (files, _) = consortium.site("hospital-protocol");
    let plain = tls::client_config(&files).unwrap();

    let mut bare = plain.clone();
    bare.client_auth_cert_resolver = Arc::new(NoCertificate);
    let connection = raw(&server, bare).await.unwrap();
    let error = TransportError::from(connection.closed().await).to_string();
    assert!(error.contains("none was sent"), "{error}");
    logged(&["WARN", "a peer at 127.0.0.1:", "presented no certificate: refused"]);

    let mut other = plain.clone();
    other.alpn_protocols = vec![b"h3".to_vec()];
    let error = TransportError::from(raw(&server, other).await.unwrap_err()).to_string();
    assert!(error.contains("another protocol than semisam/1"), "{error}");
    logged(&["WARN", "a peer at 127.0.0.1:", "does not speak semisam/1"]);

    echo(&server.dial(&files).await.unwrap(), "still there").await.unwrap();
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_says_why_it_does_not_trust_the_coordinator() {
    let consortium = Consortium::new("Consortium");
    let others = Consortium::new("Others");
    let server = Server::plain(&consortium);
    let text = refusal(&server, &others.site("hospital-doubtful").0).await;
    assert!(text.contains("refused the coordinator") && text.contains("not signed by this consortium"), "{text}");
    logged(&["WARN", "refused this coordinator's certificate"]);

    let (files, _) = consortium.site("hospital-dial");
    let dialer = Dialer::new(&files, None).unwrap();
    let failure = async |address: &str, name: &str| match dialer.connect(address, name).await {
        Ok(_) => panic!("connected"),
        Err(error) => error.to_string(),
    };
    let text = failure(&server.address.to_string(), "fed.example.org").await;
    assert!(text.contains("for another name") && text.contains("server name"), "{text}");
    let text = failure(&server.address.to_string(), "no name").await;
    assert!(text.contains("`no name` cannot be a server name"), "{text}");
    let text = failure("no-such-host.invalid:443", "localhost").await;
    assert!(text.contains("no-such-host.invalid") && text.contains("DNS"), "{text}");
    assert!(failure("localhost", "localhost").await.contains("host:port"));
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let text = failure(&silent.local_addr().unwrap().to_string(), "localhost").await;
    assert!(text.contains("no answer from") && text.contains("UDP"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_ends_live_connections_and_refuses_new_ones() {
    let consortium = Consortium::new("Consortium");
    let set: Arc<Mutex<BTreeSet<SiteId>>> = Arc::default();
    let check = {
        let set = set.clone();
        Arc::new(move |site: &SiteId| set.lock().unwrap().contains(site))
    };
    let server = Server::start(&consortium, &consortium.coordinator(), check);
    let (files, site) = consortium.site("hospital-revoked");
    let good = server.dial(&consortium.site("hospital-kept").0).await.unwrap();
    let connection = server.dial(&files).await.unwrap();
    let mut open = connection.open().await.unwrap();
    open.send(&Ask::Put { file: "cut".to_owned(), from: 0, total: 20 }).await.unwrap();
    let half = |offset| [ChunkHeader { offset, length: 10 }.to_bytes().to_vec(), vec![7; 10]].concat();
    open.write(half(0), "writing").await.unwrap();
    while std::fs::metadata(consortium.path("cut")).is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    set.lock().unwrap().insert(site);
    open.write(half(10), "writing").await.unwrap();
    let error = open.receive::<Answer>().await.unwrap_err();
    assert!(error.to_string().contains("revoked"), "a request in progress ends: {error}");
    let length = std::fs::metadata(consortium.path("cut")).unwrap().len();
    assert!(length <= 10, "the second half was not taken: {length}");
    let error = echo(&connection, "me again").await.unwrap_err();
    assert!(error.to_string().contains("revoked"), "{error}");
    assert!(refusal(&server, &files).await.contains("revoked"));
    logged(&["WARN", "refused site `hospital-revoked`", "was revoked", &site.short()]);
    echo(&good, "still there").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_stall_or_send_garbage_stop_nobody() {
    let consortium = Consortium::new("Consortium");
    let server = Server::plain(&consortium);
    let (files, _) = consortium.site("hospital-busy");
    // connected, and silent for good; and a request that never ends
    let silent = server.dial(&consortium.site("hospital-silent").0).await.unwrap();
    let mut half = silent.open().await.unwrap();
    half.write(vec![9, 0], "half a frame").await.unwrap();
    // a handshake of which only the first datagrams arrive
    let relay = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (via, target) = (relay.local_addr().unwrap(), server.address);
    tokio::spawn(async move {
        let mut datagram = [0; 2048];
        for _ in 0..2 {
            let (length, _) = relay.recv_from(&mut datagram).await.unwrap();
            relay.send_to(&datagram[..length], target).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
    });
    let dialer = Dialer::new(&files, None).unwrap();
    let lost = tokio::spawn(async move { dialer.connect(&via.to_string(), "localhost").await.err().unwrap() });
    let noise = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for length in [0, 1, 20, 1200, 1472] {
        noise.send_to(&vec![0xc3; length], server.address).await.unwrap();
    }
    for _ in 0..5 {
        let connection = server.dial(&files).await.unwrap();
        echo(&connection, "served").await.unwrap();
    }
    assert!(matches!(lost.await.unwrap(), TransportError::NoAnswer(_)));
    logged(&["WARN", "did not complete its handshake within 10 s"]);
    echo(&server.dial(&files).await.unwrap(), "served").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_site_cannot_hoard_connections_or_requests() {
    let consortium = Consortium::new("Consortium");
    let server = Server::plain(&consortium);
    let (files, _) = consortium.site("hospital-hoarder");
    let mut connections = Vec::new();
    for _ in 0..5 {
        let connection = server.dial(&files).await.unwrap();
        echo(&connection, "hello").await.unwrap();
        connections.push(connection);
    }
    let error = echo(&connections[0], "oldest").await.unwrap_err();
    assert!(matches!(error, TransportError::Superseded), "{error}");
    echo(&connections[1], "second").await.unwrap();

    let last = server.dial(&files).await.unwrap();
    let mut open = Vec::new();
    for _ in 0..MAX_STREAMS {
        open.push(last.open().await.unwrap());
    }
    let more = tokio::time::timeout(Duration::from_millis(300), last.open()).await;
    assert!(more.is_err(), "a seventeenth request must wait");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_closes_says_so() {
    let consortium = Consortium::new("Consortium");
    let mut listener =
        Listener::bind("127.0.0.1:0".parse().unwrap(), &consortium.coordinator(), tls::none_revoked()).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (files, _) = consortium.site("hospital-last");
    let dialer = Dialer::new(&files, None).unwrap();
    let (connection, peer) = tokio::join!(dialer.connect(&address, "localhost"), listener.accept());
    let (connection, peer) = (connection.unwrap(), peer.unwrap());
    listener.close().await;
    assert!(matches!(peer.accept().await, Err(TransportError::Closed)));
    assert!(matches!(echo(&connection, "late").await, Err(TransportError::Closed)));
    assert!(listener.accept().await.is_none());
    let taken = Listener::bind(
        "192.0.2.1:1".parse().unwrap(),
        &consortium.party("c2", &Role::Coordinator { names: vec!["x".to_owned()] }, 0, 5).0,
        tls::none_revoked(),
    );
    assert!(taken.err().unwrap().to_string().contains("192.0.2.1:1"));
}

/// Forwards UDP between one client and whichever server `target` names.
async fn forward(target: Arc<Mutex<SocketAddr>>) -> SocketAddr {
    let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = front.local_addr().unwrap();
    let client = Arc::new(Mutex::new(None));
    let (inward, outward, from) = (front.clone(), back.clone(), client.clone());
    tokio::spawn(async move {
        let mut packet = vec![0; 2048];
        while let Ok((length, sender)) = inward.recv_from(&mut packet).await {
            *from.lock().unwrap() = Some(sender);
            let server = *target.lock().unwrap();
            let _ = outward.send_to(&packet[..length], server).await;
        }
    });
    tokio::spawn(async move {
        let mut packet = vec![0; 2048];
        while let Ok((length, _)) = back.recv_from(&mut packet).await {
            let known = *client.lock().unwrap();
            if let Some(known) = known {
                let _ = front.send_to(&packet[..length], known).await;
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_coordinator_ends_the_connections_of_the_killed_one_at_once() {
    let consortium = Consortium::new("restart");
    let files = consortium.coordinator();
    let start = || Server::start(&consortium, &files, tls::none_revoked());
    let (killed, restarted) = (start(), start());
    let target = Arc::new(Mutex::new(killed.address));
    let address = forward(target.clone()).await;
    let dialer = Dialer::new(&consortium.site("hospital-a").0, None).unwrap();
    let connection = dialer.connect(&address.to_string(), "localhost").await.unwrap();
    let _: Answer = connection.ask(&Ask::Echo("before".into())).await.unwrap();
    // From here on the packets reach a process that never heard of this connection, as after kill -9 and a restart.
    *target.lock().unwrap() = restarted.address;
    let lost = tokio::time::timeout(MAX_IDLE / 3, connection.ask::<_, Answer>(&Ask::Echo("after".into()))).await;
    let error = lost.expect("the connection ends long before the idle time").unwrap_err();
    assert!(matches!(error, TransportError::Lost(_)), "{error}");
    let again = dialer.connect(&address.to_string(), "localhost").await.unwrap();
    let _: Answer = again.ask(&Ask::Echo("again".into())).await.unwrap();
}
