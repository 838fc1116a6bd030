//! Whoever has a key can sign anything; the rules and the other logs find it out.

use std::fs;

use semisam_shared::{
    chain::{Chain, file},
    ids::{Digest, UnixMillis},
    ledger::{LedgerEvent, Reserve},
    round::Event,
    signing::{Domain, SigningKey},
};

use crate::federation::{Cheat, Folder, World, number};

const JOURNAL: &str = "coordinator/journal.jsonl";

fn problems(folder: &Folder, file: &str) -> Vec<String> {
    folder.findings().into_iter().filter(|f| f.file == file).map(|f| f.problem).collect()
}

#[test]
fn a_model_that_is_not_the_fold_of_its_updates_is_found() {
    let world = World::finished(Cheat::WrongModel, false);
    let findings = world.folder.findings();
    assert_eq!(findings.len(), 1, "only round 2 is wrong, round 3 goes on from it: {findings:?}");
    assert!(findings[0].problem.contains("model of round 2") && findings[0].file == JOURNAL);
    let closed: Vec<usize> = world
        .folder
        .lines(JOURNAL)
        .iter()
        .enumerate()
        .filter(|(_, line)| line.contains("ROUND_CLOSED"))
        .map(|(number, _)| number)
        .collect();
    assert_eq!(findings[0].record, Some(closed[1] as u64));
    assert_eq!(world.folder.verify().rounds_recomputed, 2);
}

#[test]
fn a_momentum_from_before_the_first_round_is_found() {
    let world = World::finished(Cheat::WrongMomentum, false);
    assert!(problems(&world.folder, JOURNAL).iter().any(|problem| problem.contains("momentum")));
}

#[test]
fn a_second_release_of_the_same_round_is_found() {
    let mut world = World::finished(Cheat::Nobody, false);
    let north = &mut world.hospitals[0];
    let query = north.first_query();
    let honest = north.reservation(semisam_shared::ledger::Query { model: Digest::ZERO, ..query });
    north.add_against_the_rules(LedgerEvent::Reserve(Reserve { model: query.model, ..honest }));
    let problems = problems(&world.folder, "north/ledger.jsonl");
    assert!(problems.iter().any(|problem| problem.contains("already released")), "{problems:?}");
    let verdict = world.folder.verify();
    assert!(verdict.epsilon["north"].add_remove > verdict.epsilon["south"].add_remove, "counted all the same");
}

#[test]
fn a_cost_that_was_written_too_small_is_found() {
    let mut world = World::finished(Cheat::Nobody, false);
    let north = &mut world.hospitals[0];
    let query = semisam_shared::ledger::Query { model: Digest::ZERO, ..north.first_query() };
    let honest = north.reservation(query);
    let spent = number(honest.spent.get() / 2.0);
    north.add_against_the_rules(LedgerEvent::Reserve(Reserve { spent, ..honest }));
    let problems = problems(&world.folder, "north/ledger.jsonl");
    assert!(problems.iter().any(|problem| problem.contains("`spent`")), "{problems:?}");
    assert!(problems.iter().any(|problem| problem.contains("another model")), "{problems:?}");
}

#[test]
fn a_record_after_which_the_ledger_forks_is_found() {
    let mut world = World::finished(Cheat::Nobody, false);
    let north = &mut world.hospitals[0];
    let folder = &world.folder;
    fs::create_dir_all(folder.path("clone")).expect("folder");
    let common = folder.lines("north/ledger.jsonl").len() as u64;
    let refused = |reason: &str| LedgerEvent::Refused {
        plan: Digest::ZERO,
        round: None,
        reason: reason.into(),
        requested: None,
        remaining: None,
    };
    // Two machines with one key, from one copy of the disk.
    let mut chain = Chain::<LedgerEvent>::new(Domain::Ledger);
    let mut lines = folder.lines("north/ledger.jsonl");
    for line in &lines {
        chain.read(line.trim_end(), |_| Ok(north.key.public())).expect("sound");
    }
    lines.push(chain.write(refused("clone"), UnixMillis(1), &north.key).expect("written").0);
    north.add_against_the_rules(refused("original"));
    folder.write_lines("clone/ledger.jsonl", &lines);
    let findings = folder.findings();
    assert!(findings.iter().any(|f| f.record == Some(common) && f.problem.contains("two histories")), "{findings:?}");
}

