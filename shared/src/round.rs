//! The rules of a federation, as plain data and functions: no clock, no disk, no network.
//!
//! ```text
//!  command ──decide──▶ events ──journal, fsync──▶ evolve ──▶ answer
//!                        ▲                          │
//!                     permits                 due: what time demands
//! ```
//!
//! [`Federation::decide`] changes nothing and answers with events or a [`Rejection`]; [`Federation::evolve`] cannot
//! fail; [`Federation::permits`] holds each event against the rules, for the coordinator before it writes and for the
//! auditor afterwards. Recovery, audit and simulation are the same replay.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    chain::Head,
    ids::{Digest, PublicKey, RoundNumber, SiteId, UnixMillis},
    message::Task,
    plan::{Plan, SignedPlan},
    receipt::Receipt,
};

mod rejection;
mod rules;

pub use rejection::Rejection;

/// How long a node waits before it asks again, in seconds.
pub const ASK_AGAIN_SECONDS: u32 = 1;

/// What happened, in the words of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Event {
    /// The first record: what this federation is.
    Founded {
        /// The plan, signed by the consortium.
        plan: Box<SignedPlan>,
        /// The key that signs journal and receipts.
        coordinator: PublicKey,
        /// Digest of the server's momentum before round 1.
        momentum: Digest,
    },
    /// A site said hello for the first time. Rounds do not wait for it until it asks what to do: a data protection
    /// officer's approval says hello too.
    SiteJoined {
        /// Its certificate's key.
        site: SiteId,
        /// Its certificate's common name.
        name: String,
        /// The key of its ledger.
        ledger_key: PublicKey,
    },
    /// A site asked what to do for the first time, or after it had missed a round: rounds wait for it from here on.
    SiteReturned {
        /// Which.
        site: SiteId,
    },
    /// The consortium excluded a site.
    SiteRevoked {
        /// Which.
        site: SiteId,
    },
    /// A round began.
    RoundOpened {
        /// Its number.
        round: RoundNumber,
        /// The model that everybody starts from.
        model: Digest,
        /// When it closes without the slow.
        deadline: UnixMillis,
    },
    /// The deadline passed without a quorum.
    DeadlineMoved {
        /// Which round.
        round: RoundNumber,
        /// The next deadline.
        deadline: UnixMillis,
    },
    /// A site announced an update, with a newer head of its ledger than was known. Written before a byte of the update is
    /// read, whatever becomes of it: an older copy of the ledger is known as one from then on.
    LedgerShown {
        /// Which.
        site: SiteId,
        /// The head.
        ledger: Head,
    },
    /// An update is on the coordinator's disk.
    UpdateAccepted {
        /// What was received; the signed form goes to the site.
        receipt: Receipt,
    },
    /// The updates were folded into the next model.
    RoundClosed {
        /// Which round.
        round: RoundNumber,
        /// Whose updates were summed.
        contributors: Vec<SiteId>,
        /// The next model.
        model: Digest,
        /// The server's momentum.
        momentum: Digest,
    },
    /// All rounds of the plan are done.
    Finished {
        /// The last model.
        model: Digest,
    },
}

/// What somebody asks of the federation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A site says hello.
    Join {
        /// Its certificate's key.
        site: SiteId,
        /// Its certificate's common name.
        name: String,
        /// The key of its ledger.
        ledger_key: PublicKey,
    },
    /// A site asks what to do.
    Contact {
        /// Which.
        site: SiteId,
    },
    /// A site announces an update.
    Announce {
        /// What it says of it.
        receipt: Receipt,
    },
    /// An update was received whole and is on disk.
    Submit {
        /// What was received.
        receipt: Receipt,
    },
    /// The updates of a round were folded; model and momentum are on disk.
    Close {
        /// Which round.
        round: RoundNumber,
        /// Whose updates were summed.
        contributors: Vec<SiteId>,
        /// The next model.
        model: Digest,
        /// The server's momentum.
        momentum: Digest,
    },
    /// The consortium excludes a site.
    Revoke {
        /// Which.
        site: SiteId,
    },
    /// Time passed.
    Tick,
}

/// Whether a round waits for a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Rounds wait for it until their deadline.
    Active,
    /// It has not asked what to do, or missed the last round; rounds do not wait until it asks.
    Away,
    /// Excluded.
    Revoked,
}

/// A site that joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its certificate's common name.
    pub name: String,
    /// The key of its ledger.
    pub ledger_key: PublicKey,
    /// Whether rounds wait for it.
    pub presence: Presence,
    /// The newest head of its ledger that an accepted update carried.
    pub ledger: Head,
    /// The newest head of its ledger that came with any update, accepted or not.
    pub shown: Head,
}

/// The round in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRound {
    /// Its number.
    pub round: RoundNumber,
    /// The model that everybody starts from.
    pub model: Digest,
    /// When it closes without the slow.
    pub deadline: UnixMillis,
    /// What has been accepted.
    pub accepted: BTreeMap<SiteId, Receipt>,
}

