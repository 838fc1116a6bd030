//! A federation without a network: sites whose updates are unique bits, so that whatever is counted twice, or not at all,
//! shows in the model (the trick of divviup/janus).

use std::{fs, io::Write as _, path::Path};

use super::*;
use crate::journal;

mod crashes;
mod disorder;
mod rig;

pub(crate) use rig::example_plan;
use rig::{COORDINATES, Rig, site, update};

#[test]
fn every_round_adds_each_site_exactly_once() {
    let mut rig = Rig::new();
    for number in 0..3 {
        assert!(matches!(rig.hello(number), Response::Welcome { version: 1, .. }));
    }
    for round in 1..=3 {
        rig.settle();
        for number in [2, 0, 1] {
            assert!(matches!(rig.task(number), Task::Train { round: open, .. } if open.0 == round));
            let receipt = rig.accepted(number, round);
            receipt.verify(rig.driver.federation().charter.as_ref().expect("founded").coordinator).expect("signed");
            assert_eq!(rig.accepted(number, round), receipt, "a repetition gets the same receipt");
            if number != 1 {
                assert!(matches!(rig.task(number), Task::Wait { .. }));
            }
        }
    }
    rig.settle();
    assert_eq!(rig.masks(), [7, 7, 7]);
    assert!(matches!(rig.task(0), Task::Done { rounds: 3, .. }));
    assert_eq!(rig.driver.end().expect("finished").active.len(), 3);
    assert!(rig.driver.spool().parts().expect("listed").is_empty(), "no spool is left");
}

#[test]
fn what_breaks_a_rule_is_refused_and_changes_nothing() {
    let mut rig = Rig::new();
    assert_eq!(rig.ask(0, Request::Task), Response::Rejected(Rejection::NotJoined));
    assert_eq!(rig.rejected(0, 1), Rejection::NotJoined);
    (0..2).for_each(|number| drop(rig.hello(number)));
    rig.settle();
    let good = rig.receipt(0, 1, &update(0));
    let plan = Digest::of(b"other");
    let long = [update(0), update(0)].concat();
    let cases = [
        (Receipt { plan, ..good }, Rejection::OtherPlan(plan)),
        (Receipt { round: RoundNumber(2), ..good }, Rejection::RoundNotOpen(RoundNumber(2))),
        (Receipt { round: RoundNumber(0), ..good }, Rejection::RoundNotOpen(RoundNumber(0))),
        (rig.receipt(0, 1, &long), Rejection::WrongLength { expected: 8, found: 16 }),
        (Receipt { bytes: u64::MAX, ..good }, Rejection::WrongLength { expected: 8, found: u64::MAX }),
        (Receipt { ledger: Head::EMPTY, ..good }, Rejection::LedgerRolledBack),
        (Receipt { payload: Digest::of(b"lie"), ..good }, Rejection::WrongDigest),
    ];
    for (receipt, expected) in cases {
        assert_eq!(rig.send(0, receipt, &update(0)), Response::Rejected(expected));
    }
    let foreign = rig.send(0, Receipt { site: site(1), ..good }, &update(0));
    assert!(matches!(foreign, Response::Rejected(Rejection::OutOfOrder(_))), "{foreign:?}");
    assert!(rig.driver.spool().parts().expect("listed").is_empty());
    rig.accepted(0, 1);
    let second = update(5);
    let answer = rig.send(0, rig.receipt(0, 1, &second), &second);
    assert_eq!(answer, Response::Rejected(Rejection::SecondUpdate(RoundNumber(1))));
    rig.accepted(1, 1);
    rig.settle();
    assert_eq!(rig.masks(), [3]);
}

