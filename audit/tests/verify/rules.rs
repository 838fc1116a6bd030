//! Each rule of a ledger broken by somebody with the right key: one COMMIT for each RESERVE, receipts that fit, policy, and
//! what breaks no rule but must be told.

use std::fs;

use semisam_audit::verify::{Finding, Kind};
use semisam_shared::{
    chain::{Chain, file},
    ids::{Digest, RoundNumber, SiteId, UnixMillis},
    ledger::{LedgerEvent, Query},
    plan::SignedPlan,
    policy::Policy,
    signing::{Domain, SigningKey},
};

use crate::federation::{Cheat, World, number};

const LEDGER: &str = "north/ledger.jsonl";

/// A ledger that its owner wrote anew, with his key, after `change` was made to its events.
fn rewritten(change: impl Fn(&mut Vec<LedgerEvent>)) -> World {
    let world = World::finished(Cheat::Nobody, false);
    let north = &world.hospitals[0];
    let read = file::read::<LedgerEvent>(&world.folder.path(LEDGER), Domain::Ledger, |_| Ok(north.key.public()));
    let mut events = read.expect("read").records.into_iter().map(|record| record.event).collect();
    change(&mut events);
    let mut chain = Chain::new(Domain::Ledger);
    let line = |event| chain.write(event, UnixMillis(7), &north.key).expect("written").0;
    let lines: Vec<String> = events.into_iter().map(line).collect();
    world.folder.write_lines(LEDGER, &lines);
    world
}

fn findings(world: &World) -> Vec<Finding> {
    world.folder.findings().into_iter().filter(|finding| finding.file == LEDGER).collect()
}

/// Expects a finding of this kind in this record of the ledger that says `part`.
fn expect(world: &World, record: u64, kind: Kind, part: &str) {
    let findings = findings(world);
    let found = findings.iter().any(|f| f.record == Some(record) && f.kind == kind && f.problem.contains(part));
    assert!(found, "{record} {kind:?} {part}: {findings:?}");
}

/// Where the events of a kind stand.
fn places(events: &[LedgerEvent], of: fn(&LedgerEvent) -> bool) -> Vec<usize> {
    events.iter().enumerate().filter(|(_, event)| of(event)).map(|(place, _)| place).collect()
}

fn is_commit(event: &LedgerEvent) -> bool {
    matches!(event, LedgerEvent::Commit { .. })
}

fn is_reserve(event: &LedgerEvent) -> bool {
    matches!(event, LedgerEvent::Reserve(_))
}

fn is_acked(event: &LedgerEvent) -> bool {
    matches!(event, LedgerEvent::Acked { .. })
}

#[test]
fn two_commits_for_one_reserve_are_found() {
    let world = rewritten(|events| {
        let commit = places(events, is_commit)[2];
        // Behind the last record that anybody refers to, so that only this is wrong.
        events.push(events[commit].clone());
    });
    let last = world.folder.lines(LEDGER).len() as u64 - 1;
    expect(&world, last, Kind::Pairing, "refers to record");
}

#[test]
fn a_commit_without_a_reserve_is_found() {
    let world = rewritten(|events| {
        let reserve = places(events, is_reserve)[2];
        events.remove(reserve);
    });
    let findings = findings(&world);
    assert!(findings.iter().any(|finding| finding.kind == Kind::Pairing), "{findings:?}");
}

#[test]
fn a_reserve_while_another_is_open_is_found() {
    let world = rewritten(|events| {
        let reserves = places(events, is_reserve);
        let (commit, acked) = (reserves[2] - 2, reserves[2] - 1);
        assert!(is_commit(&events[commit]) && is_acked(&events[acked]));
        events.drain(commit..=acked);
    });
    assert!(
        findings(&world).iter().any(|finding| finding.kind == Kind::Pairing && finding.problem.contains("neither"))
    );
}

#[test]
fn an_update_of_another_length_is_found() {
    let place = |events: &[LedgerEvent]| places(events, is_commit)[0];
    let world = rewritten(|events| {
        let place = place(events);
        if let LedgerEvent::Commit { bytes, .. } = &mut events[place] {
            *bytes += 4;
        }
    });
    expect(&world, 4, Kind::Figure, "`bytes`");
}

#[test]
fn a_receipt_that_the_coordinator_did_not_sign_is_found() {
    let world = rewritten(|events| {
        let place = places(events, is_acked)[0];
        if let LedgerEvent::Acked { receipt, .. } = &mut events[place] {
            *receipt = receipt.receipt.sign(&SigningKey::generate().expect("entropy")).expect("signed");
        }
    });
    expect(&world, 5, Kind::Receipt, "signature");
}

