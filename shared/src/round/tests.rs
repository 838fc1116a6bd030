//! A federation without disk or network, its ordinary course, and every rule broken once.

use super::*;
use crate::{plan::tests::example, signing::SigningKey};

mod simulation;

const ROUNDS: u32 = 4;
const QUORUM: usize = 2;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_hex(&hex::encode([seed; 32])).expect("64 digits")
}

fn site(number: u8) -> SiteId {
    SiteId([number; 32])
}

fn founded() -> Event {
    let plan = Plan { rounds: ROUNDS, quorum: QUORUM as u32, ..example() };
    let plan = Box::new(SignedPlan::sign(plan, &key(1)).expect("sound"));
    Event::Founded { plan, coordinator: key(2).public(), momentum: Digest::of(b"zero") }
}

/// A coordinator without disk or network: a journal and what it adds up to.
struct World {
    now: UnixMillis,
    state: Federation,
    journal: Vec<Event>,
    /// How long each site's ledger is.
    ledgers: BTreeMap<SiteId, u64>,
    /// The last update that each site sent.
    sent: BTreeMap<SiteId, Receipt>,
}

impl World {
    fn new() -> Self {
        let mut world = World {
            now: UnixMillis(1_000_000),
            state: Federation::default(),
            journal: vec![],
            ledgers: BTreeMap::new(),
            sent: BTreeMap::new(),
        };
        world.state.permits(&founded()).expect("a beginning");
        world.write(founded());
        world
    }

    fn with_sites(count: u8) -> Self {
        let mut world = World::new();
        for number in 0..count {
            world.act(join(number, 0)).expect("welcome");
            world.act(Command::Contact { site: site(number) }).expect("welcome");
        }
        world
    }

    fn write(&mut self, event: Event) {
        self.state.evolve(&event);
        self.journal.push(event);
    }

    /// Decides, writes, and decides again as if the answer was lost: nothing may happen twice.
    fn act(&mut self, command: Command) -> Result<usize, Rejection> {
        let events = self.state.decide(self.now, command.clone())?;
        let count = events.len();
        for event in events {
            self.write(event);
        }
        let again = self.state.decide(self.now, command.clone());
        assert!(!again.as_ref().is_ok_and(|events| !events.is_empty()), "{command:?} twice gave {again:?}");
        Ok(count)
    }

    fn receipt(&mut self, number: u8, round: u32, salt: u8) -> Receipt {
        let site = site(number);
        let length = self.ledgers.entry(site).or_insert(3);
        *length += 2;
        let ledger = Head { length: *length, hash: Digest::of(&length.to_le_bytes()) };
        let charter = self.state.charter.as_ref().expect("founded");
        let (plan, bytes) = (charter.digest, charter.plan.plan.update_bytes());
        Receipt {
            plan,
            round: RoundNumber(round),
            site,
            payload: Digest::of(&[number, salt, round as u8]),
            bytes,
            ledger,
        }
    }

    fn submit(&mut self, number: u8, round: u32, salt: u8) -> Result<usize, Rejection> {
        let receipt = self.receipt(number, round, salt);
        let done = self.act(Command::Submit { receipt });
        if done.is_ok() {
            self.sent.insert(receipt.site, receipt);
        }
        done
    }

    fn open_round(&self) -> u32 {
        self.state.open.as_ref().map_or(0, |open| open.round.0)
    }

    fn fold(&mut self) -> Result<usize, Rejection> {
        let Some(open) = &self.state.open else { return Ok(0) };
        let (round, contributors) = (open.round, open.accepted.keys().copied().collect());
        let (model, momentum) = (Digest::of(&[b'w', round.0 as u8]), Digest::of(&[b'm', round.0 as u8]));
        self.act(Command::Close { round, contributors, model, momentum })
    }