/// A round that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedRound {
    /// Its number.
    pub round: RoundNumber,
    /// The model before.
    pub model_before: Digest,
    /// What was folded, by site.
    pub accepted: BTreeMap<SiteId, Receipt>,
    /// The model after.
    pub model: Digest,
    /// The server's momentum after.
    pub momentum: Digest,
}

/// What a federation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charter {
    /// The plan as signed.
    pub plan: SignedPlan,
    /// Its digest.
    pub digest: Digest,
    /// The key that signs journal and receipts.
    pub coordinator: PublicKey,
}

/// What the events so far add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Federation {
    /// None before the first event.
    pub charter: Option<Charter>,
    /// Who joined.
    pub members: BTreeMap<SiteId, Member>,
    /// The round in progress.
    pub open: Option<OpenRound>,
    /// The rounds that are done, in order.
    pub closed: Vec<ClosedRound>,
    /// The newest model and momentum.
    pub newest: Option<(Digest, Digest)>,
    /// All rounds are done.
    pub finished: bool,
}

/// What time and contributions demand now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing before this moment, if any.
    Nothing(Option<UnixMillis>),
    /// [`Command::Tick`] has something to write: a round to open, a deadline to move, or the end.
    Tick,
    /// The updates of the open round are to be folded.
    Fold,
}

impl Federation {
    /// The events that `command` leads to at `now`. Changes nothing. A repeated command leads to no event.
    ///
    /// # Errors
    /// The rule that forbids it, for the peer to read.
    pub fn decide(&self, now: UnixMillis, command: Command) -> Result<Vec<Event>, Rejection> {
        let charter = self.charter.as_ref().ok_or(Rejection::NotFounded)?;
        let events = match command {
            Command::Join { site, name, ledger_key } => self.join(site, name, ledger_key)?,
            Command::Contact { site } => match self.member(site)?.presence {
                Presence::Away => vec![Event::SiteReturned { site }],
                Presence::Active | Presence::Revoked => vec![],
            },
            Command::Announce { receipt } => self.announce(receipt)?,
            Command::Submit { receipt } => self.submit(receipt)?,
            Command::Revoke { site } => match self.members.get(&site).map(|member| member.presence) {
                Some(Presence::Revoked) => vec![],
                _ => vec![Event::SiteRevoked { site }],
            },
            Command::Close { round, contributors, model, momentum } => {
                vec![Event::RoundClosed { round, contributors, model, momentum }]
            }
            Command::Tick => self.tick(now, &charter.plan.plan),
        };
        for event in &events {
            self.permits(event)?;
        }
        Ok(events)
    }

    fn member(&self, site: SiteId) -> Result<&Member, Rejection> {
        let member = self.members.get(&site).ok_or(Rejection::NotJoined)?;
        if member.presence == Presence::Revoked { Err(Rejection::Revoked) } else { Ok(member) }
    }

    fn join(&self, site: SiteId, name: String, ledger_key: PublicKey) -> Result<Vec<Event>, Rejection> {
        match self.members.get(&site) {
            Some(member) if member.presence == Presence::Revoked => Err(Rejection::Revoked),
            Some(member) if member.ledger_key != ledger_key => Err(Rejection::ForeignLedger),
            Some(_) => Ok(vec![]),
            None => Ok(vec![Event::SiteJoined { site, name, ledger_key }]),
        }
    }

    fn announce(&self, receipt: Receipt) -> Result<Vec<Event>, Rejection> {
        let Receipt { site, ledger, .. } = receipt;
        let newer = ledger.length > self.member(site)?.shown.length;
        Ok(if newer { vec![Event::LedgerShown { site, ledger }] } else { vec![] })
    }

    fn submit(&self, receipt: Receipt) -> Result<Vec<Event>, Rejection> {
        self.member(receipt.site)?;
        if self.receipt_of(receipt.round, receipt.site).is_some_and(|known| known.payload == receipt.payload) {
            return Ok(vec![]);
        }
        Ok(vec![Event::UpdateAccepted { receipt }])
    }

    fn tick(&self, now: UnixMillis, plan: &Plan) -> Vec<Event> {
        if self.finished {
            return vec![];
        }
        let Some(open) = &self.open else {
            let model = self.newest.map_or(plan.initial_model, |(model, _)| model);
            if self.closed.len() >= plan.rounds as usize {
                return vec![Event::Finished { model }];
            }
            if self.active() < plan.quorum as usize {
                return vec![];
            }
            let round = RoundNumber(self.closed.len() as u32 + 1);
            return vec![Event::RoundOpened { round, model, deadline: now.plus_seconds(plan.round_seconds) }];
        };
        if now >= open.deadline && open.accepted.len() < plan.quorum as usize {
            let deadline = now.plus_seconds(plan.round_seconds);
            return vec![Event::DeadlineMoved { round: open.round, deadline }];
        }
        vec![]
    }

