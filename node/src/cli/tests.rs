//! The commands of a site from `init` to `ledger verify`, with the folder, keys and certificates of a real consortium.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
};

use clap::Parser;
use semisam_shared::{
    clock,
    ids::{Digest, RoundNumber, UnixMillis},
    issue::{self, Authority, Role},
    ledger::Query,
    message::{Request, Response},
    plan::{Plan, SignedPlan, Unit},
    signing::SigningKey,
    tls::{TlsFiles, none_revoked},
    transport::{Listener, TransportError},
};
use serde_json::Value;

use super::{Arguments, Exit, Rim, approve::approve_plan};
use crate::{
    privacy::{
        release::{payload_path, release},
        tests::{number, plan, policy, signed},
    },
    site_folder::SiteFolder,
};

/// A folder with scans, a consortium's authority and room for a site.
struct Place {
    root: tempfile::TempDir,
    authority: Authority,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("folder");
        fs::create_dir(root.path().join("scans")).expect("folder");
        let authority = issue::new_authority("consortium", 365, clock::now()).expect("authority");
        fs::write(root.path().join("authority.pem"), &authority.certificate_pem).expect("written");
        Self { root, authority }
    }

    fn path(&self, name: &str) -> String {
        self.root.path().join(name).display().to_string()
    }

    fn folder(&self) -> SiteFolder {
        SiteFolder::open(&self.root.path().join("node")).expect("a site")
    }

    fn init(&self) -> Result<String, (Exit, String)> {
        let (dir, data) = (self.path("node"), self.path("scans"));
        let coordinator = ["--coordinator", "127.0.0.1:7443", "--data", &data, "--approver", "Dr. Who"];
        run(&[&["init", "--dir", &dir, "--name", "hospital-a"], &coordinator[..]].concat())
    }

    /// Signs a request, and answers where the certificate is.
    fn certificate(&self, request: &Path, role: &Role, at: UnixMillis) -> String {
        let request = fs::read_to_string(request).expect("request");
        let Authority { certificate_pem, key_pem } = &self.authority;
        let pem = issue::sign_request(certificate_pem, key_pem, &request, role, 30, at).expect("signed");
        let path = self.path("certificate.pem");
        fs::write(&path, pem).expect("written");
        path
    }

    fn enroll(&self, certificate: &str, authority: &str) -> Result<String, (Exit, String)> {
        run(&["enroll", "--dir", &self.path("node"), "--certificate", certificate, "--authority", authority])
    }

    fn enrolled() -> Self {
        let place = Self::new();
        place.init().expect("made");
        let certificate = place.certificate(&place.folder().request(), &Role::Site, clock::now());
        place.enroll(&certificate, &place.path("authority.pem")).expect("fits");
        place
    }

    fn json(&self, command: &[&str]) -> Value {
        let text = run(&[command, &["--format", "json", "--dir", &self.path("node")]].concat()).expect("done");
        assert_eq!(text.lines().count(), 1, "one document");
        serde_json::from_str(&text).expect("JSON")
    }
}

/// What a command prints, or how it failed.
fn run(args: &[&str]) -> Result<String, (Exit, String)> {
    let parsed = Arguments::try_parse_from(std::iter::once("semisam-node").chain(args.iter().copied()));
    let Arguments { format, command } = parsed.map_err(|error| (Exit::Usage, error.to_string()))?;
    let mut out = Vec::new();
    let ended = command.run(&mut Rim { format, out: &mut out });
    let text = String::from_utf8(out).expect("text");
    match ended {
        Ok(Exit::Done) => Ok(text),
        Ok(exit) => Err((exit, text)),
        Err(failure) => Err((failure.exit(), failure.to_string())),
    }
}