    /// Does what is due, as the coordinator's driver does.
    fn serve(&mut self) {
        match self.state.due(self.now) {
            Due::Nothing(_) => {}
            Due::Tick => assert_eq!(self.act(Command::Tick), Ok(1), "a tick that is due has something to write"),
            Due::Fold => assert_eq!(self.fold(), Ok(1), "a fold that is due is permitted"),
        }
    }

    fn check(&self) {
        let mut replayed = Federation::default();
        for event in &self.journal {
            replayed.permits(event).expect("what was written is permitted when it is read again");
            replayed.evolve(event);
        }
        assert_eq!(replayed, self.state, "a crash changes nothing");
        let mut model = self.state.charter.as_ref().map(|charter| charter.plan.plan.initial_model);
        for (index, closed) in self.state.closed.iter().enumerate() {
            assert_eq!(closed.round.0 as usize, index + 1, "rounds are consecutive");
            assert!(closed.accepted.len() >= QUORUM, "a round closes with a quorum");
            assert_eq!(Some(closed.model_before), model, "each round starts where the last one ended");
            assert!(
                closed.accepted.iter().all(|(site, receipt)| receipt.site == *site && receipt.round == closed.round)
            );
            model = Some(closed.model);
        }
        for (index, event) in self.journal.iter().enumerate() {
            if let Event::RoundClosed { round, contributors, .. } = event {
                let before = &self.journal[..index];
                let excluded = |site: &SiteId| before.contains(&Event::SiteRevoked { site: *site });
                let accepted = self.journal.iter().filter_map(|event| match event {
                    Event::UpdateAccepted { receipt } if receipt.round == *round => Some(receipt.site),
                    _ => None,
                });
                let mut accepted: Vec<SiteId> = accepted.filter(|site| !excluded(site)).collect();
                accepted.sort();
                assert_eq!(&accepted, contributors, "every accepted update of a member counts, each site once");
            }
        }
        let ended = self.journal.iter().filter(|event| matches!(event, Event::Finished { .. })).count();
        assert_eq!(ended, usize::from(self.state.finished));
        assert!(!self.state.finished || self.state.closed.len() == ROUNDS as usize);
    }
}

fn join(number: u8, key_seed: u8) -> Command {
    let ledger_key = key(100 + number + key_seed).public();
    Command::Join { site: site(number), name: format!("site {number}"), ledger_key }
}

#[test]
fn a_whole_federation_runs_from_the_first_hello_to_the_end() {
    let mut world = World::with_sites(3);
    for round in 1..=ROUNDS {
        assert_eq!(world.state.due(world.now), Due::Tick);
        world.serve();
        let task = world.state.task(site(0), world.now).expect("a member");
        assert!(matches!(task, Task::Train { round: RoundNumber(r), seconds_left: 60, .. } if r == round));
        for number in 0..3 {
            assert_eq!(world.submit(number, round, 0), Ok(1));
        }
        assert_eq!(world.state.task(site(0), world.now), Ok(Task::Wait { seconds: ASK_AGAIN_SECONDS }));
        assert_eq!(world.state.due(world.now), Due::Fold, "everybody is there: no need to wait for the deadline");
        world.serve();
    }
    assert_eq!(world.state.due(world.now), Due::Tick);
    world.serve();
    assert_eq!(world.state.due(world.now), Due::Nothing(None));
    let task = world.state.task(site(1), world.now);
    assert_eq!(task, Ok(Task::Done { model: Digest::of(&[b'w', ROUNDS as u8]), rounds: ROUNDS }));
    world.check();
}

