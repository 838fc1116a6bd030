//! Kills programs while they work (SIGKILL on Unix), starts them again, and remembers what it did.
//!
//! Some kills wait for the worst moments: between RESERVE and COMMIT of a ledger, between COMMIT and the receipt, when an
//! update was just accepted, while the coordinator folds. They are aimed by watching the logs grow. A shot that came too
//! late is repeated in a later round. The schedule is a function of the seed; what the clock makes of it is not.

use std::{
    fmt,
    time::{Duration, Instant},
};

use semisam_shared::{
    ledger::LedgerEvent,
    round::{Event, Federation},
};
use serde::Serialize;

pub(crate) mod checks;
mod schedule;

pub(crate) use schedule::{Aim, Victim};

/// The moment for which a kill waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// A hospital has paid for a release and not yet written it.
    BetweenReserveAndCommit,
    /// A hospital has written a release and has no receipt yet.
    BetweenCommitAndReceipt,
    /// The coordinator has accepted an update, and not all.
    AfterUpdateAccepted,
    /// The coordinator has all updates of a round and makes the next model.
    WhileFolding,
    /// Some time in a round.
    Random,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Moment::BetweenReserveAndCommit => "between RESERVE and COMMIT",
            Moment::BetweenCommitAndReceipt => "between COMMIT and receipt",
            Moment::AfterUpdateAccepted => "after an update was accepted",
            Moment::WhileFolding => "while folding",
            Moment::Random => "at a random moment",
        })
    }
}

/// A kill that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kill {
    /// Seconds after the nodes started.
    pub at_s: f64,
    /// What was killed.
    pub program: String,
    /// What it was aimed at.
    pub moment: Moment,
    /// In which round.
    pub round: u32,
    /// Whether the log shows that the moment was met.
    pub met: bool,
}

/// How far a hospital is with its newest release, by its ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    Reserved(u32),
    Committed(u32),
}

/// The kills of one demonstration.
#[derive(Debug)]
pub(crate) struct Chaos {
    aims: Vec<Aim>,
    kills: Vec<Kill>,
    stages: Vec<Stage>,
    rounds: u32,
    /// The round in progress, or the next one.
    round: u32,
    opened: Option<Instant>,
    /// How long the last round took: what "some time in a round" is a share of.
    typical: Duration,
}

impl Chaos {
    /// The kills that `seed` plans for so many hospitals and rounds.
    pub(crate) fn new(seed: u64, hospitals: usize, rounds: u32) -> Self {
        Self {
            aims: schedule::draw(seed, hospitals, rounds),
            kills: Vec::new(),
            stages: vec![Stage::Idle; hospitals],
            rounds,
            round: 0,
            opened: None,
            typical: Duration::from_secs(1),
        }
    }

    /// Takes note of a journal record.
    pub(crate) fn saw_journal(&mut self, event: &Event, now: Instant) {
        match event {
            Event::RoundOpened { round, .. } => {
                self.round = round.0;
                self.opened = Some(now);
            }
            Event::RoundClosed { .. } => {
                self.typical = self.opened.take().map_or(self.typical, |opened| now - opened);
            }
            _ => {}
        }
    }

    /// Takes note of a ledger record of hospital number `hospital`.
    pub(crate) fn saw_ledger(&mut self, hospital: usize, event: &LedgerEvent) {
        let stage = &mut self.stages[hospital];
        *stage = match (event, *stage) {
            (LedgerEvent::Reserve(reserve), _) => Stage::Reserved(reserve.round.0),
            (LedgerEvent::Commit { .. }, Stage::Reserved(round)) => Stage::Committed(round),
            (LedgerEvent::Acked { .. } | LedgerEvent::Abandoned { .. }, _) => Stage::Idle,
            _ => return,
        };
    }

    /// Takes out the aims whose moment is now; `alive` says which programs run (the coordinator first).
    pub(crate) fn due(&mut self, now: Instant, alive: &[bool], federation: &Federation) -> Vec<Aim> {
        let mut free = alive.to_vec();
        let mut due = Vec::new();
        for aim in std::mem::take(&mut self.aims) {
            let part = aim.victim.part();
            if free[part] && self.is_now(&aim, now, federation) {
                free[part] = false;
                due.push(aim);
            } else {
                self.aims.push(aim);
            }
        }
        due
    }

