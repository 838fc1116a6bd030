//! Each kind of damage is found, and nothing else is.

use semisam_shared::{chain::Head, decimal::Decimal, ledger::Reserve, signing::SigningKey};

use super::*;

const SITE: SiteId = SiteId([7; 32]);

fn payload(round: u32) -> Digest {
    Digest::of(&round.to_le_bytes())
}

fn receipt(round: u32) -> Receipt {
    let ledger = Head { length: 4, hash: Digest::ZERO };
    Receipt { plan: Digest::ZERO, round: RoundNumber(round), site: SITE, payload: payload(round), bytes: 32, ledger }
}

fn reserve(round: u32) -> LedgerEvent {
    let zero = Decimal::default();
    LedgerEvent::Reserve(Reserve {
        plan: Digest::ZERO,
        round: RoundNumber(round),
        model: Digest::ZERO,
        mechanism: String::new(),
        sensitivity: 1,
        sigma: 1,
        coordinates: 8,
        rho: zero,
        spent: zero,
        delta: zero,
        epsilon_add_remove: zero,
        epsilon_replace_one: zero,
        remaining: None,
    })
}

fn commit(round: u32) -> LedgerEvent {
    let (clip_check, noise) = (String::new(), String::new());
    LedgerEvent::Commit { reserve: 0, payload: payload(round), bytes: 32, clip_check, noise }
}

fn acked(round: u32) -> LedgerEvent {
    let key = SigningKey::generate().expect("entropy");
    LedgerEvent::Acked { commit: 0, receipt: receipt(round).sign(&key).expect("signed") }
}

fn abandoned() -> LedgerEvent {
    LedgerEvent::Abandoned { reserve: 0, reason: "crash".into() }
}

fn closed(round: u32, contributors: &[SiteId]) -> Event {
    let (model, momentum) = (Digest::ZERO, Digest::ZERO);
    Event::RoundClosed { round: RoundNumber(round), contributors: contributors.to_vec(), model, momentum }
}

fn sound() -> Logs {
    let opened = |round| {
        let deadline = semisam_shared::ids::UnixMillis(0);
        Event::RoundOpened { round: RoundNumber(round), model: Digest::ZERO, deadline }
    };
    let accepted = |round| Event::UpdateAccepted { receipt: receipt(round) };
    let journal = vec![opened(1), accepted(1), closed(1, &[SITE]), opened(2), accepted(2), closed(2, &[SITE])];
    let key = PublicKey([0; 32]);
    let genesis = LedgerEvent::Genesis { site: SITE, name: "hospital-a".into(), key, cohort: String::new() };
    let ledger =
        vec![genesis, reserve(1), commit(1), acked(1), reserve(2), abandoned(), reserve(2), commit(2), acked(2)];
    Logs { rounds: 2, journal, ledgers: vec![("hospital-a".into(), ledger)] }
}

fn kept(_: &str, payload: Digest) -> Vec<Option<(Digest, u64)>> {
    vec![Some((payload, 32)); 2]
}

#[test]
fn a_run_with_a_crash_between_records_holds() {
    let checks = compare(&sound(), &kept);
    assert_eq!(checks.problems, Vec::<String>::new());
    assert!(checks.all_rounds_closed && checks.counted_once && checks.one_commit_per_round);
    assert!(checks.charged_once && checks.same_bytes && checks.same_receipts);
}

#[test]
fn every_kind_of_damage_is_found() {
    let damaged = |change: fn(&mut Logs)| {
        let mut logs = sound();
        change(&mut logs);
        compare(&logs, &kept)
    };
    assert!(!damaged(|logs| drop(logs.journal.pop())).all_rounds_closed, "a round lost");
    assert!(!damaged(|logs| logs.journal[2] = closed(1, &[SITE, SITE])).counted_once, "counted twice");
    assert!(!damaged(|logs| logs.journal[2] = closed(1, &[SiteId([8; 32])])).counted_once, "a stranger counted");
    assert!(!damaged(|logs| logs.journal.insert(2, logs.journal[1].clone())).counted_once, "accepted twice");
    assert!(!damaged(|logs| logs.ledgers[0].1[5] = commit(2)).one_commit_per_round, "two answers to one question");
    assert!(!damaged(|logs| logs.ledgers[0].1[5] = reserve(2)).charged_once, "charged twice");
    assert!(!damaged(|logs| logs.ledgers[0].1[7] = commit(3)).same_bytes, "other bytes were sent");
    assert!(!damaged(|logs| logs.ledgers[0].1[8] = acked(3)).same_receipts, "another receipt");
    assert!(!damaged(|logs| drop(logs.ledgers[0].1.pop())).same_receipts, "a receipt lost");
    assert!(!compare(&sound(), &|_, payload| vec![Some((payload, 32)), None]).same_bytes, "a file lost");
}

#[test]
fn kills_are_judged_too() {
    let kill = |moment, met| super::super::Kill { at_s: 0.0, program: "hospital-a".into(), moment, round: 1, met };
    let mut checks = compare(&sound(), &kept);
    judge_kills(&mut checks, &vec![kill(super::super::Moment::BetweenReserveAndCommit, true); 5]);
    assert!(checks.hold() && checks.killed_five_times && checks.killed_between_records);
    judge_kills(&mut checks, &vec![kill(super::super::Moment::BetweenReserveAndCommit, false); 4]);
    assert!(!checks.killed_five_times && !checks.killed_between_records && !checks.hold());
}
