//! What a peer is told when the rules forbid what it asks: a value, not a fault. Each has a number that never changes.

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, RoundNumber};

/// A rule that forbids a command or an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    /// 0
    #[error("there is no federation here yet")]
    NotFounded,
    /// 1
    #[error("this site has not said hello")]
    NotJoined,
    /// 2
    #[error("this site was excluded by the consortium: ask its operator")]
    Revoked,
    /// 3
    #[error("this site joined with another ledger: put that ledger back, or enrol as a new site with a new key")]
    ForeignLedger,
    /// 4
    #[error(
        "the coordinator has seen a newer head of this site's ledger: restore the newest ledger, never an old copy"
    )]
    LedgerRolledBack,
    /// 5
    #[error("plan {0} is not the plan of this federation")]
    OtherPlan(Digest),
    /// 6
    #[error("round {0} is not open")]
    RoundNotOpen(RoundNumber),
    /// 7
    #[error("another update of this site was accepted in round {0}: a round counts each site once")]
    SecondUpdate(RoundNumber),
    /// 8
    #[error("the update has {found} bytes where the plan says {expected}")]
    WrongLength {
        /// What the plan says.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// 9
    #[error("no blob {0} is published here")]
    NoSuchBlob(Digest),
    /// 10
    #[error("the update's bytes do not have the digest that was announced: send them again")]
    WrongDigest,
    /// 11
    #[error("protocol versions {ours_low} to {ours_high} are spoken here: use a program that speaks one of them")]
    Version {
        /// The oldest that is spoken.
        ours_low: u16,
        /// The newest that is spoken.
        ours_high: u16,
    },
    /// 12
    #[error("the event does not follow the ones before it: {0}")]
    OutOfOrder(String),
    /// 13
    #[error("the coordinator cannot write to its disk: try again later")]
    Storage,
}

impl Rejection {
    /// Its number, for logs and manuals.
    pub fn number(&self) -> u8 {
        match self {
            Rejection::NotFounded => 0,
            Rejection::NotJoined => 1,
            Rejection::Revoked => 2,
            Rejection::ForeignLedger => 3,
            Rejection::LedgerRolledBack => 4,
            Rejection::OtherPlan(_) => 5,
            Rejection::RoundNotOpen(_) => 6,
            Rejection::SecondUpdate(_) => 7,
            Rejection::WrongLength { .. } => 8,
            Rejection::NoSuchBlob(_) => 9,
            Rejection::WrongDigest => 10,
            Rejection::Version { .. } => 11,
            Rejection::OutOfOrder(_) => 12,
            Rejection::Storage => 13,
        }
    }
}