#[test]
fn hello_negotiates_versions_and_keeps_a_site_to_its_ledger() {
    let mut rig = Rig::new();
    let hello = |oldest, newest, key: u8| Request::Hello {
        oldest,
        newest,
        software: "x\u{1b}[31m".repeat(1000),
        ledger_key: PublicKey([key; 32]),
        ledger: Head::EMPTY,
    };
    let versions = Response::Rejected(Rejection::Version { ours_low: 1, ours_high: 1 });
    assert_eq!(rig.ask(0, hello(2, 9, 0)), versions);
    assert_eq!(rig.ask(0, hello(0, 0, 0)), versions);
    assert!(rig.driver.federation().members.is_empty());
    assert!(matches!(rig.ask(0, hello(0, 9, 0)), Response::Welcome { version: 1, .. }));
    assert_eq!(rig.ask(0, hello(1, 1, 7)), Response::Rejected(Rejection::ForeignLedger));
    rig.task(0);
    rig.hello(1);
    rig.settle();
    let ledger = rig.accepted(0, 1).receipt.ledger;
    assert!(matches!(rig.hello(0), Response::Welcome { ledger: seen, .. } if seen == ledger));
}

/// What was announced may have left the hospital, so an older copy of the ledger is known as one, also after a restart.
#[test]
fn a_refused_update_leaves_the_head_of_its_ledger() {
    let mut rig = Rig::new();
    (0..2).for_each(|number| drop(rig.hello(number)));
    rig.settle();
    let late = Receipt { round: RoundNumber(5), ..rig.receipt(0, 5, &update(0)) };
    assert_eq!(rig.send(0, late, &update(0)), Response::Rejected(Rejection::RoundNotOpen(RoundNumber(5))));
    let mut rig = rig.reopen();
    assert!(matches!(rig.hello(0), Response::Welcome { ledger: seen, .. } if seen == late.ledger));
    assert!(matches!(rig.hello(1), Response::Welcome { ledger: Head::EMPTY, .. }));
}

#[test]
fn a_slow_site_is_left_behind_and_taken_back() {
    let mut rig = Rig::new();
    (0..3).for_each(|number| drop(rig.hello(number)));
    rig.settle();
    rig.accepted(0, 1);
    rig.accepted(1, 1);
    rig.settle();
    assert_eq!(rig.open_round(), Some(1), "the round waits for the third until its deadline");
    rig.now = rig.now.plus_seconds(60);
    rig.settle();
    assert_eq!((rig.open_round(), rig.presence(2)), (Some(2), Presence::Away));
    assert_eq!(rig.rejected(2, 1), Rejection::RoundNotOpen(RoundNumber(1)));
    rig.accepted(0, 2);
    rig.accepted(1, 2);
    rig.settle();
    assert_eq!(rig.open_round(), Some(3), "nobody waits for a site that is away");
    assert!(matches!(rig.task(2), Task::Train { round: RoundNumber(3), .. }));
    assert_eq!(rig.presence(2), Presence::Active);
    (0..3).for_each(|number| assert!(rig.accepted(number, 3).receipt.site == site(number)));
    rig.settle();
    assert_eq!(rig.masks(), [3, 3, 7]);
}

#[test]
fn without_a_quorum_the_deadline_moves_on() {
    let mut rig = Rig::new();
    rig.hello(0);
    rig.settle();
    assert_eq!(rig.open_round(), None, "one site is no quorum");
    assert_eq!(rig.task(0), Task::Wait { seconds: 1 });
    rig.hello(1);
    rig.settle();
    rig.accepted(0, 1);
    for _ in 0..3 {
        rig.now = rig.now.plus_seconds(60);
        rig.settle();
        let open = rig.driver.open_round().expect("open");
        assert_eq!((open.round.0, open.deadline), (1, rig.now.plus_seconds(60)));
    }
    rig.accepted(1, 1);
    rig.settle();
    assert_eq!(rig.masks(), [3]);
}

#[test]
fn an_excluded_site_is_out_of_the_open_round_too() {
    let mut rig = Rig::new();
    (0..3).for_each(|number| drop(rig.hello(number)));
    rig.settle();
    rig.accepted(0, 1);
    rig.accepted(1, 1);
    rig.driver.revoke(rig.now, site(1)).expect("written");
    rig.driver.revoke(rig.now, site(1)).expect("written before");
    rig.driver.revoke(rig.now, site(9)).expect("never joined");
    for request in [Request::Task, Request::Plan] {
        assert_eq!(rig.ask(1, request), Response::Rejected(Rejection::Revoked));
    }
    assert_eq!(rig.hello(1), Response::Rejected(Rejection::Revoked));
    assert_eq!(rig.rejected(1, 1), Rejection::Revoked);
    rig = rig.reopen();
    rig.settle();
    assert_eq!(rig.open_round(), Some(1), "one update is left, the quorum is two");
    rig.accepted(2, 1);
    rig.settle();
    assert_eq!(rig.masks(), [5]);
}