    fn is_now(&self, aim: &Aim, now: Instant, federation: &Federation) -> bool {
        let stage = match aim.victim {
            Victim::Coordinator => Stage::Idle,
            Victim::Hospital(index) => self.stages[index],
        };
        let accepted =
            federation.open.as_ref().filter(|open| open.round.0 >= aim.round).map(|open| open.accepted.len());
        match aim.moment {
            Moment::BetweenReserveAndCommit => matches!(stage, Stage::Reserved(round) if round >= aim.round),
            Moment::BetweenCommitAndReceipt => matches!(stage, Stage::Committed(round) if round >= aim.round),
            Moment::AfterUpdateAccepted => accepted.is_some_and(|count| count >= 1 && count < self.stages.len()),
            Moment::WhileFolding => accepted == Some(self.stages.len()),
            Moment::Random => {
                let due = self.opened.map(|opened| opened + self.typical.mul_f64(aim.share));
                self.round >= aim.round && due.is_some_and(|due| now >= due)
            }
        }
    }

    /// Writes down a kill, after its last words were read; one that came too late is aimed again.
    pub(crate) fn killed(&mut self, aim: &Aim, at_s: f64, program: String, federation: &Federation) {
        let stage = match aim.victim {
            Victim::Coordinator => Stage::Idle,
            Victim::Hospital(index) => self.stages[index],
        };
        let met = match aim.moment {
            Moment::BetweenReserveAndCommit => matches!(stage, Stage::Reserved(_)),
            Moment::BetweenCommitAndReceipt => matches!(stage, Stage::Committed(_)),
            Moment::WhileFolding => federation.open.is_some(),
            Moment::AfterUpdateAccepted | Moment::Random => true,
        };
        self.kills.push(Kill { at_s, program, moment: aim.moment, round: self.round, met });
        if !met && aim.attempts > 1 && self.round < self.rounds {
            self.aims.push(Aim { round: self.round + 1, attempts: aim.attempts - 1, ..aim.clone() });
        }
    }

    /// What was killed.
    pub(crate) fn kills(self) -> Vec<Kill> {
        self.kills
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use semisam_shared::ids::{Digest, RoundNumber, UnixMillis};

    fn aim(moment: Moment) -> Aim {
        Aim { victim: Victim::Hospital(1), moment, round: 1, share: 0.5, pause: Duration::ZERO, attempts: 2 }
    }

    fn commit() -> LedgerEvent {
        let (payload, bytes) = (Digest::ZERO, 4);
        LedgerEvent::Commit { reserve: 2, payload, bytes, clip_check: String::new(), noise: String::new() }
    }

    #[test]
    fn a_kill_waits_for_its_moment_and_one_that_is_late_is_repeated() {
        let mut chaos = Chaos::new(1, 2, 5);
        chaos.aims = vec![aim(Moment::BetweenReserveAndCommit)];
        let (now, alive, federation) = (Instant::now(), [true; 3], Federation::default());
        let opened = Event::RoundOpened { round: RoundNumber(1), model: Digest::ZERO, deadline: UnixMillis(0) };
        chaos.saw_journal(&opened, now);
        assert!(chaos.due(now, &alive, &federation).is_empty());
        chaos.stages[1] = Stage::Reserved(1);
        assert!(chaos.due(now, &[true, true, false], &federation).is_empty(), "it does not run");
        let due = chaos.due(now, &alive, &federation);
        assert_eq!(due.len(), 1);
        chaos.saw_ledger(1, &commit());
        chaos.killed(&due[0], 1.0, "hospital-b".into(), &federation);
        assert!(!chaos.kills[0].met);
        assert_eq!((chaos.aims[0].round, chaos.aims[0].attempts), (2, 1));

        chaos.stages[1] = Stage::Reserved(2);
        let due = chaos.due(now, &alive, &federation);
        chaos.killed(&due[0], 2.0, "hospital-b".into(), &federation);
        assert!(chaos.kills[1].met && chaos.aims.is_empty());
    }

    #[test]
    fn a_random_kill_falls_into_its_round() {
        let mut chaos = Chaos::new(1, 2, 5);
        chaos.aims = vec![aim(Moment::Random)];
        let (now, federation) = (Instant::now(), Federation::default());
        assert!(chaos.due(now, &[true; 3], &federation).is_empty(), "no round is open");
        let opened = Event::RoundOpened { round: RoundNumber(1), model: Digest::ZERO, deadline: UnixMillis(0) };
        chaos.saw_journal(&opened, now);
        assert!(chaos.due(now + Duration::from_millis(499), &[true; 3], &federation).is_empty());
        assert_eq!(chaos.due(now + Duration::from_millis(501), &[true; 3], &federation).len(), 1);
    }
}
