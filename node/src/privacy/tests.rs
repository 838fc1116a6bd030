//! Releases as a whole: every crash, every second try, two writers, and that the noise is what was promised.

mod crashes;
mod faulty;

use std::{fs, path::Path};

use semisam_shared::{
    accounting::Adjacency,
    chain::Head,
    decimal::Decimal,
    ids::{Digest, RoundNumber, SiteId, UnixMillis},
    ledger::{LedgerEvent, Program, Query},
    plan::{Decay, Method, Plan, Privacy, ReleaseSpace, SIGMA, Scans, Server, SignedPlan, Student, Training, Unit},
    policy::Policy,
    signing::SigningKey,
};

use super::{
    book::{self, Book, BookError},
    release::{Release, ReleaseError, payload_path, permit, release, resume, unconfirmed},
};

pub(crate) fn number(value: f64) -> Decimal {
    Decimal::new(value).expect("finite")
}

pub(crate) fn plan(noise_multiplier: f64, coordinates: usize, unit: Unit) -> Plan {
    Plan {
        name: "left-atrium".into(),
        rounds: 10,
        quorum: 2,
        round_seconds: 60,
        student: Student { base_filters: 4, groups: 4, classes: 2, architecture: Digest::of(b"vnet") },
        initial_model: Digest::of(b"model"),
        scans: Scans { spacing_mm: [number(2.5); 3], patch: [48, 48, 32] },
        training: Training {
            method: Method::Supervised,
            local_steps: 4,
            batch: 1,
            learning_rate: number(0.01),
            momentum: number(0.9),
            weight_decay: number(1e-4),
            consistency_weight: number(0.1),
            pseudo_label_threshold: number(0.9),
            noise: number(0.1),
            augment: true,
            guidance: None,
        },
        privacy: Privacy {
            unit,
            clip_norm: number(1.0),
            noise_multiplier: number(noise_multiplier),
            delta: number(1e-5),
            expected_patients: 10,
            release: ReleaseSpace::Basis { basis: Digest::of(b"basis"), coordinates: coordinates as u64 },
        },
        server: Server { learning_rate: number(1.0), momentum: number(0.5), decay: Decay::Cosine },
    }
}

pub(crate) fn policy() -> Policy {
    Policy {
        epsilon_max: number(10.0),
        delta: number(1e-5),
        noise_multiplier_min: number(1.0),
        patients_min: 3,
        rounds_max: 1000,
        architectures: Vec::new(),
    }
}

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

fn key() -> SigningKey {
    SigningKey::from_hex(&"07".repeat(32)).expect("hex")
}

pub(crate) fn signed(plan: Plan) -> SignedPlan {
    SignedPlan::sign(plan, &SigningKey::from_hex(&"08".repeat(32)).expect("hex")).expect("sound")
}

/// A ledger with an approved plan, in `folder`.
fn founded(folder: &Path, plan: Plan) -> (Book, Query) {
    let site = (SiteId([1; 32]), "hospital", "cohort");
    let mut book = Book::create(&folder.join("ledger.jsonl"), key(), site, policy(), NOW).expect("new");
    let model = plan.initial_model;
    let digest = book.approve(signed(plan), key().public(), "dpo", NOW).expect("within policy");
    (book, Query { plan: digest, round: RoundNumber(1), model })
}

fn patients(coordinates: usize) -> Vec<Vec<f64>> {
    (0..4).map(|patient| (0..coordinates).map(|at| ((at + patient) % 3) as f64 * 0.01 - 0.005).collect()).collect()
}

fn answer(book: &mut Book, folder: &Path, query: Query) -> Result<Release, ReleaseError> {
    release(book, &folder.join("payloads"), query, &patients(8), || NOW)
}

