//! The process or the machine ends at every effect that a release has on the disk. Whatever is left, the ledger opens, no
//! noised byte exists that is not paid for, what was committed can be sent, and another attempt is another charge.

use std::{path::PathBuf, sync::Arc};

use semisam_shared::disk::{Disk, RealDisk};

use super::{
    faulty::{Effect, End, Faulty, State, materialise, states_after_a_power_cut},
    *,
};

const RHO: f64 = 0.03125;

fn create(disk: Arc<dyn Disk>, folder: &Path) -> Result<(Book, Query), BookError> {
    let site = (SiteId([1; 32]), "hospital", "cohort");
    let mut book = Book::create_on(disk, &folder.join("ledger.jsonl"), key(), site, policy(), NOW)?;
    let plan = plan(4.0, 8, Unit::Patient);
    let model = plan.initial_model;
    let plan = book.approve(signed(plan), key().public(), "dpo", NOW)?;
    Ok((book, Query { plan, round: RoundNumber(1), model }))
}

/// A folder with the ledger of a site that is ready, copied from one that was made before.
fn copied(ledger: &[u8]) -> tempfile::TempDir {
    materialise(&State::from([(PathBuf::from("ledger.jsonl"), ledger.to_vec())]), &[])
}

/// A site that is ready: its ledger's bytes, and the question.
fn ready() -> (Vec<u8>, Query) {
    let folder = tempfile::tempdir().expect("a folder");
    let (book, query) = create(Arc::new(RealDisk), folder.path()).expect("ready");
    (fs::read(book.path()).expect("a ledger"), query)
}

/// Whether a folder holds bytes of a release, even a part of them.
fn noised(folder: &Path) -> bool {
    let files = fs::read_dir(folder.join("payloads")).into_iter().flatten().flatten();
    files.into_iter().any(|file| fs::read(file.path()).expect("a payload").iter().any(|byte| *byte != 0))
}

