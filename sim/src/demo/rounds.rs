//! Runs the rounds: the coordinator and the nodes as processes, watched through the logs that they write.

use std::{
    thread,
    time::{Duration, Instant},
};

use semisam_shared::{
    ledger::LedgerEvent,
    round::{Event, Federation},
};

use super::{
    chaos::{Chaos, Kill, Victim},
    children::{ChildError, Invocation, Launcher, Running},
    layout::{Hospital, Layout},
    progress::{Counter, Progress},
    tail::{Tail, TailError},
};

/// How often the logs are looked at.
const GLANCE: Duration = Duration::from_millis(50);
/// The same where kills are aimed between two records that are milliseconds apart.
const CLOSE_GLANCE: Duration = Duration::from_micros(300);
/// How long programs may take to end after the last round.
const FAREWELL: Duration = Duration::from_secs(45);

/// The rounds could not be run to their end.
#[derive(Debug, thiserror::Error)]
pub enum RoundsError {
    /// A program died.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// A log cannot be followed.
    #[error(transparent)]
    Tail(#[from] TailError),
    /// The coordinator left early.
    #[error("the coordinator ended before the last round: see its log `{0}`")]
    Early(String),
}

/// One program of the federation: running, or to be started again.
#[derive(Debug)]
struct Part {
    running: Option<Running>,
    /// What starts it again, and when.
    again: Option<(Invocation, Instant)>,
    ended: bool,
}

impl Part {
    fn new(running: Running) -> Self {
        Self { running: Some(running), again: None, ended: false }
    }

    /// Starts it again if it is time, and notices its end.
    fn attend(&mut self, launcher: &Launcher) -> Result<(), ChildError> {
        if let Some((invocation, _)) = self.again.take_if(|(_, at)| Instant::now() >= *at) {
            self.running = Some(launcher.start(invocation)?);
        }
        if let Some(running) = &mut self.running
            && running.done()?
        {
            self.ended = true;
        }
        Ok(())
    }
}

/// A federation at work.
pub(crate) struct Rounds<'a> {
    launcher: &'a Launcher,
    progress: &'a Progress,
    hospitals: &'a [Hospital],
    /// The coordinator, then the nodes.
    parts: Vec<Part>,
    /// What starts the coordinator again at its address.
    coordinator: Invocation,
    journal: Tail<Event>,
    ledgers: Vec<Tail<LedgerEvent>>,
    federation: Federation,
    rounds: u32,
    began: Instant,
    display: Display,
}

struct Display {
    rounds: Counter,
    hospitals: Vec<Counter>,
    opened: Instant,
}

/// What is done when all rounds are.
#[derive(Debug)]
pub(crate) struct Finished {
    /// How many rounds were closed.
    pub(crate) rounds: u32,
    /// Seconds from the first node's start to the end.
    pub(crate) seconds: f64,
    /// What was killed.
    pub(crate) kills: Vec<Kill>,
}

/// The coordinator that runs, and the command that starts it again.
pub(crate) struct Coordinator {
    /// The process.
    pub(crate) running: Running,
    /// What starts it again at the same address.
    pub(crate) again: Invocation,
}

impl<'a> Rounds<'a> {
    /// Starts a node in every hospital.
    pub(crate) fn start(
        launcher: &'a Launcher,
        layout: &Layout,
        hospitals: &'a [Hospital],
        coordinator: Coordinator,
        rounds: u32,
        progress: &'a Progress,
    ) -> Result<Self, RoundsError> {
        let mut parts = vec![Part::new(coordinator.running)];
        for hospital in hospitals {
            parts.push(Part::new(launcher.start(super::enrolment::run_node(hospital))?));
        }
        let display = Display {
            rounds: progress.count("rounds", u64::from(rounds)),
            hospitals: hospitals.iter().map(|hospital| progress.state(&hospital.name)).collect(),
            opened: Instant::now(),
        };
        Ok(Self {
            launcher,
            progress,
            hospitals,
            parts,
            coordinator: coordinator.again,
            journal: Tail::new(layout.journal()),
            ledgers: hospitals.iter().map(|hospital| Tail::new(hospital.ledger())).collect(),
            federation: Federation::default(),
            rounds,
            began: Instant::now(),
            display,
        })
    }