#[test]
fn a_release_is_paid_for_kept_and_resumed() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut book, query) = founded(folder.path(), plan(4.0, 8, Unit::Patient));
    assert!(resume(&book, &folder.path().join("payloads"), query).expect("nothing yet").is_none());
    let sent = answer(&mut book, folder.path(), query).expect("released");
    assert_eq!((sent.bytes().len(), sent.digest()), (32, Digest::of(sent.bytes())));
    assert_eq!(unconfirmed(&book), [query]);
    assert!((book.ledger().spent.value() - 0.03125).abs() < 1e-12);
    assert!(!format!("{sent:?}").contains(&hex::encode(&sent.bytes()[..4])), "prints its shape alone");
    let refused = answer(&mut book, folder.path(), query).expect_err("twice");
    assert!(matches!(refused, ReleaseError::Twice { .. }), "{refused}");
    drop(book);
    let book = Book::open(&folder.path().join("ledger.jsonl"), key()).expect("sound");
    let again = resume(&book, &folder.path().join("payloads"), query).expect("kept").expect("committed");
    assert_eq!(again, sent);
}

#[test]
fn a_receipt_closes_a_release_once() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut book, query) = founded(folder.path(), plan(4.0, 8, Unit::Patient));
    let sent = answer(&mut book, folder.path(), query).expect("released");
    let receipt = sent.receipt(SiteId([1; 32]), &book);
    let foreign = receipt.sign(&SigningKey::generate().expect("entropy")).expect("signed");
    assert!(book.acked(&query, foreign, NOW).is_err());
    for _ in 0..2 {
        book.acked(&query, receipt.sign(&key()).expect("signed"), NOW).expect("the coordinator's");
    }
    assert!(unconfirmed(&book).is_empty());
    assert_eq!(book.head().length, 6);
}

#[test]
fn a_damaged_or_missing_payload_is_never_sent() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut book, query) = founded(folder.path(), plan(4.0, 8, Unit::Patient));
    let sent = answer(&mut book, folder.path(), query).expect("released");
    let payloads = folder.path().join("payloads");
    let path = payload_path(&payloads, sent.digest());
    let good = fs::read(&path).expect("payload");
    for bad in [&good[..31], &[good.as_slice(), &[0]].concat(), &[&[good[0] ^ 1], &good[1..]].concat()] {
        fs::write(&path, bad).expect("damaged");
        assert!(matches!(resume(&book, &payloads, query), Err(ReleaseError::Damaged { commit: 4, .. })));
    }
    fs::remove_file(&path).expect("removed");
    assert!(matches!(resume(&book, &payloads, query), Err(ReleaseError::Damaged { .. })));
}

#[test]
fn too_few_patients_and_an_exhausted_budget_are_refused_and_recorded_once() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut book, query) = founded(folder.path(), plan(4.0, 8, Unit::Patient));
    let payloads = folder.path().join("payloads");
    let before = book.head().length;
    for _ in 0..3 {
        let refused = release(&mut book, &payloads, query, &patients(8)[..2], || NOW).expect_err("two patients");
        assert!(refused.to_string().contains("patients_min"), "{refused}");
        assert!(permit(&mut book, query, 2, NOW).is_err());
    }
    assert_eq!((book.head().length, book.ledger().spent.value()), (before + 1, 0.0));
    permit(&mut book, query, 3, NOW).expect("three are enough");
    let lower = Policy { epsilon_max: number(0.5), ..policy() };
    book.policy(lower, NOW).expect("recorded");
    let refused = release(&mut book, &payloads, query, &patients(8), || NOW).expect_err("no budget");
    assert!(refused.to_string().contains("epsilon"), "{refused}");
    let foreign = Query { plan: Digest::ZERO, ..query };
    assert!(permit(&mut book, foreign, 9, NOW).expect_err("unknown").to_string().contains("policy approve"));
    assert!(!payloads.exists(), "nothing was made");
    drop(book);
    let read = book::reading(&folder.path().join("ledger.jsonl")).expect("read");
    assert!(read.finding.is_none() && read.ledger.spent.value() == 0.0);
}

#[test]
fn contributions_of_another_length_cost_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut book, query) = founded(folder.path(), plan(4.0, 8, Unit::Patient));
    let error = release(&mut book, &folder.path().join("payloads"), query, &patients(7), || NOW).expect_err("length");
    assert!(matches!(error, ReleaseError::Clip(_)) && book.ledger().spent.value() == 0.0);
}