    fn active(&self) -> usize {
        self.members.values().filter(|member| member.presence == Presence::Active).count()
    }

    /// What time and contributions demand at `now`.
    pub fn due(&self, now: UnixMillis) -> Due {
        let Some(charter) = &self.charter else { return Due::Nothing(None) };
        let plan = &charter.plan.plan;
        if let Some(open) = &self.open {
            let missing = self
                .members
                .iter()
                .any(|(site, member)| member.presence == Presence::Active && !open.accepted.contains_key(site));
            let enough = open.accepted.len() >= plan.quorum as usize;
            if enough && (!missing || now >= open.deadline) {
                return Due::Fold;
            }
        }
        if self.tick(now, plan).is_empty() {
            return Due::Nothing(self.open.as_ref().map(|open| open.deadline));
        }
        Due::Tick
    }

    /// What `site` should do at `now`.
    ///
    /// # Errors
    /// If the site has not joined or was excluded.
    pub fn task(&self, site: SiteId, now: UnixMillis) -> Result<Task, Rejection> {
        self.member(site)?;
        if self.finished {
            let model = self.newest.map_or(Digest::ZERO, |(model, _)| model);
            return Ok(Task::Done { model, rounds: self.closed.len() as u32 });
        }
        match &self.open {
            Some(open) if !open.accepted.contains_key(&site) => {
                let seconds_left = open.deadline.0.saturating_sub(now.0) / 1000;
                Ok(Task::Train { round: open.round, model: open.model, seconds_left })
            }
            _ => Ok(Task::Wait { seconds: ASK_AGAIN_SECONDS }),
        }
    }

    /// The receipt of an update that was accepted, in the open round or a closed one.
    pub fn receipt_of(&self, round: RoundNumber, site: SiteId) -> Option<&Receipt> {
        let open = self.open.iter().map(|open| (open.round, &open.accepted));
        let mut rounds = self.closed.iter().map(|closed| (closed.round, &closed.accepted)).chain(open);
        rounds.find(|(number, _)| *number == round).and_then(|(_, accepted)| accepted.get(&site))
    }

    /// Takes one event into account. Never fails: ask [`Federation::permits`] first.
    pub fn evolve(&mut self, event: &Event) {
        match event {
            Event::Founded { plan, coordinator, momentum } => {
                let digest = plan.plan.digest().unwrap_or(Digest::ZERO);
                self.newest = Some((plan.plan.initial_model, *momentum));
                self.charter = Some(Charter { plan: (**plan).clone(), digest, coordinator: *coordinator });
            }
            Event::SiteJoined { site, name, ledger_key } => {
                let (name, ledger_key) = (name.clone(), *ledger_key);
                let (presence, ledger, shown) = (Presence::Away, Head::EMPTY, Head::EMPTY);
                self.members.insert(*site, Member { name, ledger_key, presence, ledger, shown });
            }
            Event::LedgerShown { site, ledger } => {
                if let Some(member) = self.members.get_mut(site) {
                    member.shown = *ledger;
                }
            }
            Event::SiteReturned { site } => self.set_presence(*site, Presence::Active),
            Event::SiteRevoked { site } => {
                self.set_presence(*site, Presence::Revoked);
                // Sums are exact, so nothing of an excluded site stays in a round that is still open.
                if let Some(open) = &mut self.open {
                    open.accepted.remove(site);
                }
            }
            Event::RoundOpened { round, model, deadline } => {
                let (round, model, deadline) = (*round, *model, *deadline);
                self.open = Some(OpenRound { round, model, deadline, accepted: BTreeMap::new() });
            }
            Event::DeadlineMoved { deadline, .. } => {
                if let Some(open) = &mut self.open {
                    open.deadline = *deadline;
                }
            }
            Event::UpdateAccepted { receipt } => {
                if let Some(open) = &mut self.open {
                    open.accepted.insert(receipt.site, *receipt);
                }
                if let Some(member) = self.members.get_mut(&receipt.site) {
                    member.ledger = receipt.ledger;
                    if receipt.ledger.length > member.shown.length {
                        member.shown = receipt.ledger;
                    }
                }
            }
            Event::RoundClosed { contributors, model, momentum, .. } => self.close(contributors, *model, *momentum),
            Event::Finished { .. } => self.finished = true,
        }
    }

    fn set_presence(&mut self, site: SiteId, presence: Presence) {
        if let Some(member) = self.members.get_mut(&site) {
            member.presence = presence;
        }
    }

    fn close(&mut self, contributors: &[SiteId], model: Digest, momentum: Digest) {
        for (site, member) in &mut self.members {
            if member.presence == Presence::Active && !contributors.contains(site) {
                member.presence = Presence::Away;
            }
        }
        if let Some(OpenRound { round, model: model_before, accepted, .. }) = self.open.take() {
            self.closed.push(ClosedRound { round, model_before, accepted, model, momentum });
        }
        self.newest = Some((model, momentum));
    }
}

#[cfg(test)]
mod tests;