/// Writes the journal anew, with the coordinator's key, after `change` was made to its events.
fn rewrite(world: &World, key: &SigningKey, change: impl Fn(&mut Vec<Event>)) {
    let path = world.folder.path(JOURNAL);
    let read = file::read::<Event>(&path, Domain::Journal, |_| Ok(world.coordinator.key.public())).expect("read");
    let mut events = read.records.into_iter().map(|record| record.event).collect();
    change(&mut events);
    let mut chain = Chain::new(Domain::Journal);
    let lines: Vec<String> =
        events.into_iter().map(|event| chain.write(event, UnixMillis(5), key).expect("written").0).collect();
    world.folder.write_lines(JOURNAL, &lines);
}

#[test]
fn a_journal_that_its_owner_wrote_anew_is_found_by_the_receipts() {
    let world = World::finished(Cheat::Nobody, false);
    // East was never there.
    let east = world.hospitals[2].site;
    rewrite(&world, &world.coordinator.key, |events| {
        events.retain(|event| !matches!(event, Event::UpdateAccepted { receipt } if receipt.site == east));
        for event in events {
            if let Event::RoundClosed { contributors, .. } = event {
                contributors.retain(|site| *site != east);
            }
        }
    });
    let findings = problems(&world.folder, "east/ledger.jsonl");
    assert_eq!(findings.iter().filter(|problem| problem.contains("signed a receipt")).count(), 2, "{findings:?}");
    assert!(problems(&world.folder, JOURNAL).iter().any(|problem| problem.contains("not the fold")));
}

/// The update was too late, so no receipt and no COMMIT of an accepted update tells of it; the journal does.
#[test]
fn a_ledger_that_lost_a_refused_update_is_found() {
    let mut world = World::finished(Cheat::Nobody, false);
    let (south, whole) = (world.hospitals[1].site, world.folder.lines("south/ledger.jsonl"));
    world.hospitals[1].add_against_the_rules(LedgerEvent::Refused {
        plan: Digest::ZERO,
        round: None,
        reason: "stands for records of a release".to_owned(),
        requested: None,
        remaining: None,
    });
    let head = world.hospitals[1].head();
    rewrite(&world, &world.coordinator.key, |events| {
        events.insert(events.len() - 1, Event::LedgerShown { site: south, ledger: head });
    });
    world.folder.expect_sound();
    world.folder.write_lines("south/ledger.jsonl", &whole);
    let problems = problems(&world.folder, JOURNAL);
    assert!(problems.iter().any(|problem| problem.contains("announced with a head")), "{problems:?}");
}

#[test]
fn an_update_that_a_hospital_never_committed_is_found() {
    let world = World::finished(Cheat::Nobody, false);
    let south = world.hospitals[1].site;
    rewrite(&world, &world.coordinator.key, |events| {
        for event in events {
            if let Event::UpdateAccepted { receipt } = event
                && receipt.site == south
            {
                receipt.payload = Digest::of(b"invented");
            }
        }
    });
    let findings = problems(&world.folder, JOURNAL);
    assert!(findings.iter().any(|problem| problem.contains("not the one that record")), "{findings:?}");
}

#[test]
fn a_journal_under_another_key_is_found() {
    let world = World::finished(Cheat::Nobody, false);
    let other = SigningKey::generate().expect("entropy");
    rewrite(&world, &other, |_| {});
    let findings = world.folder.findings();
    assert_eq!((findings[0].file.as_str(), findings[0].record), (JOURNAL, Some(0)), "{findings:?}");
    // With the new key named in FOUNDED the journal is whole, but no hospital approved that coordinator.
    let world = World::finished(Cheat::Nobody, false);
    rewrite(&world, &other, |events| {
        if let Event::Founded { coordinator, .. } = &mut events[0] {
            *coordinator = other.public();
        }
    });
    let problems = problems(&world.folder, "north/ledger.jsonl");
    assert!(problems.iter().any(|problem| problem.contains("another one signed")), "{problems:?}");
}

#[test]
fn a_log_without_its_beginning_is_named_so() {
    let world = World::finished(Cheat::Nobody, false);
    let lines = world.folder.lines("north/ledger.jsonl");
    world.folder.write_lines("north/ledger.jsonl", &lines[1..]);
    let findings = world.folder.findings();
    assert_eq!(findings[0].record, Some(0), "{findings:?}");
    // Renumbered and signed again, but still without GENESIS.
    let key = &world.hospitals[0].key;
    let event = LedgerEvent::Refused {
        plan: Digest::ZERO,
        round: None,
        reason: "none".into(),
        requested: None,
        remaining: None,
    };
    let line = Chain::new(Domain::Ledger).write(event, UnixMillis(0), key).expect("written").0;
    world.folder.write_lines("north/ledger.jsonl", &[line]);
    assert!(problems(&world.folder, "north/ledger.jsonl")[0].contains("GENESIS"));
}