fn refused(ended: Result<String, (Exit, String)>, exit: Exit, parts: &[&str]) {
    let (found, message) = ended.expect_err("must not be done");
    assert_eq!(found, exit, "{message}");
    for part in parts {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn a_site_is_made_enrolled_and_asked() {
    let place = Place::enrolled();
    let status = place.json(&["status"]);
    assert_eq!((&status["name"], &status["enrolled"]), (&"hospital-a".into(), &true.into()));
    assert!(status["certificate"]["days_left"].as_u64().is_some_and(|days| days == 29), "{status}");
    assert_eq!((&status["releases"]["committed"], &status["records"]), (&0.into(), &2.into()));
    let budget = place.json(&["budget"]);
    assert_eq!(budget["policy"]["epsilon_max"], "10");
    assert_eq!((&budget["spent"]["add_remove"], &budget["left"]["add_remove"]), (&0.0.into(), &10.0.into()));
    let verdict = place.json(&["ledger", "verify"]);
    assert_eq!((&verdict["verdict"], &verdict["records"]), (&"sound".into(), &2.into()));
    for command in [vec!["status"], vec!["budget"], vec!["policy", "show"], vec!["ledger", "verify"]] {
        let text = run(&[command.as_slice(), &["--dir", &place.path("node")]].concat()).expect("done");
        assert!(text.lines().count() >= 3, "{text}");
    }
    let config = place.folder().config().expect("written by init");
    assert!(config.data.is_absolute() && config.server_name == "127.0.0.1");
    // The same request signed again replaces the certificate.
    let certificate = place.certificate(&place.folder().request(), &Role::Site, clock::now());
    place.enroll(&certificate, &place.path("authority.pem")).expect("renewed");
}

#[cfg(unix)]
#[test]
fn keys_and_certificates_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::enrolled();
    let (folder, tls) = (place.folder(), place.folder().tls());
    for path in [folder.signing_key_file(), tls.key, tls.certificate, tls.authority] {
        let mode = fs::metadata(&path).expect("written").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
    }
    assert_eq!(fs::metadata(folder.path()).expect("made").permissions().mode() & 0o777, 0o700);
    fs::set_permissions(folder.signing_key_file(), fs::Permissions::from_mode(0o644)).expect("changed");
    refused(run(&["policy", "set", "--dir", &place.path("node")]), Exit::Failed, &["chmod 600", "signing.key"]);
}

#[test]
fn init_refuses_what_cannot_work_and_leaves_nothing_behind() {
    let place = Place::new();
    let (dir, data) = (place.path("node"), place.path("scans"));
    let init = |name: &str, coordinator: &str, data: &str| {
        run(&["init", "--dir", &dir, "--name", name, "--coordinator", coordinator, "--data", data])
    };
    refused(init("a", "nowhere", &data), Exit::Failed, &["`nowhere`", "host:port"]);
    refused(init("a", "c:1", &place.path("no")), Exit::Failed, &["--data", "because"]);
    refused(init("a", "c:1", &place.path("authority.pem")), Exit::Failed, &["not a folder"]);
    refused(init("evil\nname", "c:1", &data), Exit::Failed, &["cannot be a name"]);
    assert!(!Path::new(&dir).exists());
    refused(init("a", "c:1", ""), Exit::Usage, &["--data"]);
    fs::create_dir(&dir).expect("an empty folder is fine");
    place.init().expect("made");
    refused(place.init(), Exit::Failed, &["not empty", "--dir"]);
    let key = fs::read(place.folder().tls().key).expect("still there");
    refused(place.init(), Exit::Failed, &["not empty"]);
    assert_eq!(fs::read(place.folder().tls().key).expect("still there"), key);
}

#[test]
fn usage_and_missing_folders_are_told_apart() {
    for bad in [&["fly"][..], &["budget", "--format", "xml"], &["init"], &["policy", "approve", "abc"]] {
        refused(run(bad), Exit::Usage, &["error"]);
    }
    for command in [&["status"][..], &["budget"], &["ledger", "verify"], &["policy", "set"]] {
        let ended = run(&[command, &["--dir", "/nonexistent/node"]].concat());
        refused(ended, Exit::Failed, &["`/nonexistent/node`", "semisam-node init"]);
    }
}

#[test]
fn a_certificate_that_does_not_belong_here_is_refused() {
    let place = Place::new();
    place.init().expect("made");
    let (authority, request) = (place.path("authority.pem"), place.folder().request());
    refused(place.enroll(&place.path("no.pem"), &authority), Exit::Failed, &["no.pem"]);
    refused(place.enroll(&authority, &authority), Exit::Refused, &["do not belong together"]);
    let other = issue::new_request("hospital-b").expect("request");
    let foreign = place.path("foreign.csr");
    fs::write(&foreign, &other.csr_pem).expect("written");
    let certificate = place.certificate(Path::new(&foreign), &Role::Site, clock::now());
    refused(place.enroll(&certificate, &authority), Exit::Refused, &["do not belong together", "key.pem"]);
    let old = UnixMillis(clock::now().0 - 40 * 86_400_000);
    let made = Place { root: tempfile::tempdir().expect("folder"), ..Place::new() };
    let authority_then = issue::new_authority("then", 365, old).expect("authority");
    let expired = Place { authority: authority_then, ..made };
    let expired = expired.certificate(&request, &Role::Site, old);
    refused(place.enroll(&expired, &authority), Exit::Refused, &["expired"]);
    let good = place.certificate(&request, &Role::Site, clock::now());
    refused(place.enroll(&good, &good), Exit::Refused, &["authority"]);
    assert!(!place.folder().is_enrolled(), "nothing was installed");
    // Somebody put another key into the folder, with a certificate that fits it.
    let key = place.folder().tls().key;
    fs::remove_file(&key).expect("removed");
    issue::write_private(&key, &other.key_pem).expect("written");
    let certificate = place.certificate(Path::new(&foreign), &Role::Site, clock::now());
    refused(
        place.enroll(&certificate, &authority),
        Exit::Refused,
        &["the certificate is for site", "ledger", "key.pem"],
    );
}

#[test]
fn a_policy_is_edited_set_and_holds() {
    let place = Place::enrolled();
    let (dir, file) = (place.path("node"), place.folder().policy_file());
    assert_eq!(place.json(&["policy", "show"])["file_in_force"], true);
    let text = fs::read_to_string(&file).expect("written by init");
    fs::write(&file, text.replace("epsilon_max = 10", "epsilon_max = 2.5")).expect("edited");
    assert_eq!(place.json(&["policy", "show"])["file_in_force"], false);
    assert_eq!(place.json(&["policy", "set"])["changed"], true);
    assert_eq!(place.json(&["policy", "set"])["changed"], false);
    assert_eq!(place.json(&["budget"])["left"]["add_remove"], 2.5);
    fs::write(&file, text.replace("delta", "detla")).expect("misspelt");
    refused(
        run(&["policy", "set", "--dir", &dir]),
        Exit::Failed,
        &["unknown key `detla`", "`delta` is missing", "line 5"],
    );
    let mut book = place.folder().book().expect("sound");
    let strong = signed(plan(4.0, 8, Unit::Patient));
    let digest = strong.plan.digest().expect("digest");
    let key = SigningKey::generate().expect("entropy").public();
    let error = approve_plan(&mut book, strong, key, digest, "dpo", clock::now()).expect_err("too dear").to_string();
    assert!(error.contains("epsilon") && error.contains("2.5"), "{error}");
    let refusals = book.head().length;
    assert_eq!(refusals, 4, "the refusal is a record");
}

#[test]
fn a_plan_is_judged_before_anybody_trains() {
    let place = Place::enrolled();
    let (dir, file) = (place.path("node"), place.path("plan.json"));
    let write = |plan: &Plan| fs::write(&file, serde_json::to_string(plan).expect("json")).expect("written");
    write(&plan(4.0, 8, Unit::Patient));
    let outlook = place.json(&["budget", "--plan", &file, "--patients", "40", "--sites", "12"]);
    assert_eq!((&outlook["policy"]["allowed"], &outlook["noise_to_signal"]["patients"]), (&true.into(), &40.into()));
    assert!((outlook["one_round"]["eps_zcdp"]["add_remove"].as_f64().expect("number") - 1.012_288).abs() < 2e-6);
    let text = run(&["budget", "--dir", &dir, "--plan", &file]).expect("allowed");
    assert!(text.contains("policy: allowed") && text.contains("better start"), "{text}");
    write(&plan(0.9, 8, Unit::Patient));
    let judged = run(&["budget", "--dir", &dir, "--plan", &file]);
    refused(judged, Exit::Refused, &["REFUSED", "`noise_multiplier_min`", "`epsilon_max`"]);
    fs::write(&file, "rounds = 3").expect("written");
    refused(run(&["budget", "--dir", &dir, "--plan", &file]), Exit::Failed, &["plan.json", "deploy/plan.toml"]);
    refused(run(&["budget", "--dir", &dir, "--plan", "no.toml"]), Exit::Failed, &["no.toml"]);
    refused(run(&["budget", "--dir", &dir, "--sites", "3"]), Exit::Usage, &["--plan"]);
}

#[test]
fn budget_and_verdict_follow_the_releases() {
    let place = Place::enrolled();
    let plan = plan(4.0, 8, Unit::Patient);
    let (model, rho) = (plan.initial_model, plan.rho_per_round().value());
    let plan = signed(plan);
    let digest = plan.plan.digest().expect("digest");
    let (folder, key) = (place.folder(), SigningKey::generate().expect("entropy"));
    let mut book = folder.book().expect("sound");
    let approve = |book: &mut _, key: &SigningKey, named| {
        approve_plan(book, plan.clone(), key.public(), named, "dpo", clock::now())
    };
    assert!(approve(&mut book, &key, Digest::ZERO).is_err_and(|error| error.to_string().contains("telephone")));
    assert!(approve(&mut book, &key, digest).expect("within policy"));
    assert!(!approve(&mut book, &key, digest).expect("approved before"));
    assert!(approve(&mut book, &SigningKey::generate().expect("entropy"), digest).is_err());
    let patients = vec![vec![0.01; 8]; 3];
    for round in [1, 2] {
        let query = Query { plan: digest, round: RoundNumber(round), model };
        let sent = release(&mut book, &folder.payloads(), query, &patients, clock::now).expect("released");
        if round == 1 {
            let receipt = sent.receipt(book.ledger().owner.as_ref().expect("owned").site, &book);
            book.acked(&query, receipt.sign(&key).expect("signed"), clock::now()).expect("acked");
        }
    }
    drop(book);
    let budget = place.json(&["budget"]);
    let cost = &budget["plans"][0];
    assert!((budget["spent"]["rho"].as_f64().expect("number") - 2.0 * rho).abs() < 1e-12);
    assert!((cost["per_round"]["add_remove"].as_f64().expect("number") - 1.012_288).abs() < 2e-6, "{cost}");
    assert!((cost["per_round"]["replace_one"].as_f64().expect("number") - 2.165_6).abs() < 1e-3, "{cost}");
    assert_eq!(
        (&cost["rounds"], &cost["rounds_released"], &cost["rounds_affordable"]),
        (&10.into(), &2.into(), &8.into())
    );
    assert!(cost["after_next"]["add_remove"].as_f64() > budget["spent"]["add_remove"].as_f64());
    let status = place.json(&["status"]);
    assert_eq!((&status["releases"]["committed"], &status["releases"]["acked"]), (&2.into(), &1.into()));
    assert_eq!(status["last_round"], 2);
    assert_eq!(place.json(&["ledger", "verify"])["verdict"], "sound");
    verify_finds_changes(&place);
}

fn verify_finds_changes(place: &Place) {
    let (ledger, dir) = (place.folder().ledger(), place.path("node"));
    let verify = || run(&["ledger", "verify", "--dir", &dir, "--format", "json"]);
    let good = fs::read(&ledger).expect("ledger");
    for at in [good.len() / 3, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&ledger, bad).expect("changed");
        refused(verify(), Exit::Refused, &["\"verdict\":\"unsound\"", "ledger.jsonl"]);
    }
    fs::write(&ledger, &good).expect("restored");
    let committed: Vec<_> = place.folder().book().expect("sound").ledger().releases.values().cloned().collect();
    let open = committed.iter().find(|release| release.receipt.is_none()).expect("round 2");
    fs::remove_file(payload_path(&place.folder().payloads(), open.payload)).expect("removed");
    refused(verify(), Exit::Refused, &["missing", "payloads"]);
    fs::write(place.folder().signing_key_file(), SigningKey::generate().expect("entropy").to_hex().as_bytes())
        .expect("changed");
    refused(verify(), Exit::Refused, &["not signed by this folder's `signing.key`"]);
}

