//! Whoever changes a file without the keys is found: any byte, any line, any blob; and the end of a log that another
//! party has heard of.

use std::{collections::BTreeSet, fs};

use semisam_audit::verify::verify;

use crate::federation::{Folder, SITES, finished};

const JOURNAL: &str = "coordinator/journal.jsonl";

/// Whether the log in `bytes`, alone in a folder, is sound: no other log helps to find the change.
fn alone(file: &str, bytes: &[u8]) -> bool {
    let folder = tempfile::tempdir().expect("folder");
    let name = file.rsplit('/').next().expect("name");
    fs::write(folder.path().join(name), bytes).expect("written");
    verify(folder.path()).expect("readable").is_sound()
}

/// Every seventh byte, and the first and last two of each line.
fn sample(bytes: &[u8]) -> BTreeSet<usize> {
    let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
    let edges = ends.flat_map(|end| [end.saturating_sub(1), end, end + 1, end + 2]);
    edges.chain((0..bytes.len()).step_by(7)).chain([0, 1]).filter(|at| *at < bytes.len()).collect()
}

#[test]
fn any_changed_byte_of_a_log_is_found() {
    let folder = finished();
    for file in [JOURNAL, "east/ledger.jsonl"] {
        let good = fs::read(folder.path(file)).expect("bytes");
        for (count, at) in sample(&good).into_iter().enumerate() {
            let mut bad = good.clone();
            bad[at] ^= [1, 0x20, 0x80][count % 3];
            assert!(!alone(file, &bad), "byte {at} of `{file}` was not found");
        }
        assert!(alone(file, &good));
    }
}

#[test]
fn lines_that_were_removed_doubled_or_swapped_are_found() {
    let folder = finished();
    for file in [JOURNAL, "north/ledger.jsonl"] {
        let good = folder.lines(file);
        for at in 0..good.len() - 1 {
            let mut removed = good.clone();
            removed.remove(at);
            let mut doubled = good.clone();
            doubled.insert(at, good[at].clone());
            let mut swapped = good.clone();
            swapped.swap(at, at + 1);
            for (what, bad) in [("removed", removed), ("doubled", doubled), ("swapped", swapped)] {
                assert!(!alone(file, bad.concat().as_bytes()), "line {at} of `{file}`, {what}, was not found");
            }
        }
    }
}

/// Which shorter versions of `file` pass: exactly those that lost nothing but its last `harmless` lines.
fn expect_cuts_found(folder: &Folder, file: &str, harmless: usize) {
    let good = folder.lines(file);
    for length in 0..good.len() {
        folder.write_lines(file, &good[..length]);
        let sound = folder.verify().is_sound();
        assert_eq!(sound, length >= good.len() - harmless, "`{file}` cut to {length} of {} lines", good.len());
    }
    let whole = good.concat();
    let last = good.last().expect("lines").len();
    for cut in (1..last).step_by(23).chain([2, last - 1, last]) {
        fs::write(folder.path(file), &whole[..whole.len() - cut]).expect("written");
        assert_eq!(folder.verify().is_sound(), cut == last && harmless > 0, "`{file}` without its last {cut} bytes");
    }
    folder.write_lines(file, &good);
}

#[test]
fn a_ledger_that_was_cut_off_or_put_back_is_found() {
    let folder = finished();
    // Only the last ACKED may go: nobody else knows whether the answer arrived, and it changes no figure.
    for site in SITES {
        expect_cuts_found(&folder, &format!("{site}/ledger.jsonl"), 1);
    }
}

#[test]
fn a_journal_that_was_cut_off_is_found() {
    let folder = finished();
    // FINISHED and the last ROUND_CLOSED: no hospital has heard of them.
    expect_cuts_found(&folder, JOURNAL, 2);
}

#[test]
fn a_journal_whose_hospitals_went_home_is_found_too() {
    let folder = finished();
    let good = folder.lines(JOURNAL);
    let last = good.iter().rposition(|line| line.contains("ROUND_OPENED")).expect("opened");
    folder.write_lines(JOURNAL, &good[..last]);
    let problems: Vec<String> = folder.findings().into_iter().map(|finding| finding.problem).collect();
    assert!(problems.iter().any(|problem| problem.contains("has no round 3")), "{problems:?}");
    assert!(problems.iter().any(|problem| problem.contains("signed a receipt")), "{problems:?}");
}

#[test]
fn a_ledger_that_was_made_anew_is_found() {
    let (folder, other) = (finished(), finished());
    fs::copy(other.path("south/ledger.jsonl"), folder.path("south/ledger.jsonl")).expect("copied");
    let findings = folder.findings();
    assert!(
        findings.iter().any(|f| f.file == "south/ledger.jsonl" && f.record == Some(0) && f.problem.contains("key")),
        "{findings:?}"
    );
}

#[test]
fn a_journal_that_was_made_anew_is_found() {
    let (folder, other) = (finished(), finished());
    fs::copy(other.path(JOURNAL), folder.path(JOURNAL)).expect("copied");
    let findings = folder.findings();
    assert!(findings.iter().any(|f| f.file == "coordinator/plan.json"), "{findings:?}");
    assert!(findings.iter().any(|f| f.problem.contains("not the ledger that it had")), "{findings:?}");
}

#[test]
fn the_ledger_of_one_site_in_the_place_of_another_counts_once() {
    let folder = finished();
    fs::copy(folder.path("north/ledger.jsonl"), folder.path("south/ledger.jsonl")).expect("copied");
    // The same log twice is one ledger; the other one is absent, which is a note, and none may be counted twice.
    let verdict = folder.expect_sound();
    assert_eq!(verdict.epsilon.keys().collect::<Vec<_>>(), ["east", "north"]);
    assert!(verdict.notes.iter().any(|note| note.contains("the ledger of `south` is not here")));
}

#[test]
fn a_blob_that_was_changed_or_removed_is_found() {
    let folder = finished();
    let accepted = folder.lines(JOURNAL).into_iter().find(|line| line.contains("UPDATE_ACCEPTED")).expect("accepted");
    let accepted: serde_json::Value = serde_json::from_str(&accepted).expect("json");
    let payload = accepted["event"]["receipt"]["payload"].as_str().expect("digest");
    let blob = folder.path(&format!("coordinator/store/{}/{payload}", &payload[..2]));
    let good = fs::read(&blob).expect("bytes");
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&blob, bad).expect("written");
        let findings = folder.findings();
        assert!(findings.iter().any(|f| f.file.ends_with(payload) && f.record.is_none()), "{findings:?}");
    }
    fs::remove_file(&blob).expect("removed");
    assert!(folder.findings().iter().any(|f| f.record == accepted["seq"].as_u64() && f.problem.contains(payload)));
}

#[test]
fn a_plan_beside_the_journal_that_is_another_one_is_found() {
    let folder = finished();
    let path = folder.path("coordinator/plan.json");
    let good = fs::read_to_string(&path).expect("text");
    for bad in [good.replace("\"rounds\": 3", "\"rounds\": 4"), "{}".into(), good[..good.len() / 2].into()] {
        assert_ne!(bad, good);
        fs::write(&path, bad).expect("written");
        assert!(folder.findings().iter().all(|finding| finding.file == "coordinator/plan.json"));
    }
}
