//! The federation as a list of operations: lost replies, crashes, late and second updates, exclusions, any clock.
//!
//! After every step the invariants hold, and a replay of the journal gives the state that was reached live.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Operation {
    Join(u8),
    JoinWithAnotherLedger(u8),
    Contact(u8),
    Submit(u8),
    SubmitAnother(u8),
    Repeat(u8),
    SubmitTo(u8, u32),
    Revoke(u8),
    Advance(u64),
    Tick,
    Fold,
    Serve,
    Crash,
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let site = 0_u8..5;
    prop_oneof![
        4 => site.clone().prop_map(Join),
        1 => site.clone().prop_map(JoinWithAnotherLedger),
        3 => site.clone().prop_map(Contact),
        8 => site.clone().prop_map(Submit),
        1 => site.clone().prop_map(SubmitAnother),
        2 => site.clone().prop_map(Repeat),
        1 => (site.clone(), 0_u32..6).prop_map(|(site, round)| SubmitTo(site, round)),
        1 => (site, 0_u8..3).prop_map(|(site, chance)| if chance == 0 { Revoke(site) } else { Tick }),
        3 => (0_u64..90).prop_map(Advance),
        2 => Just(Tick),
        1 => Just(Fold),
        6 => Just(Serve),
        1 => Just(Crash),
    ]
}

fn apply(world: &mut World, operation: Operation) {
    let round = world.open_round();
    let before = world.journal.len();
    let done = match operation {
        Operation::Join(number) => world.act(join(number, 0)),
        Operation::JoinWithAnotherLedger(number) => {
            let known = world.state.members.contains_key(&site(number));
            let done = world.act(join(number, if known { 50 } else { 0 }));
            assert!(!known || matches!(done, Err(Rejection::ForeignLedger | Rejection::Revoked)), "{done:?}");
            done
        }
        Operation::Contact(number) => world.act(Command::Contact { site: site(number) }),
        Operation::Submit(number) => world.submit(number, round, 0),
        Operation::SubmitAnother(number) => {
            let first = world.state.receipt_of(RoundNumber(round), site(number)).is_some();
            let done = world.submit(number, round, 1);
            assert!(!first || done.is_err() || done == Ok(0), "a second update was counted");
            done
        }
        Operation::Repeat(number) => match world.sent.get(&site(number)).copied() {
            Some(receipt) => {
                let done = world.act(Command::Submit { receipt });
                assert!(matches!(done, Ok(0) | Err(Rejection::Revoked)), "the same bytes again: {done:?}");
                done
            }
            None => Ok(0),
        },
        Operation::SubmitTo(number, round) => world.submit(number, round, 0),
        Operation::Revoke(number) => world.act(Command::Revoke { site: site(number) }),
        Operation::Advance(seconds) => {
            world.now = world.now.plus_seconds(seconds);
            Ok(0)
        }
        Operation::Tick => world.act(Command::Tick),
        Operation::Fold => world.fold(),
        Operation::Serve => {
            world.serve();
            return;
        }
        Operation::Crash => {
            world.state = Federation::default();
            for event in &world.journal {
                world.state.evolve(event);
            }
            Ok(0)
        }
    };
    assert_eq!(world.journal.len() - before, done.unwrap_or(0), "a rejection writes nothing");
}

/// From now on every site that is not excluded is alive: each round must end by its deadline and one tick.
pub(super) fn finish(world: &mut World) {
    let revoked = |world: &World, number| {
        world.state.members.get(&site(number)).is_some_and(|member| member.presence == Presence::Revoked)
    };
    let live: Vec<u8> = (0..5).filter(|number| !revoked(world, *number)).collect();
    if live.len() < QUORUM {
        return;
    }
    for number in &live {
        world.act(join(*number, 0)).expect("welcome");
        world.act(Command::Contact { site: site(*number) }).expect("known");
    }
    for _ in world.state.closed.len()..ROUNDS as usize {
        let closed = world.state.closed.len();
        if world.state.open.is_none() {
            world.serve();
        }
        let open = world.open_round();
        assert_ne!(open, 0, "with a quorum alive a round opens at once");
        for number in &live {
            world.act(Command::Contact { site: site(*number) }).expect("known");
            if world.state.receipt_of(RoundNumber(open), site(*number)).is_none() {
                world.submit(*number, open, 0).expect("the round is open to everybody");
            }
        }
        world.now = world.now.max(world.state.open.as_ref().map_or(world.now, |open| open.deadline));
        world.serve();
        assert_eq!(world.state.closed.len(), closed + 1, "the round ended");
    }
    world.serve();
    assert!(world.state.finished);
    world.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_events_breaks_a_federation(operations in proptest::collection::vec(operation(), 1..80)) {
        let mut world = World::new();
        for operation in operations {
            apply(&mut world, operation);
            world.check();
        }
        finish(&mut world);
    }
}