    /// Watches until the last round is closed and every program has ended.
    pub(crate) fn run(mut self, mut chaos: Option<Chaos>) -> Result<Finished, RoundsError> {
        let pause = if chaos.is_some() { CLOSE_GLANCE } else { GLANCE };
        let mut farewell = None;
        loop {
            self.look(chaos.as_mut())?;
            if let Some(chaos) = &mut chaos {
                self.strike(chaos)?;
            }
            for part in &mut self.parts {
                part.attend(self.launcher)?;
            }
            if self.federation.finished {
                if self.parts.iter().all(|part| part.ended) {
                    break;
                }
                if *farewell.get_or_insert_with(Instant::now) + FAREWELL < Instant::now() {
                    break;
                }
            } else if self.parts[0].ended {
                // What it wrote last may not have been read yet.
                self.look(chaos.as_mut())?;
                if !self.federation.finished {
                    return Err(RoundsError::Early(self.coordinator.log.display().to_string()));
                }
            }
            thread::sleep(pause);
        }
        let stragglers = self.parts.iter().filter(|part| !part.ended).count();
        if stragglers > 0 {
            let seconds = FAREWELL.as_secs();
            self.progress.say(&format!("{stragglers} programs were still running {seconds} s after the last round"));
        }
        let rounds = u32::try_from(self.federation.closed.len()).unwrap_or(u32::MAX);
        let kills = chaos.map(Chaos::kills).unwrap_or_default();
        Ok(Finished { rounds, seconds: self.began.elapsed().as_secs_f64(), kills })
    }

    fn look(&mut self, mut chaos: Option<&mut Chaos>) -> Result<(), RoundsError> {
        let now = Instant::now();
        for event in self.journal.news()? {
            self.federation.evolve(&event);
            if let Some(chaos) = chaos.as_deref_mut() {
                chaos.saw_journal(&event, now);
            }
            self.tell(&event);
        }
        for (index, ledger) in self.ledgers.iter_mut().enumerate() {
            for event in ledger.news()? {
                if let Some(chaos) = chaos.as_deref_mut() {
                    chaos.saw_ledger(index, &event);
                }
                let doing = match &event {
                    LedgerEvent::Reserve(reserve) => format!("round {}: paid, adding noise", reserve.round),
                    LedgerEvent::Commit { .. } => "sending".into(),
                    LedgerEvent::Acked { receipt, .. } => format!("round {}: sent", receipt.receipt.round),
                    LedgerEvent::Abandoned { .. } => "abandoned a release after a crash".into(),
                    LedgerEvent::Refused { reason, .. } => format!("refused: {reason}"),
                    _ => continue,
                };
                if matches!(event, LedgerEvent::Refused { .. } | LedgerEvent::Abandoned { .. }) {
                    self.progress.say(&format!("{}: {doing}", self.hospitals[index].name));
                }
                self.display.hospitals[index].message(&doing);
            }
        }
        Ok(())
    }

    fn tell(&mut self, event: &Event) {
        let display = &mut self.display;
        match event {
            Event::RoundOpened { round, .. } => {
                display.opened = Instant::now();
                display.hospitals.iter().for_each(|line| line.message(&format!("round {round}: training")));
                display.rounds.message("open");
            }
            Event::RoundClosed { round, contributors, .. } => {
                display.rounds.at(u64::from(round.0));
                let (sites, all) = (contributors.len(), self.hospitals.len());
                let seconds = display.opened.elapsed().as_secs_f64();
                let text =
                    format!("round {round} of {} closed: {sites} of {all} hospitals, {seconds:.1} s", self.rounds);
                self.progress.say(&text);
            }
            Event::DeadlineMoved { round, .. } => {
                self.progress.say(&format!("round {round}: too few hospitals by the deadline, it was moved on"));
            }
            _ => {}
        }
    }

    /// Kills what is due to be killed, and has it started again a little later.
    fn strike(&mut self, chaos: &mut Chaos) -> Result<(), RoundsError> {
        let alive: Vec<bool> = self.parts.iter().map(|part| part.running.is_some() && !part.ended).collect();
        for aim in chaos.due(Instant::now(), &alive, &self.federation) {
            let part = &mut self.parts[aim.victim.part()];
            let Some(running) = part.running.take() else { continue };
            let invocation = running.kill()?;
            let at_s = self.began.elapsed().as_secs_f64();
            let (name, invocation) = match aim.victim {
                Victim::Coordinator => ("coordinator".to_owned(), self.coordinator.clone()),
                Victim::Hospital(index) => (self.hospitals[index].name.clone(), invocation),
            };
            part.again = Some((invocation, Instant::now() + aim.pause));
            let text = format!("killed {name} ({}); it starts again in {} ms", aim.moment, aim.pause.as_millis());
            self.progress.say(&text);
            // What it wrote last decides whether the moment was met.
            self.look(Some(chaos))?;
            chaos.killed(&aim, at_s, name, &self.federation);
        }
        Ok(())
    }
}