/// What must hold wherever it ended. Answers what was spent.
fn holds(folder: &Path, query: Query, what: &str) -> f64 {
    let path = folder.join("ledger.jsonl");
    let before = book::reading(&path).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(before.finding.is_none(), "{what}: {:?}", before.finding);
    let book =
        Book::open_on(Arc::new(Faulty::default()), &path, key()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let spent = book.ledger().spent.value();
    if noised(folder) {
        assert!(spent >= RHO, "{what}: noised bytes are on disk and nothing was paid");
    }
    let committed = book.ledger().releases.contains_key(&query);
    let resumed = resume(&book, &folder.join("payloads"), query).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(resumed.is_some(), committed, "{what}");
    drop(book);
    let after = book::reading(&path).expect("read");
    assert!(after.finding.is_none() && after.torn == 0, "{what}");
    spent
}

/// Goes on as the node does at its next start.
fn goes_on(folder: &Path, query: Query, spent: f64, what: &str) {
    let disk = Arc::new(Faulty::default());
    let mut book = Book::open_on(disk, &folder.join("ledger.jsonl"), key()).expect("opens");
    book.abandon_open("the program ended", NOW).expect("recorded");
    match answer(&mut book, folder, query) {
        Ok(_) => assert!((book.ledger().spent.value() - spent - RHO).abs() < 1e-12, "{what}: another charge"),
        Err(error) => assert!(matches!(error, ReleaseError::Twice { .. }) && spent >= RHO, "{what}: {error}"),
    }
    drop(book);
    holds(folder, query, what);
}

/// The parts of an effect after which a program may end.
fn parts(effect: &Effect) -> Vec<usize> {
    match effect {
        Effect::Write { bytes, .. } => (0..=bytes.len()).collect(),
        _ => vec![0, 1],
    }
}

/// kill -9 before and after each fsync, rename, creation and cut, and after each single byte of each write.
#[test]
fn a_process_that_ends_at_any_effect_has_paid_for_what_it_noised() {
    let (ledger, query) = ready();
    let whole = copied(&ledger);
    let disk = Arc::new(Faulty::default());
    let mut book = Book::open_on(disk.clone(), &whole.path().join("ledger.jsonl"), key()).expect("opens");
    let opened = disk.effects().len();
    answer(&mut book, whole.path(), query).expect("released");
    let effects = disk.effects();
    let kinds = |of: fn(&Effect) -> bool| effects[opened..].iter().filter(|effect| of(effect)).count();
    assert_eq!(kinds(|effect| matches!(effect, Effect::Write { .. })), 4, "{effects:?}");
    assert_eq!(kinds(|effect| matches!(effect, Effect::Sync(_))), 4, "{effects:?}");
    assert_eq!(kinds(|effect| matches!(effect, Effect::Rename { .. })), 1, "{effects:?}");
    let mut ends = 0;
    for (at, effect) in effects.iter().enumerate().skip(opened) {
        for kept in parts(effect) {
            let what = format!("ended at effect {at} of {}, {kept} done: {effect:?}", effects.len());
            let folder = copied(&ledger);
            let disk = Arc::new(Faulty::ending(Some(End { at, kept })));
            let mut book = Book::open_on(disk.clone(), &folder.path().join("ledger.jsonl"), key()).expect("opens");
            answer(&mut book, folder.path(), query).expect_err(&what);
            drop(book);
            let spent = holds(folder.path(), query, &what);
            if kept < 2 || kept % 97 == 0 {
                goes_on(folder.path(), query, spent, &what);
            }
            ends += 1;
        }
    }
    assert!(ends > 1000, "every byte of two records: {ends}");
}

/// A second end while the first one is being mended: cutting a torn record off, and recording what was abandoned.
#[test]
fn a_process_that_ends_while_it_recovers_loses_no_charge() {
    let (ledger, query) = ready();
    let folder = copied(&ledger);
    let mut book = Book::open(&folder.path().join("ledger.jsonl"), key()).expect("opens");
    let reserve = book.ledger().reservation(query).expect("within budget");
    book.append(LedgerEvent::Reserve(reserve), NOW).expect("paid");
    drop(book);
    let mut torn = fs::read(folder.path().join("ledger.jsonl")).expect("a ledger");
    torn.extend(b"{\"at\":17000000000");
    let recover = |disk: Arc<Faulty>, folder: &Path| -> Result<(), BookError> {
        let mut book = Book::open_on(disk, &folder.join("ledger.jsonl"), key())?;
        book.abandon_open("the program ended", NOW).map(|_| ())
    };
    let disk = Arc::new(Faulty::default());
    recover(disk.clone(), copied(&torn).path()).expect("recovers");
    let effects = disk.effects();
    assert!(effects.iter().any(|effect| matches!(effect, Effect::SetLength { .. })), "{effects:?}");
    for (at, effect) in effects.iter().enumerate() {
        for kept in parts(effect) {
            let what = format!("ended at effect {at}, {kept} done: {effect:?}");
            let folder = copied(&torn);
            recover(Arc::new(Faulty::ending(Some(End { at, kept }))), folder.path()).expect_err(&what);
            assert!((holds(folder.path(), query, &what) - RHO).abs() < 1e-12, "{what}");
            if kept < 2 {
                goes_on(folder.path(), query, RHO, &what);
            }
        }
    }
}

/// The power goes after each effect of a site's whole life up to its first release, and takes along what was not synced.
#[test]
fn a_power_cut_after_any_effect_loses_no_charge_and_no_committed_update() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Arc::new(Faulty::default());
    let (mut book, query) = create(disk.clone(), folder.path()).expect("ready");
    let founded = disk.effects().len();
    answer(&mut book, folder.path(), query).expect("released");
    drop(book);
    let effects = disk.effects();
    let mut states = 0;
    for cut in 0..=effects.len() {
        for state in states_after_a_power_cut(&effects[..cut], folder.path()) {
            let what = format!("power cut after effect {cut} of {}: {:?}", effects.len(), &effects[..cut].last());
            let place = materialise(&state, &["payloads"]);
            states += 1;
            if cut < founded {
                // `init` has not ended: there may be nothing, or the beginning of a ledger, and nothing was spent.
                assert!(!noised(place.path()), "{what}");
                continue;
            }
            let spent = holds(place.path(), query, &what);
            assert!(spent <= RHO * (1.0 + 1e-12), "{what}");
            if cut == effects.len() {
                let book = Book::open(&place.path().join("ledger.jsonl"), key()).expect("opens");
                assert!(book.ledger().releases.contains_key(&query), "{what}: it was committed");
                continue;
            }
            goes_on(place.path(), query, spent, &what);
        }
    }
    assert!(states > 60, "{states}");
}

/// A disk on which a write fails for a while: nothing is released, nothing is lost, and the same program goes on.
#[test]
fn a_ledger_that_could_not_take_a_record_back_takes_no_other() {
    let (ledger, query) = ready();
    let folder = copied(&ledger);
    let path = folder.path().join("ledger.jsonl");
    let disk = Arc::new(Faulty::default());
    drop(Book::open_on(disk.clone(), &path, key()).expect("opens"));
    let at = disk.effects().len();
    let mut book = Book::open_on(Arc::new(Faulty::ending(Some(End { at, kept: 40 }))), &path, key()).expect("opens");
    let reserve = book.ledger().reservation(query).expect("within budget");
    let first = book.append(LedgerEvent::Reserve(reserve.clone()), NOW).expect_err("the write fails");
    assert!(matches!(first, BookError::Append { .. }), "{first}");
    let second = book.append(LedgerEvent::Reserve(reserve), NOW).expect_err("and cannot be taken back");
    let source = std::error::Error::source(&second).expect("a cause").to_string();
    assert!(source.contains("takes no more records"), "{source}");
    assert_eq!((book.ledger().spent.value(), book.head().length), (0.0, 3));
    drop(book);
    assert_eq!(holds(folder.path(), query, "torn"), 0.0);
}
