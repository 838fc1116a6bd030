//! A consortium in a temporary folder, and nodes that speak the wire and nothing else.

use std::{
    ffi::OsString,
    io::Cursor,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use semisam_coordinator::{
    cli,
    folder::Folder,
    server::{Server, ServerError},
};
use semisam_shared::{
    chain::Head,
    fold::update_to_bytes,
    ids::{Digest, PublicKey, RoundNumber, SiteId},
    issue,
    message::{Request, Response, Task},
    receipt::Receipt,
    round::Rejection,
    tls::TlsFiles,
    transport::{Connection, Dialer, Exchange, TransportError},
    weights::{Tensor, Weights},
};
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

/// Two chunks and a bit: an update is cut in the middle.
pub(crate) const COORDINATES: usize = 600_000;
/// The bytes of an update.
pub(crate) const BYTES: u64 = COORDINATES as u64 * 4;
/// No step of these tests takes so long.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A founded federation.
pub(crate) struct Consortium {
    pub(crate) root: tempfile::TempDir,
}

impl Consortium {
    /// Founds one whose rounds need `quorum` sites, by the command line.
    pub(crate) fn new(rounds: u32, quorum: u32, seconds: u32) -> Self {
        let root = tempfile::tempdir().expect("folder");
        let tensor = Tensor { shape: vec![COORDINATES], values: vec![0.25; COORDINATES] };
        let model = Weights::new([("w".to_owned(), tensor)]).expect("fits").to_safetensors().expect("written");
        std::fs::write(root.path().join("initial.safetensors"), model).expect("written");
        let plan = include_str!("../../../deploy/plan.toml")
            .replace("rounds = 4 ", &format!("rounds = {rounds} "))
            .replace("quorum = 3 ", &format!("quorum = {quorum} "))
            .replace("round_seconds = 3600", &format!("round_seconds = {seconds}"))
            .replace("space = \"basis\"", "space = \"all\"");
        std::fs::write(root.path().join("plan.toml"), plan).expect("written");
        let consortium = Self { root };
        let (plan, model) = (consortium.path("plan.toml"), consortium.path("initial.safetensors"));
        let (code, founded) =
            consortium.command(&["init", "--listen", "127.0.0.1:0", "--plan", &plan, "--model", &model]);
        assert_eq!(code, 0);
        assert_eq!(founded["plan"].as_str().map(str::len), Some(64));
        consortium
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.root.path().join(name).display().to_string()
    }

    pub(crate) fn folder(&self) -> Folder {
        Folder::new(&self.root.path().join("coordinator"))
    }

    /// Runs a command of the program on this folder: its exit code and its JSON.
    pub(crate) fn command(&self, arguments: &[&str]) -> (u8, serde_json::Value) {
        let dir = self.path("coordinator");
        let place = ["--dir", &dir, "--format", "json"];
        let all = ["semisam-coordinator"].iter().chain(arguments).chain(&place);
        let mut out = Vec::new();
        let code = cli::run(all.map(OsString::from).collect::<Vec<_>>(), &mut out);
        (code, serde_json::from_slice(&out).unwrap_or(serde_json::Value::Null))
    }

    /// Enrols a site by the command line.
    pub(crate) fn enrol(&self, name: &str) -> Node {
        let (files, site) = self.keys(name);
        let request = self.root.path().join(name).join("request.csr").display().to_string();
        let out = files.certificate.display().to_string();
        let (code, enrolled) = self.command(&["enroll", "--request", &request, "--out", &out]);
        assert_eq!((code, enrolled["site"].as_str()), (0, Some(site.to_string().as_str())));
        Node { files, site, name: name.to_owned(), plan: self.plan() }
    }

    /// A site's key and request.
    pub(crate) fn keys(&self, name: &str) -> (TlsFiles, SiteId) {
        let folder = self.root.path().join(name);
        std::fs::create_dir_all(&folder).expect("made");
        let request = issue::new_request(name).expect("made");
        issue::write_private(&folder.join("key.pem"), &request.key_pem).expect("written");
        std::fs::write(folder.join("request.csr"), &request.csr_pem).expect("written");
        let authority = self.folder().authority_certificate();
        let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
        (TlsFiles { authority, certificate, key }, request.site)
    }

    pub(crate) fn plan(&self) -> Digest {
        let (code, status) = self.command(&["status"]);
        assert_eq!(code, 0);
        status["plan"].as_str().expect("a digest").parse().expect("a digest")
    }

    /// Starts the server; it stops when the second part says so.
    pub(crate) fn serve(&self, until_done: bool) -> Running {
        self.serve_at("127.0.0.1:0".parse().expect("address"), until_done)
    }

    pub(crate) fn serve_at(&self, listen: SocketAddr, until_done: bool) -> Running {
        let since = std::time::Instant::now();
        let server = loop {
            match Server::bind(&self.folder(), listen) {
                Ok(server) => break server,
                // Within one process the old socket may linger a moment.
                Err(error) => assert!(since.elapsed() < SOON, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let (address, (stop, stopped)) = (server.address(), oneshot::channel::<()>());
        let told = std::fs::read_to_string(self.folder().address()).expect("told");
        assert_eq!(told.trim(), address.to_string());
        let task = tokio::spawn(server.run(until_done, async move { drop(stopped.await) }));
        Running { address, stop, task }
    }
}

/// A server that serves.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServerError>>,
}

impl Running {
    pub(crate) async fn stop(self) {
        drop(self.stop);
        timeout(SOON, self.task).await.expect("soon").expect("no panic").expect("no error");
    }

    /// Waits until the server ends of itself.
    pub(crate) async fn ended(self) {
        timeout(SOON, self.task).await.expect("soon").expect("no panic").expect("no error");
    }
}

/// A site.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) files: TlsFiles,
    pub(crate) site: SiteId,
    pub(crate) name: String,
    pub(crate) plan: Digest,
}

/// How an upload ended.
#[derive(Debug, PartialEq)]
pub(crate) enum Sent {
    Accepted(Receipt),
    Rejected(Rejection),
}

impl Node {
    pub(crate) async fn dial(&self, address: SocketAddr) -> Result<Connection, TransportError> {
        let dialer = Dialer::new(&self.files, None)?;
        timeout(SOON, dialer.connect(&address.to_string(), "127.0.0.1")).await.expect("soon")
    }

    pub(crate) fn hello(&self) -> Request {
        let ledger_key = PublicKey(Digest::of(self.name.as_bytes()).0);
        Request::Hello { oldest: 1, newest: 1, software: "test".into(), ledger_key, ledger: Head::EMPTY }
    }

    /// Connects, says hello, and asks what to do, so that rounds count on this site.
    pub(crate) async fn connect(&self, address: SocketAddr) -> Connection {
        let connection = self.dial(address).await.expect("connected");
        let welcome = ask(&connection, &self.hello()).await;
        assert!(matches!(welcome, Response::Welcome { version: 1, plan, .. } if plan == self.plan), "{welcome:?}");
        let task = ask(&connection, &Request::Task).await;
        assert!(matches!(task, Response::Task(_)), "{task:?}");
        connection
    }

    /// The update of this site in a round: random integers, the same each time.
    pub(crate) fn update(&self, round: u32) -> Vec<u8> {
        let seed = Digest::of(format!("{} {round}", self.name).as_bytes()).0;
        let mut state = u64::from_le_bytes(seed[..8].try_into().expect("eight bytes"));
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            i64::from((state >> 32) as i32) >> 8
        };
        update_to_bytes(&(0..COORDINATES).map(|_| next()).collect::<Vec<_>>())
    }

    pub(crate) fn receipt(&self, round: u32, update: &[u8]) -> Receipt {
        Receipt {
            plan: self.plan,
            round: RoundNumber(round),
            site: self.site,
            payload: Digest::of(update),
            bytes: update.len() as u64,
            ledger: Head { length: u64::from(round) * 3, hash: Digest::of(update) },
        }
    }

    /// Announces an update: the offset from which the coordinator wants it, or its answer.
    pub(crate) async fn announce(connection: &Connection, receipt: Receipt) -> (Exchange, Result<u64, Sent>) {
        let mut exchange = connection.open().await.expect("opened");
        exchange.send(&Request::Submit { receipt }).await.expect("sent");
        let answer = match answer(&mut exchange).await {
            Response::Upload { offset } => Ok(offset),
            Response::Accepted(signed) => Err(Sent::Accepted(signed.receipt)),
            Response::Rejected(rejection) => Err(Sent::Rejected(rejection)),
            other => panic!("{other:?}"),
        };
        (exchange, answer)
    }

    /// Announces `receipt` and sends `bytes`.
    pub(crate) async fn send(connection: &Connection, receipt: Receipt, bytes: &[u8]) -> Sent {
        let (mut exchange, announced) = Self::announce(connection, receipt).await;
        let offset = match announced {
            Ok(offset) => offset,
            Err(sent) => return sent,
        };
        exchange.send_chunks(Cursor::new(bytes), offset, receipt.bytes).await.expect("sent");
        match answer(&mut exchange).await {
            Response::Accepted(signed) => Sent::Accepted(signed.receipt),
            Response::Rejected(rejection) => Sent::Rejected(rejection),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn submit(&self, connection: &Connection, round: u32) -> Sent {
        let update = self.update(round);
        Self::send(connection, self.receipt(round, &update), &update).await
    }

    /// Asks until there is something to train, and returns the round and the model.
    pub(crate) async fn train(&self, connection: &Connection) -> (u32, Digest) {
        let asking = async {
            loop {
                match ask(connection, &Request::Task).await {
                    Response::Task(Task::Train { round, model, .. }) => return (round.0, model),
                    Response::Task(Task::Wait { .. }) => tokio::time::sleep(Duration::from_millis(50)).await,
                    other => panic!("{other:?}"),
                }
            }
        };
        timeout(SOON, asking).await.expect("a round opens soon")
    }

    /// Fetches a blob from an offset on.
    pub(crate) async fn fetch(&self, connection: &Connection, blob: Digest, offset: u64) -> Vec<u8> {
        let mut exchange = connection.open().await.expect("opened");
        exchange.send(&Request::Fetch { blob, offset }).await.expect("sent");
        let Response::Blob { length } = answer(&mut exchange).await else { panic!("no blob") };
        let mut bytes = Vec::new();
        exchange.receive_chunks(&mut bytes, offset, length).await.expect("received");
        bytes
    }
}

/// One question, one answer.
pub(crate) async fn ask(connection: &Connection, request: &Request) -> Response {
    timeout(SOON, connection.ask(request)).await.expect("soon").expect("answered")
}

pub(crate) async fn answer(exchange: &mut Exchange) -> Response {
    timeout(SOON, exchange.receive()).await.expect("soon").expect("answered")
}

pub(crate) fn spooled(consortium: &Consortium) -> Vec<PathBuf> {
    let list = |folder: &Path| std::fs::read_dir(folder).expect("listed").flatten().map(|entry| entry.path()).collect();
    list(&consortium.folder().spool())
}
