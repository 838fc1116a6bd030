//! Which event may follow which: asked by the coordinator before it writes, and by the auditor afterwards.

use super::{Event, Federation, OpenRound, Presence, Rejection};
use crate::{
    ids::{Digest, RoundNumber, SiteId},
    receipt::Receipt,
};

fn out_of_order(what: impl Into<String>) -> Rejection {
    Rejection::OutOfOrder(what.into())
}

impl Federation {
    /// Whether `event` may come next.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn permits(&self, event: &Event) -> Result<(), Rejection> {
        if let Event::Founded { plan, .. } = event {
            if self.charter.is_some() {
                return Err(out_of_order("a federation is founded once"));
            }
            return plan.verify(plan.key).map_err(|error| out_of_order(error.to_string()));
        }
        if self.charter.is_none() {
            return Err(Rejection::NotFounded);
        }
        match event {
            Event::Founded { .. } => Ok(()),
            Event::SiteJoined { site, .. } => match self.members.contains_key(site) {
                true => Err(out_of_order("the site has joined before")),
                false => Ok(()),
            },
            Event::SiteReturned { site } => self.expect_presence(*site, Presence::Away),
            Event::SiteRevoked { site } => match self.members.get(site).map(|member| member.presence) {
                None => Err(Rejection::NotJoined),
                Some(Presence::Revoked) => Err(out_of_order("the site was excluded before")),
                Some(_) => Ok(()),
            },
            Event::RoundOpened { round, model, .. } => self.permits_opening(*round, *model),
            Event::DeadlineMoved { round, deadline } => {
                let open = self.open_round(*round)?;
                if *deadline > open.deadline { Ok(()) } else { Err(out_of_order("a deadline only moves on")) }
            }
            Event::LedgerShown { site, ledger } => match self.members.get(site) {
                None => Err(Rejection::NotJoined),
                Some(member) if ledger.length > member.shown.length => Ok(()),
                Some(_) => Err(out_of_order("a newer head of this ledger was shown before")),
            },
            Event::UpdateAccepted { receipt } => self.permits_update(receipt),
            Event::RoundClosed { round, contributors, .. } => self.permits_closing(*round, contributors),
            Event::Finished { model } => self.permits_end(*model),
        }
    }

    fn expect_presence(&self, site: SiteId, presence: Presence) -> Result<(), Rejection> {
        match self.members.get(&site) {
            None => Err(Rejection::NotJoined),
            Some(member) if member.presence == presence => Ok(()),
            Some(member) => Err(out_of_order(format!("the site is {:?}", member.presence))),
        }
    }

    fn open_round(&self, round: RoundNumber) -> Result<&OpenRound, Rejection> {
        self.open.as_ref().filter(|open| open.round == round).ok_or(Rejection::RoundNotOpen(round))
    }

    fn permits_opening(&self, round: RoundNumber, model: Digest) -> Result<(), Rejection> {
        let plan = self.charter.as_ref().map(|charter| &charter.plan.plan).ok_or(Rejection::NotFounded)?;
        if self.open.is_some() || self.finished {
            return Err(out_of_order("a round is open, or all are done"));
        }
        if round.0 as usize != self.closed.len() + 1 || round.0 > plan.rounds {
            return Err(out_of_order(format!("round {round} does not follow")));
        }
        if self.newest.map(|(newest, _)| newest) != Some(model) {
            return Err(out_of_order("a round starts from the newest model"));
        }
        Ok(())
    }

    fn permits_update(&self, receipt: &Receipt) -> Result<(), Rejection> {
        let charter = self.charter.as_ref().ok_or(Rejection::NotFounded)?;
        let member = self.members.get(&receipt.site).ok_or(Rejection::NotJoined)?;
        if member.presence == Presence::Revoked {
            return Err(Rejection::Revoked);
        }
        if receipt.plan != charter.digest {
            return Err(Rejection::OtherPlan(receipt.plan));
        }
        if self.receipt_of(receipt.round, receipt.site).is_some() {
            return Err(Rejection::SecondUpdate(receipt.round));
        }
        self.open_round(receipt.round)?;
        let expected = charter.plan.plan.update_bytes();
        if receipt.bytes != expected {
            return Err(Rejection::WrongLength { expected, found: receipt.bytes });
        }
        // Each update is preceded by a RESERVE and a COMMIT of its own, so the ledger must have grown.
        if receipt.ledger.length <= member.ledger.length {
            return Err(Rejection::LedgerRolledBack);
        }
        Ok(())
    }

    fn permits_closing(&self, round: RoundNumber, contributors: &[SiteId]) -> Result<(), Rejection> {
        let plan = self.charter.as_ref().map(|charter| &charter.plan.plan).ok_or(Rejection::NotFounded)?;
        let open = self.open_round(round)?;
        if !contributors.iter().eq(open.accepted.keys()) {
            return Err(out_of_order("the contributors are not those whose updates were accepted"));
        }
        if contributors.len() < plan.quorum as usize {
            return Err(out_of_order("the quorum was not reached"));
        }
        Ok(())
    }

    fn permits_end(&self, model: Digest) -> Result<(), Rejection> {
        let plan = self.charter.as_ref().map(|charter| &charter.plan.plan).ok_or(Rejection::NotFounded)?;
        if self.finished || self.open.is_some() || self.closed.len() != plan.rounds as usize {
            return Err(out_of_order("rounds are left, or the end was written before"));
        }
        if self.newest.map(|(newest, _)| newest) != Some(model) {
            return Err(out_of_order("the last model is the newest"));
        }
        Ok(())
    }
}