#[test]
fn a_receipt_for_other_bytes_is_found() {
    // The coordinator signs it all the same: it plays along.
    let world = World::finished(Cheat::Nobody, false);
    let key = &world.coordinator.key;
    let north = &world.hospitals[0];
    let read = file::read::<LedgerEvent>(&world.folder.path(LEDGER), Domain::Ledger, |_| Ok(north.key.public()));
    let mut events: Vec<_> = read.expect("read").records.into_iter().map(|record| record.event).collect();
    let place = places(&events, is_acked)[0];
    if let LedgerEvent::Acked { receipt, .. } = &mut events[place] {
        receipt.receipt.payload = Digest::of(b"other bytes");
        *receipt = receipt.receipt.sign(key).expect("signed");
    }
    let mut chain = Chain::new(Domain::Ledger);
    let line = |event| chain.write(event, UnixMillis(7), &north.key).expect("written").0;
    let lines: Vec<String> = events.into_iter().map(line).collect();
    world.folder.write_lines(LEDGER, &lines);
    expect(&world, place as u64, Kind::Receipt, "something else");
}

#[test]
fn spending_above_the_ceiling_is_found() {
    let world = rewritten(|events| {
        if let LedgerEvent::Policy { policy } = &mut events[1] {
            policy.epsilon_max = number(2.0);
        }
    });
    let findings = findings(&world);
    assert!(findings.iter().any(|f| f.kind == Kind::Policy && f.problem.contains("epsilon")), "{findings:?}");
    let verdict = world.folder.verify();
    assert!(verdict.epsilon["north"].add_remove > 2.0, "what was spent is told all the same");
}

#[test]
fn an_approval_that_the_policy_forbids_is_found_before_anything_is_spent() {
    let world = rewritten(|events| {
        if let LedgerEvent::Policy { policy } = &mut events[1] {
            policy.noise_multiplier_min = number(100.0);
        }
        events.truncate(3);
    });
    expect(&world, 2, Kind::Policy, "noise multiplier");
}

#[test]
fn a_plan_that_was_changed_after_it_was_signed_is_found() {
    let world = rewritten(|events| {
        if let LedgerEvent::Approved { plan, digest, .. } = &mut events[2] {
            plan.plan.privacy.noise_multiplier = number(9.0);
            *digest = plan.plan.digest().expect("canonical");
        }
    });
    expect(&world, 2, Kind::Plan, "not signed");
    let world = rewritten(|events| {
        if let LedgerEvent::Approved { digest, .. } = &mut events[2] {
            *digest = Digest::of(b"another plan");
        }
    });
    expect(&world, 2, Kind::Plan, "not the digest");
}

#[test]
fn a_plan_of_another_consortium_is_found() {
    let world = rewritten(|events| {
        if let LedgerEvent::Approved { plan, .. } = &mut events[2] {
            let other = SigningKey::generate().expect("entropy");
            **plan = SignedPlan::sign(plan.plan.clone(), &other).expect("sound");
        }
    });
    expect(&world, 2, Kind::Identity, "consortium key");
}

#[test]
fn a_weaker_noise_than_the_plan_has_is_found() {
    let place = |events: &[LedgerEvent]| places(events, is_reserve)[0];
    let world = rewritten(|events| {
        let place = place(events);
        if let LedgerEvent::Reserve(reserve) = &mut events[place] {
            reserve.sensitivity *= 2;
        }
    });
    expect(&world, 3, Kind::Figure, "`sensitivity`");
}

#[test]
fn a_round_that_the_plan_does_not_have_is_found() {
    let mut world = World::finished(Cheat::Nobody, false);
    let north = &mut world.hospitals[0];
    let query = Query { round: RoundNumber(4), ..north.first_query() };
    let mut reserve = north.reservation(Query { model: Digest::ZERO, ..north.first_query() });
    (reserve.round, reserve.model) = (query.round, query.model);
    let record = north.add_against_the_rules(LedgerEvent::Reserve(reserve));
    expect(&world, record, Kind::Pairing, "no round 4");
}

#[test]
fn a_payload_beside_the_ledger_that_is_not_the_one_committed_is_found() {
    let world = World::finished(Cheat::Nobody, false);
    let events = world.folder.lines(LEDGER);
    let commit = events.iter().position(|line| line.contains("\"COMMIT\"")).expect("committed");
    let record: serde_json::Value = serde_json::from_str(&events[commit]).expect("json");
    let payload = record["event"]["payload"].as_str().expect("digest").to_owned();
    let (shelf, folder) =
        (format!("coordinator/store/{}/{payload}", &payload[..2]), world.folder.path("north/payloads"));
    fs::create_dir_all(&folder).expect("folder");
    let kept = folder.join(format!("{payload}.bin"));
    fs::copy(world.folder.path(&shelf), &kept).expect("copied");
    world.folder.expect_sound();
    let mut bytes = fs::read(&kept).expect("bytes");
    bytes[0] ^= 1;
    fs::write(&kept, bytes).expect("written");
    expect(&world, commit as u64, Kind::Store, "north/payloads");
}