#[test]
fn a_disk_that_fails_before_reserve_costs_nothing_and_after_it_is_abandoned() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut book, query) = founded(folder.path(), plan(4.0, 8, Unit::Patient));
    let payloads = folder.path().join("payloads");
    fs::write(&payloads, "a file where the folder should be").expect("written");
    assert!(matches!(answer(&mut book, folder.path(), query), Err(ReleaseError::Payload { .. })));
    assert_eq!(book.ledger().spent.value(), 0.0);
    fs::remove_file(&payloads).expect("removed");
    // The clock is asked once before RESERVE, once for it, then for COMMIT: take the folder away in between.
    let asked = std::cell::Cell::new(0);
    let sabotage = || {
        asked.set(asked.get() + 1);
        if asked.get() == 2 {
            fs::remove_dir_all(&payloads).expect("taken away");
        }
        NOW
    };
    let error = release(&mut book, &payloads, query, &patients(8), sabotage).expect_err("no folder");
    assert!(matches!(error, ReleaseError::Payload { .. }), "{error}");
    assert!(book.ledger().open.is_none() && book.ledger().spent.value() > 0.0, "abandoned without refund");
    answer(&mut book, folder.path(), query).expect("another attempt is another charge");
    assert!((book.ledger().spent.value() - 0.0625).abs() < 1e-12);
}

/// Cuts the ledger at every byte of a release, with and without its payload, and starts again.
#[test]
fn a_crash_at_any_byte_never_loses_a_charge_and_never_noises_twice() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut book, query) = founded(folder.path(), plan(4.0, 8, Unit::Patient));
    let path = folder.path().join("ledger.jsonl");
    let from = fs::metadata(&path).expect("ledger").len() as usize;
    let sent = answer(&mut book, folder.path(), query).expect("released");
    drop(book);
    let whole = fs::read(&path).expect("ledger");
    let reserve = from + whole[from..].iter().position(|byte| *byte == b'\n').expect("two records") + 1;
    for cut in from..=whole.len() {
        let edges = [from, reserve, whole.len()];
        let near = edges.iter().any(|edge| cut.abs_diff(*edge) <= 1);
        let states = if near { vec![true, false] } else { vec![cut % 2 == 0] };
        for payload in states {
            let (reserved, committed) = (cut >= reserve, cut == whole.len());
            let crashed = tempfile::tempdir().expect("folder");
            fs::write(crashed.path().join("ledger.jsonl"), &whole[..cut]).expect("cut");
            fs::create_dir(crashed.path().join("payloads")).expect("folder");
            let kept = if payload { sent.digest().to_string() + ".bin" } else { "payload.tmp".into() };
            fs::write(crashed.path().join("payloads").join(kept), sent.bytes()).expect("payload");
            let full = near || cut % 61 == 0;
            starts_again(crashed.path(), query, &sent, (reserved, committed, payload), full);
        }
    }
}

fn starts_again(
    folder: &Path,
    query: Query,
    sent: &Release,
    (reserved, committed, payload): (bool, bool, bool),
    full: bool,
) {
    let ledger = folder.join("ledger.jsonl");
    let mut book = Book::open(&ledger, key()).expect("a cut is no damage");
    let rho = 0.03125;
    assert!(book.ledger().spent.value() >= if reserved { rho } else { 0.0 }, "a charge on disk is never lost");
    assert_eq!(book.ledger().open.is_some(), reserved && !committed);
    let resumed = resume(&book, &folder.join("payloads"), query);
    match (committed, payload) {
        (true, true) => assert_eq!(resumed.expect("kept").as_ref(), Some(sent)),
        (true, false) => assert!(matches!(resumed, Err(ReleaseError::Damaged { .. }))),
        (false, _) => assert!(resumed.expect("nothing was committed").is_none()),
    }
    if !full {
        return;
    }
    let abandoned = book.abandon_open("the program stopped", NOW).expect("recorded");
    assert_eq!(abandoned.is_some(), reserved && !committed);
    let again = answer(&mut book, folder, query);
    if committed {
        assert!(matches!(again, Err(ReleaseError::Twice { .. })));
    } else {
        let fresh = again.expect("a new attempt");
        assert_ne!(fresh.bytes(), sent.bytes(), "fresh noise");
        let releases = if reserved { 2.0 } else { 1.0 };
        assert!((book.ledger().spent.value() - releases * rho).abs() < 1e-9, "each attempt is a charge");
    }
    drop(book);
    let read = book::reading(&ledger).expect("read");
    assert!(read.finding.is_none() && read.torn == 0, "{:?}", read.finding);
}