/// A coordinator that says hello and hands out `plan`, until the sender is dropped.
fn serve(files: TlsFiles, plan: SignedPlan, key: SigningKey) -> (u16, mpsc::Sender<()>) {
    let (ready, port) = mpsc::channel();
    let (stop, stopped) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async move {
            let address = "127.0.0.1:0".parse().expect("address");
            let mut listener = Listener::bind(address, &files, none_revoked()).expect("bound");
            ready.send(listener.local_addr().expect("address").port()).expect("waited for");
            while matches!(stopped.try_recv(), Err(mpsc::TryRecvError::Empty)) {
                let accepted = tokio::time::timeout(std::time::Duration::from_millis(100), listener.accept()).await;
                let Ok(Some(peer)) = accepted else { continue };
                while let Ok(exchange) = peer.accept().await {
                    let _ = answer(exchange, &plan, &key).await;
                }
            }
        });
    });
    (port.recv().expect("bound"), stop)
}

async fn answer(
    mut exchange: semisam_shared::transport::Exchange,
    plan: &SignedPlan,
    key: &SigningKey,
) -> Result<(), TransportError> {
    let response = match exchange.receive().await? {
        Request::Hello { ledger, newest, .. } => {
            let (coordinator, plan) = (key.public(), plan.plan.digest().expect("digest"));
            Response::Welcome { version: newest, coordinator, plan, ledger }
        }
        _ => Response::Plan { document: serde_json::to_vec(plan).expect("JSON") },
    };
    exchange.send(&response).await?;
    exchange.finish().await
}