#[test]
fn a_reservation_that_is_still_open_is_a_note() {
    let mut world = World::finished(Cheat::Nobody, false);
    let query = Query { model: Digest::ZERO, ..world.hospitals[0].first_query() };
    let reserve = world.hospitals[0].reservation(query);
    let record = world.hospitals[0].add_against_the_rules(LedgerEvent::Reserve(reserve));
    let notes = world.folder.verify().notes;
    let told = |note: &String| note.contains(&format!("record {record}")) && note.contains("neither committed");
    assert!(notes.iter().any(told), "{notes:?}");
}

#[test]
fn a_policy_that_was_loosened_is_a_note_and_a_stricter_one_is_none() {
    let policy = |world: &World| -> Policy {
        let line = &world.folder.lines(LEDGER)[1];
        let record: serde_json::Value = serde_json::from_str(line).expect("json");
        serde_json::from_value(record["event"]["policy"].clone()).expect("a policy")
    };
    let mut world = World::finished(Cheat::Nobody, false);
    let strict = Policy { epsilon_max: number(9.0), rounds_max: 50, ..policy(&world) };
    world.hospitals[0].add_against_the_rules(LedgerEvent::Policy { policy: strict.clone() });
    assert_eq!(world.folder.expect_sound().notes, [] as [String; 0]);
    let loose = Policy { epsilon_max: number(20.0), patients_min: 1, ..strict };
    world.hospitals[0].add_against_the_rules(LedgerEvent::Policy { policy: loose });
    let notes = world.folder.expect_sound().notes;
    assert!(
        notes.len() == 1 && notes[0].contains("`epsilon_max` from 9 to 20, `patients_min` from 3 to 1"),
        "{notes:?}"
    );
}

#[test]
fn a_clock_that_went_back_is_a_note() {
    let world = World::finished(Cheat::Nobody, false);
    let key = &world.hospitals[0].key;
    let mut chain = Chain::<LedgerEvent>::new(Domain::Ledger);
    let mut lines = world.folder.lines(LEDGER);
    for line in &lines {
        chain.read(line.trim_end(), |_| Ok(key.public())).expect("sound");
    }
    let event = LedgerEvent::Refused {
        plan: Digest::ZERO,
        round: None,
        reason: "early".into(),
        requested: None,
        remaining: None,
    };
    lines.push(chain.write(event, UnixMillis(1), key).expect("written").0);
    world.folder.write_lines(LEDGER, &lines);
    let notes = world.folder.expect_sound().notes;
    assert!(notes.iter().any(|note| note.contains("clock went back")), "{notes:?}");
}

#[test]
fn a_second_ledger_of_one_cohort_is_a_note_with_both_costs() {
    let world = World::finished(Cheat::Nobody, false);
    // A hospital that started over under a new certificate: another site, another key, the same patients.
    let key = SigningKey::generate().expect("entropy");
    let north = &world.hospitals[0];
    let read = file::read::<LedgerEvent>(&world.folder.path(LEDGER), Domain::Ledger, |_| Ok(north.key.public()));
    let mut events: Vec<_> = read.expect("read").records.into_iter().map(|record| record.event).collect();
    if let LedgerEvent::Genesis { site, key: named, .. } = &mut events[0] {
        (*site, *named) = (SiteId([9; 32]), key.public());
    }
    events.retain(|event| !is_acked(event));
    let mut chain = Chain::new(Domain::Ledger);
    let mut renumbered = Vec::new();
    for mut event in events {
        let seq = renumbered.len() as u64;
        if let LedgerEvent::Commit { reserve, .. } = &mut event {
            *reserve = seq - 1;
        }
        renumbered.push(chain.write(event, UnixMillis(7), &key).expect("written").0);
    }
    fs::create_dir_all(world.folder.path("again")).expect("folder");
    world.folder.write_lines("again/ledger.jsonl", &renumbered);
    let verdict = world.folder.expect_sound();
    let told = verdict.notes.iter().find(|note| note.contains("2 ledgers for the cohort `cohort`"));
    let told = told.unwrap_or_else(|| panic!("{:?}", verdict.notes));
    let alone = verdict.epsilon["north"].add_remove;
    assert!(told.contains("again/ledger.jsonl") && alone > 0.0 && !told.contains(&format!("{alone:.3}")), "{told}");
}