#[test]
fn a_refused_budget_a_retry_and_a_program_are_records() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut book, query) = founded(folder.path(), plan(4.0, 8, Unit::Patient));
    assert!(book.retry(&query, NOW).is_err(), "nothing was committed");
    let program = Program { software: "semisam-node 0.1.0".into(), binary: None, boot: Some("first".into()) };
    for boot in ["first", "first", "second", "second"] {
        book.started(Program { boot: Some(boot.into()), ..program.clone() }, NOW).expect("recorded");
    }
    assert_eq!(book.head().length, 5, "once for each");
    answer(&mut book, folder.path(), query).expect("released");
    let (before, spent) = (book.head().length, book.ledger().spent);
    for _ in 0..3 {
        book.retry(&query, NOW).expect("recorded");
    }
    assert_eq!((book.head().length, book.ledger().spent), (before + 1, spent), "once for each start, at no cost");
    book.policy(Policy { epsilon_max: number(1.2), ..policy() }, NOW).expect("recorded");
    let next = Query { round: RoundNumber(2), ..query };
    let refused = answer(&mut book, folder.path(), next).expect_err("policy forbids the plan as a whole");
    assert!(refused.to_string().contains("policy"), "{refused}");
    let whole = book.ledger().policy.clone().expect("a policy").epsilon(plan(4.0, 8, Unit::Patient).rho_in_all());
    book.policy(Policy { epsilon_max: number(whole + 1e-3), ..policy() }, NOW).expect("recorded");
    for round in 2..=10 {
        answer(&mut book, folder.path(), Query { round: RoundNumber(round), ..query }).expect("within budget");
    }
    let other = Digest::of(b"another model");
    let refused = answer(&mut book, folder.path(), Query { model: other, ..query }).expect_err("exhausted");
    assert!(refused.to_string().contains("exhausted"), "{refused}");
    drop(book);
    let text = fs::read_to_string(folder.path().join("ledger.jsonl")).expect("a ledger");
    let last: serde_json::Value = serde_json::from_str(text.lines().last().expect("lines")).expect("json");
    let event = &last["event"];
    let figure = |name: &str| event[name].as_str().and_then(|text| text.parse::<f64>().ok()).expect("a figure");
    assert_eq!(event["type"], "REFUSED");
    assert!(figure("requested") > whole + 1e-3 && figure("remaining") < 0.002, "{event}");
    assert!(book::sound(&folder.path().join("ledger.jsonl")).is_ok());
}

#[test]
fn two_processes_and_foreign_keys_are_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let (book, _) = founded(folder.path(), plan(4.0, 8, Unit::Patient));
    let path = folder.path().join("ledger.jsonl");
    let second = Book::open(&path, key()).expect_err("in use");
    assert!(format!("{:?}", second).contains("Locked"));
    book::reading(&path).expect("reading needs no lock");
    drop(book);
    let foreign = Book::open(&path, SigningKey::generate().expect("entropy")).expect_err("another key");
    assert!(matches!(foreign, BookError::Owner { .. }), "{foreign}");
    let missing = Book::open(&folder.path().join("nowhere"), key()).expect_err("missing").to_string();
    assert!(missing.contains("semisam-node init"), "{missing}");
    let site = (SiteId([1; 32]), "hospital", "cohort");
    assert!(matches!(Book::create(&path, key(), site, policy(), NOW), Err(BookError::Exists { .. })));
}