#[test]
fn nothing_goes_before_the_foundation_and_it_happens_once() {
    let nobody = Federation::default();
    let command = Command::Contact { site: site(0) };
    assert_eq!(nobody.decide(UnixMillis(0), command), Err(Rejection::NotFounded));
    assert_eq!(nobody.permits(&Event::SiteReturned { site: site(0) }), Err(Rejection::NotFounded));
    assert_eq!(nobody.due(UnixMillis(0)), Due::Nothing(None));
    assert!(matches!(World::new().state.permits(&founded()), Err(Rejection::OutOfOrder(_))));
    let Event::Founded { mut plan, coordinator, momentum } = founded() else { unreachable!() };
    plan.plan.rounds += 1;
    let forged = Event::Founded { plan, coordinator, momentum };
    assert!(matches!(nobody.permits(&forged), Err(Rejection::OutOfOrder(_))));
}

#[test]
fn every_rule_on_updates_answers_with_its_own_rejection() {
    let mut world = World::with_sites(3);
    assert_eq!(world.submit(0, 1, 0), Err(Rejection::RoundNotOpen(RoundNumber(1))));
    world.serve();
    assert_eq!(world.submit(4, 1, 0), Err(Rejection::NotJoined));
    assert_eq!(world.state.task(site(4), world.now), Err(Rejection::NotJoined));
    let receipt = world.receipt(0, 1, 0);
    let plan = Digest::of(b"another");
    let try_it = |receipt| world.state.decide(world.now, Command::Submit { receipt });
    assert_eq!(try_it(Receipt { plan, ..receipt }), Err(Rejection::OtherPlan(plan)));
    assert_eq!(try_it(Receipt { bytes: 1, ..receipt }), Err(Rejection::WrongLength { expected: 128, found: 1 }));
    assert_eq!(try_it(Receipt { ledger: Head::EMPTY, ..receipt }), Err(Rejection::LedgerRolledBack));
    assert_eq!(world.submit(0, 1, 0), Ok(1));
    assert_eq!(world.submit(0, 1, 1), Err(Rejection::SecondUpdate(RoundNumber(1))));
    assert_eq!(world.submit(0, 2, 0), Err(Rejection::RoundNotOpen(RoundNumber(2))));
    assert_eq!(world.act(join(0, 50)), Err(Rejection::ForeignLedger));
    assert_eq!(world.act(Command::Revoke { site: site(1) }), Ok(1));
    assert_eq!(world.act(Command::Revoke { site: site(4) }), Err(Rejection::NotJoined));
    assert_eq!(world.submit(1, 1, 0), Err(Rejection::Revoked));
    assert_eq!(world.act(join(1, 0)), Err(Rejection::Revoked));
    assert_eq!(world.act(Command::Contact { site: site(1) }), Err(Rejection::Revoked));
    assert_eq!(world.state.task(site(1), world.now), Err(Rejection::Revoked));
    world.check();
}

#[test]
fn a_ledger_that_did_not_grow_since_the_last_update_is_a_restored_copy() {
    let mut world = World::with_sites(2);
    world.serve();
    for number in 0..2 {
        world.submit(number, 1, 0).expect("accepted");
    }
    world.serve();
    world.serve();
    let seen = world.state.members[&site(0)].ledger;
    let receipt = Receipt { ledger: seen, ..world.receipt(0, 2, 0) };
    assert_eq!(world.act(Command::Submit { receipt }), Err(Rejection::LedgerRolledBack));
    assert_eq!(world.submit(0, 2, 0), Ok(1));
}