#[test]
fn whatever_comes_during_a_fold_is_late_and_an_exclusion_folds_anew() {
    let mut rig = Rig::new();
    (0..4).for_each(|number| drop(rig.hello(number)));
    rig.settle();
    (0..3).for_each(|number| assert!(rig.accepted(number, 1).receipt.site == site(number)));
    rig.now = rig.now.plus_seconds(60);
    assert_eq!(rig.driver.due(rig.now), Due::Fold);
    let job = rig.driver.begin_fold().expect("open");
    assert_eq!(rig.task(3), Task::Wait { seconds: 1 });
    assert_eq!(rig.rejected(3, 1), Rejection::RoundNotOpen(RoundNumber(1)));
    rig.accepted(0, 1);
    rig.driver.revoke(rig.now, site(2)).expect("written");
    let done = job.run(rig.driver.store()).expect("folded");
    assert!(matches!(rig.driver.finish_fold(rig.now, done), Err(Rejection::OutOfOrder(_))));
    rig.settle();
    assert_eq!(rig.masks(), [3]);
    assert_eq!(rig.open_round(), Some(2));
}

#[test]
fn models_are_published_and_updates_are_not() {
    let mut rig = Rig::new();
    (0..2).for_each(|number| drop(rig.hello(number)));
    rig.settle();
    let initial = example_plan(COORDINATES).initial_model;
    let fetch = |rig: &mut Rig, blob, offset| rig.driver.handle(rig.now, site(0), "x", Request::Fetch { blob, offset });
    rig.accepted(0, 1);
    rig.accepted(1, 1);
    rig.settle();
    let momentum = rig.driver.federation().closed[0].momentum;
    for secret in [Digest::of(&update(1)), Digest::of(&update(0)), momentum, Digest::ZERO] {
        let answer = fetch(&mut rig, secret, 0);
        let Answer::Reply(Response::Rejected(Rejection::NoSuchBlob(blob))) = answer else { panic!("{answer:?}") };
        assert_eq!(blob, secret);
    }
    for model in [initial, rig.models()[0]] {
        let answer = fetch(&mut rig, model, 3);
        let Answer::Blob { path, offset: 3, length, .. } = answer else { panic!("{answer:?}") };
        assert_eq!(fs::metadata(path).expect("there").len(), length);
    }
    let beyond = fetch(&mut rig, initial, u64::MAX);
    assert!(matches!(beyond, Answer::Reply(Response::Rejected(Rejection::OutOfOrder(_)))), "{beyond:?}");
    assert!(matches!(rig.ask(0, Request::Plan), Response::Plan { document } if document.starts_with(b"{")));
}

#[test]
fn a_disk_that_fails_is_the_peers_later_and_nobodys_end() {
    let mut rig = Rig::new();
    (0..2).for_each(|number| drop(rig.hello(number)));
    rig.settle();
    // The store cannot take this update: a file stands where its folder should be.
    let blocked = rig.driver.store().path(Digest::of(&update(0)));
    let in_the_way = blocked.parent().expect("a folder").to_owned();
    fs::write(&in_the_way, b"").expect("written");
    assert_eq!(rig.rejected(0, 1), Rejection::Storage);
    assert_eq!(rig.driver.spool().parts().expect("listed").len(), 1, "the upload is kept for the next attempt");
    rig.accepted(1, 1);
    fs::remove_file(&in_the_way).expect("removed");
    rig.accepted(0, 1);
    // An accepted update that is lost stops the fold, with a remedy; the operator excludes the site, and it goes on.
    rig.hello(2);
    rig.accepted(2, 1);
    fs::remove_file(&blocked).expect("lost");
    let job = rig.driver.begin_fold().expect("open");
    let text = job.run(rig.driver.store()).expect_err("lost").to_string();
    assert!(text.contains(&format!("revoke {}", site(0))), "{text}");
    rig.driver.give_up_fold();
    rig.driver.revoke(rig.now, site(0)).expect("written");
    rig.settle();
    assert_eq!(rig.masks(), [6]);
}
