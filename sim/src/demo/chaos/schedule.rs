//! Which program is killed at which kind of moment, in which round, and how long it stays away: drawn from a seed.

use std::time::Duration;

use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::Moment;

/// Shots at a moment of milliseconds, if one comes too late.
const ATTEMPTS: u32 = 3;

/// A program that is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    /// The coordinator.
    Coordinator,
    /// The node of a hospital, counted from 0.
    Hospital(usize),
}

impl Victim {
    /// Its place where the coordinator comes first and the nodes follow.
    pub(crate) fn part(self) -> usize {
        match self {
            Victim::Coordinator => 0,
            Victim::Hospital(index) => index + 1,
        }
    }
}

/// A kill that is planned.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Aim {
    /// Whom.
    pub(crate) victim: Victim,
    /// When.
    pub(crate) moment: Moment,
    /// Not before this round.
    pub(crate) round: u32,
    /// For a random moment: after this share of a round's usual time.
    pub(crate) share: f64,
    /// How long it stays away.
    pub(crate) pause: Duration,
    /// Shots left.
    pub(crate) attempts: u32,
}

/// Six to eight kills: one for each moment that matters, on different programs, and the rest at random.
pub(super) fn draw(seed: u64, hospitals: usize, rounds: u32) -> Vec<Aim> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut nodes: Vec<Victim> = (0..hospitals).map(Victim::Hospital).collect();
    nodes.shuffle(&mut random);
    let node = |index: usize| nodes[index % nodes.len()];
    let mut planned = vec![
        (node(0), Moment::BetweenReserveAndCommit),
        (node(1), Moment::BetweenCommitAndReceipt),
        (Victim::Coordinator, Moment::WhileFolding),
        (Victim::Coordinator, Moment::AfterUpdateAccepted),
        (node(2), Moment::Random),
        (Victim::Coordinator, Moment::Random),
    ];
    for _ in 0..random.random_range(0..=2) {
        planned.push((node(random.random_range(0..hospitals)), Moment::Random));
    }
    // Later rounds are left for repeated shots, and the last one may end before a random moment comes.
    let last = (rounds / 2).max(1);
    let aim = |(victim, moment)| Aim {
        victim,
        moment,
        round: random.random_range(1..=last),
        share: random.random_range(0.1..0.9),
        pause: Duration::from_millis(random.random_range(50..1500)),
        attempts: ATTEMPTS,
    };
    planned.into_iter().map(aim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_schedule() {
        assert_eq!(draw(7, 3, 10), draw(7, 3, 10));
        assert_ne!(draw(7, 3, 10), draw(8, 3, 10));
    }

    #[test]
    fn every_schedule_kills_coordinator_and_nodes_at_least_five_times_and_between_records() {
        for seed in 0..200 {
            for (hospitals, rounds) in [(2, 1), (2, 2), (3, 10), (26, 100)] {
                let aims = draw(seed, hospitals, rounds);
                assert!(aims.len() >= 5);
                let has = |moment, of_node: bool| {
                    aims.iter().any(|aim| aim.moment == moment && of_node == (aim.victim != Victim::Coordinator))
                };
                assert!(has(Moment::BetweenReserveAndCommit, true) && has(Moment::BetweenCommitAndReceipt, true));
                assert!(has(Moment::WhileFolding, false) && has(Moment::AfterUpdateAccepted, false));
                assert!(has(Moment::Random, true) && has(Moment::Random, false));
                assert!(aims.iter().all(|aim| aim.round >= 1 && aim.round <= rounds && aim.victim.part() <= hospitals));
            }
        }
    }
}