/// A backup of a ledger from before an update that was refused was not noticed: only accepted updates told of their heads.
#[test]
fn the_head_that_came_with_an_update_is_known_even_if_the_update_is_refused() {
    let mut world = World::with_sites(2);
    world.serve();
    let receipt = Receipt { round: RoundNumber(7), ..world.receipt(0, 1, 0) };
    assert_eq!(world.act(Command::Announce { receipt }), Ok(1));
    assert_eq!(world.act(Command::Submit { receipt }), Err(Rejection::RoundNotOpen(RoundNumber(7))));
    let member = &world.state.members[&site(0)];
    assert_eq!((member.shown, member.ledger), (receipt.ledger, Head::EMPTY));
    let again = Receipt { round: RoundNumber(1), ..receipt };
    assert_eq!(world.act(Command::Announce { receipt: again }), Ok(0), "the same head is no news");
    assert_eq!(
        world.act(Command::Submit { receipt: again }),
        Ok(1),
        "it may still come with the update that is accepted"
    );
    let older = Event::LedgerShown { site: site(0), ledger: Head { length: 1, ..receipt.ledger } };
    assert!(matches!(world.state.permits(&older), Err(Rejection::OutOfOrder(_))));
    let receipt = world.receipt(4, 1, 0);
    assert_eq!(world.act(Command::Announce { receipt }), Err(Rejection::NotJoined));
    let shown = world.receipt(1, 1, 0).ledger;
    assert_eq!(world.submit(1, 1, 0), Ok(1), "journals of before have no such records");
    assert!(world.state.members[&site(1)].shown.length > shown.length);
    world.check();
}

#[test]
fn a_site_that_misses_a_round_is_not_waited_for_until_it_asks_again() {
    let mut world = World::with_sites(3);
    world.serve();
    for number in 0..2 {
        world.submit(number, 1, 0).expect("accepted");
    }
    let deadline = UnixMillis(1_000_000).plus_seconds(60);
    assert_eq!(world.state.due(world.now), Due::Nothing(Some(deadline)), "the third is waited for");
    world.now = deadline;
    world.serve();
    assert_eq!(world.state.members[&site(2)].presence, Presence::Away);
    world.serve();
    for number in 0..2 {
        world.submit(number, 2, 0).expect("accepted");
    }
    assert_eq!(world.state.due(world.now), Due::Fold, "nobody waits for the one that is away");
    assert_eq!(world.act(Command::Contact { site: site(2) }), Ok(1));
    assert_eq!(world.state.members[&site(2)].presence, Presence::Active);
    assert!(matches!(world.state.due(world.now), Due::Nothing(Some(_))), "now it is waited for again");
    assert_eq!(world.submit(2, 1, 0), Err(Rejection::RoundNotOpen(RoundNumber(1))), "too late for round 1");
    assert_eq!(world.submit(2, 2, 0), Ok(1));
    assert_eq!(world.state.due(world.now), Due::Fold);
    world.check();
}

#[test]
fn a_hello_alone_makes_nobody_wait() {
    let mut world = World::with_sites(2);
    assert_eq!(world.act(join(2, 0)), Ok(1), "an approval says hello, and the node may start next week");
    world.serve();
    for number in 0..2 {
        world.submit(number, 1, 0).expect("accepted");
    }
    assert_eq!(world.state.due(world.now), Due::Fold);
    assert_eq!(world.act(join(2, 0)), Ok(0));
    assert_eq!(world.act(Command::Contact { site: site(2) }), Ok(1));
    assert_eq!(world.journal.last(), Some(&Event::SiteReturned { site: site(2) }));
    assert!(matches!(world.state.due(world.now), Due::Nothing(Some(_))), "now it is waited for");
}

#[test]
fn without_a_quorum_the_deadline_moves_and_the_round_does_not_close() {
    let mut world = World::with_sites(2);
    world.serve();
    world.submit(0, 1, 0).expect("accepted");
    assert!(matches!(world.fold(), Err(Rejection::OutOfOrder(_))), "one is no quorum");
    world.now = world.now.plus_seconds(61);
    assert_eq!(world.state.due(world.now), Due::Tick);
    world.serve();
    let deadline = world.now.plus_seconds(60);
    assert_eq!(world.journal.last(), Some(&Event::DeadlineMoved { round: RoundNumber(1), deadline }));
    let back = Event::DeadlineMoved { round: RoundNumber(1), deadline: UnixMillis(1) };
    assert!(matches!(world.state.permits(&back), Err(Rejection::OutOfOrder(_))));
    world.submit(1, 1, 0).expect("the round is still open");
    assert_eq!(world.state.due(world.now), Due::Fold);
}