#[test]
fn an_older_copy_of_a_ledger_knows_that_it_lacks_a_newer_head() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut book, query) = founded(folder.path(), plan(4.0, 8, Unit::Patient));
    let old = folder.path().join("copy");
    fs::copy(book.path(), &old).expect("copied");
    let before = book.head();
    answer(&mut book, folder.path(), query).expect("released");
    assert!(book.contains(before) && book.contains(book.head()) && book.contains(Head::EMPTY));
    let copy = Book::open(&old, key()).expect("a sound prefix");
    assert!(copy.contains(before) && !copy.contains(book.head()));
    let other = Head { hash: Digest::of(b"a clone went another way"), ..before };
    assert!(!book.contains(other) && !book.contains(Head { length: 0, ..before }));
}

#[test]
fn a_record_that_the_rules_forbid_is_named_at_the_start() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut book, query) = founded(folder.path(), plan(4.0, 8, Unit::Patient));
    let cheap = {
        let mut reserve = book.ledger().reservation(query).expect("within budget");
        reserve.rho = number(0.0);
        LedgerEvent::Reserve(reserve)
    };
    let forbidden = book.append(cheap.clone(), NOW).expect_err("under-charged");
    assert!(matches!(forbidden, BookError::Forbidden(_)));
    assert_eq!(book.head().length, 3, "nothing was written");
    drop(book);
    let path = folder.path().join("ledger.jsonl");
    let public = key().public();
    let domain = semisam_shared::signing::Domain::Ledger;
    let opened = semisam_shared::chain::file::ChainFile::<LedgerEvent>::open(&path, domain, move |_| Ok(public));
    opened.expect("sound").0.append(cheap, NOW, &key()).expect("forged past the rules");
    assert!(matches!(Book::open(&path, key()), Err(BookError::Replay { record: 3, .. })));
    let finding = book::reading(&path).expect("read").finding.expect("unsound");
    assert!(finding.0 == 3 && finding.1.contains("`rho`"), "{finding:?}");
}

#[test]
fn policy_objections_stop_an_approval() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut book, _) = founded(folder.path(), plan(4.0, 8, Unit::Patient));
    let weak = signed(plan(0.5, 8, Unit::Patient));
    let error = book.approve(weak, key().public(), "dpo", NOW).expect_err("below the floor").to_string();
    assert!(error.contains("noise multiplier"), "{error}");
}

/// The released sum is the true sum with noise of the promised size: mean and deviation over many releases.
#[test]
fn releases_scatter_around_the_true_sum_by_the_promised_noise() {
    let (coordinates, rounds) = (400, 5);
    let folder = tempfile::tempdir().expect("folder");
    let plan = plan(4.0, coordinates, Unit::Patient);
    let grid = plan.grid();
    let (mut book, query) = founded(folder.path(), plan);
    let contribution: Vec<f64> = (0..coordinates).map(|at| if at % 2 == 0 { 0.04 } else { -0.01 }).collect();
    let patients = vec![contribution; 50];
    let mut residuals = Vec::new();
    for round in 1..=rounds {
        let query = Query { round: RoundNumber(round), ..query };
        let sent = release(&mut book, &folder.path().join("payloads"), query, &patients, || NOW).expect("released");
        for (at, raw) in sent.bytes().chunks_exact(4).enumerate() {
            let value = f64::from(i32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]])) * grid;
            residuals.push(value - 50.0 * if at % 2 == 0 { 0.04 } else { -0.01 });
        }
    }
    let count = residuals.len() as f64;
    let mean = residuals.iter().sum::<f64>() / count;
    let deviation = (residuals.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / count).sqrt();
    // z C = 4; five standard errors of the mean and of the standard deviation.
    assert!(mean.abs() < 5.0 * 4.0 / count.sqrt(), "{mean}");
    assert!((deviation - 4.0).abs() < 5.0 * 4.0 / (2.0 * count).sqrt(), "{deviation}");
    assert_eq!(grid * SIGMA as f64, 4.0);
    assert!(book.ledger().epsilon(Adjacency::ReplaceOne) > book.ledger().epsilon(Adjacency::AddRemove));
}