#[test]
fn a_plan_is_fetched_told_in_words_and_approved() {
    let place = Place::enrolled();
    let request = issue::new_request("coordinator").expect("request");
    let csr: PathBuf = place.root.path().join("coordinator.csr");
    fs::write(&csr, &request.csr_pem).expect("written");
    let certificate = place.certificate(&csr, &Role::Coordinator { names: vec!["127.0.0.1".into()] }, clock::now());
    let key = place.root.path().join("coordinator.key");
    issue::write_private(&key, &request.key_pem).expect("written");
    let files = TlsFiles { authority: place.path("authority.pem").into(), certificate: certificate.into(), key };
    let plan = signed(plan(4.0, 8, Unit::Patient));
    let digest = plan.plan.digest().expect("digest").to_string();
    let dir = place.path("node");
    let config = place.folder().config_file();
    let text = fs::read_to_string(&config).expect("written by init");
    let (port, stop) = serve(files, plan, SigningKey::generate().expect("entropy"));
    fs::write(&config, text.replace("7443", &port.to_string())).expect("edited");
    let other = Digest::ZERO.to_string();
    refused(run(&["policy", "approve", &other, "--dir", &dir]), Exit::Refused, &[&digest, "telephone"]);
    let words = run(&["policy", "approve", &digest, "--dir", &dir]).expect("approved");
    for part in [&digest, "left-atrium", "one patient", "noise to signal", "1.13", "replace-one", "recorded"] {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert_eq!(place.json(&["policy", "approve", &digest])["recorded"], false);
    assert_eq!(place.json(&["status"])["plans_approved"], 1);
    drop(stop);
    fs::write(&config, text.replace("approver", "# approver")).expect("edited");
    refused(run(&["policy", "approve", &digest, "--dir", &dir]), Exit::Failed, &["--approver"]);
}

#[test]
fn approving_needs_a_certificate() {
    let place = Place::new();
    place.init().expect("made");
    let digest = Digest::ZERO.to_string();
    let ended = run(&["policy", "approve", &digest, "--dir", &place.path("node")]);
    refused(ended, Exit::Refused, &["semisam-node enroll"]);
}

#[test]
fn the_default_policy_is_what_the_contract_says() {
    let expected = policy();
    assert_eq!((expected.epsilon_max, expected.delta), (number(10.0), number(1e-5)));
}