#[test]
fn an_excluded_site_no_longer_counts_in_the_open_round() {
    let mut world = World::with_sites(3);
    world.serve();
    for number in 0..2 {
        world.submit(number, 1, 0).expect("accepted");
    }
    assert_eq!(world.act(Command::Revoke { site: site(0) }), Ok(1));
    assert!(matches!(world.state.due(world.now), Due::Nothing(Some(_))), "one of two updates is left");
    assert_eq!(world.submit(2, 1, 0), Ok(1));
    assert_eq!(world.state.due(world.now), Due::Fold, "an excluded site is not waited for");
    world.serve();
    assert_eq!(world.state.closed[0].accepted.keys().copied().collect::<Vec<_>>(), {
        let mut left = vec![site(1), site(2)];
        left.sort();
        left
    });
    world.check();
}

#[test]
fn events_that_no_honest_coordinator_writes_are_out_of_order() {
    let mut world = World::with_sites(3);
    let (model, momentum) = world.state.newest.expect("founded");
    let (round, deadline) = (RoundNumber(1), world.now.plus_seconds(1));
    let bad = |world: &World, event: Event| {
        let found = world.state.permits(&event);
        assert!(matches!(found, Err(Rejection::OutOfOrder(_))), "{event:?}: {found:?}");
    };
    bad(&world, Event::SiteJoined { site: site(0), name: "again".into(), ledger_key: key(9).public() });
    bad(&world, Event::SiteReturned { site: site(0) });
    assert_eq!(world.state.permits(&Event::SiteReturned { site: site(4) }), Err(Rejection::NotJoined));
    bad(&world, Event::RoundOpened { round: RoundNumber(2), model, deadline });
    bad(&world, Event::RoundOpened { round: RoundNumber(0), model, deadline });
    bad(&world, Event::RoundOpened { round, model: Digest::of(b"another"), deadline });
    bad(&world, Event::Finished { model });
    let moved = Event::DeadlineMoved { round, deadline };
    assert_eq!(world.state.permits(&moved), Err(Rejection::RoundNotOpen(round)));
    world.serve();
    bad(&world, Event::RoundOpened { round, model, deadline });
    for number in 0..2 {
        world.submit(number, 1, 0).expect("accepted");
    }
    for contributors in [vec![], vec![site(0)], vec![site(1), site(0)], vec![site(0), site(1), site(2)]] {
        bad(&world, Event::RoundClosed { round, contributors, model, momentum });
    }
    world.act(Command::Revoke { site: site(2) }).expect("a member");
    bad(&world, Event::SiteRevoked { site: site(2) });
    simulation::finish(&mut world);
    let (model, _) = world.state.newest.expect("founded");
    bad(&world, Event::RoundOpened { round: RoundNumber(ROUNDS + 1), model, deadline });
    bad(&world, Event::Finished { model });
}

#[test]
fn every_rejection_has_a_number_of_its_own() {
    let (digest, round) = (Digest::ZERO, RoundNumber(1));
    let all = [
        Rejection::NotFounded,
        Rejection::NotJoined,
        Rejection::Revoked,
        Rejection::ForeignLedger,
        Rejection::LedgerRolledBack,
        Rejection::OtherPlan(digest),
        Rejection::RoundNotOpen(round),
        Rejection::SecondUpdate(round),
        Rejection::WrongLength { expected: 1, found: 2 },
        Rejection::NoSuchBlob(digest),
        Rejection::WrongDigest,
        Rejection::Version { ours_low: 1, ours_high: 1 },
        Rejection::OutOfOrder(String::new()),
        Rejection::Storage,
    ];
    for (number, rejection) in all.iter().enumerate() {
        assert_eq!(usize::from(rejection.number()), number);
        let bytes = crate::codec::encode(rejection).expect("small");
        assert_eq!(bytes[0], rejection.number(), "the number is also the one on the wire");
    }
}
