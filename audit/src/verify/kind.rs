//! What sort of thing is wrong: what it means and what to do follow from it.

use semisam_shared::ledger::LedgerViolation;
use serde::Serialize;

/// What sort of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A line was changed, removed, exchanged, or not signed by the log's owner.
    Record,
    /// A log ends in the middle of a line.
    Torn,
    /// A log has no beginning.
    Beginning,
    /// A record stands where the rules of a ledger forbid it.
    Rule,
    /// Reservations, releases and receipts do not belong together one by one.
    Pairing,
    /// A cost was written that is not the one that follows from the noise.
    Figure,
    /// Against the hospital's own policy.
    Policy,
    /// A receipt that is for something else, or not signed by the coordinator.
    Receipt,
    /// One party has two histories.
    Fork,
    /// An update was used that no ledger paid for.
    Unpaid,
    /// The end of a log is missing: another party knows of it.
    CutOff,
    /// Another key, coordinator or ledger than the one that was agreed on.
    Identity,
    /// Not the plan that was signed or approved.
    Plan,
    /// A record of the journal stands where the rules of rounds forbid it.
    Order,
    /// A file was changed or is missing.
    Store,
    /// A published model does not follow from the updates.
    Model,
}

impl Kind {
    /// Of a record that the rules of a ledger forbid.
    pub(super) fn of_violation(violation: &LedgerViolation) -> Self {
        match violation {
            LedgerViolation::Policy { .. } | LedgerViolation::Budget { .. } => Self::Policy,
            LedgerViolation::Figure { .. } | LedgerViolation::NotFinite => Self::Figure,
            LedgerViolation::Open(_)
            | LedgerViolation::Twice(_)
            | LedgerViolation::Reference(_)
            | LedgerViolation::NoSuchRound(_) => Self::Pairing,
            LedgerViolation::Receipt | LedgerViolation::ReceiptSignature(_) => Self::Receipt,
            LedgerViolation::WrongDigest(_) | LedgerViolation::Plan(_) => Self::Plan,
            _ => Self::Rule,
        }
    }

    /// What it means, for people who decide.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Record => {
                "This record, or one before it, is not what its owner wrote, or a record between them is gone. Nothing behind \
                 this point of the file can be believed."
            }
            Self::Torn => {
                "The last record was not written to its end. That is what a power cut leaves behind, and also what somebody \
                 leaves behind who cuts a file."
            }
            Self::Beginning => "The log does not begin where logs begin, so nobody knows what was spent before.",
            Self::Rule => "The program of an honest hospital never writes this record here.",
            Self::Pairing => {
                "Each release must be paid for once, before it is made, and made once. Here that does not hold: something may \
                 have been released twice or without being charged."
            }
            Self::Figure => {
                "The cost that the hospital wrote down is not the one that follows from its noise. The figures of this report \
                 were computed anew and are right; the hospital's own are not."
            }
            Self::Policy => "Patients were promised less loss of privacy than this, by the hospital's own policy.",
            Self::Receipt => "The receipt does not prove that the coordinator has what the hospital paid for.",
            Self::Fork => {
                "Two different continuations were signed with one key: a copy of the machine ran beside it, or an old copy was \
                 put back. Spending in one of them is missing in the other."
            }
            Self::Unpaid => {
                "The coordinator used an update for which this ledger has no charge: patients lost privacy that nobody counted."
            }
            Self::CutOff => {
                "Another party has a signed word about records that are missing here: the end of the file was cut off, or an \
                 older copy stands in its place."
            }
            Self::Identity => "The parties did not deal with those with whom they believed to deal.",
            Self::Plan => "What the data protection officers approved is not what is in this file.",
            Self::Order => {
                "The coordinator broke the rules of rounds, or its journal was changed by somebody with its key."
            }
            Self::Store => "A model or an update is not the one that the log names, so it cannot be shown to be right.",
            Self::Model => {
                "The published model holds something that the hospitals did not send. It must not be trusted, in a clinic least \
                 of all."
            }
        }
    }

    /// What to do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Record | Self::Beginning => {
                "Ask the owner for the original file and compare. If that has the same defect, stop the site, keep the file, and \
                 find out who could write to it."
            }
            Self::Torn => {
                "Let the owner start the program once, which cuts such a line off and says so, and take a new copy. If this \
                 repeats, examine the disk."
            }
            Self::Rule | Self::Pairing | Self::Order => {
                "Stop the site or the coordinator until its program was compared with the published one: an unchanged program \
                 cannot write this."
            }
            Self::Figure => {
                "Use the figures of this report. Compare the hospital's program with the published one before it goes on."
            }
            Self::Policy => {
                "Tell the data protection officer at once. No further round for this cohort; whether patients must be told is \
                 for the officer to decide."
            }
            Self::Receipt => "Ask the coordinator for its journal, and compare both keys by telephone.",
            Self::Fork => {
                "Find the second machine and stop it. Count the spending of both histories together, and go on with neither \
                 before the data protection officer agrees."
            }
            Self::Unpaid => {
                "Take the update out of the model, or count its cost against the budget of the cohort. Ask the hospital for its \
                 newest ledger first: this copy may be an old one."
            }
            Self::CutOff => {
                "Ask the owner for the newest copy, and audit again. If there is none, the budget must be taken as spent up to \
                 what the other party knows."
            }
            Self::Identity => {
                "Compare the keys with their owners by telephone. Until that is done, trust none of the figures."
            }
            Self::Plan => {
                "Ask the consortium for the plan that it signed, and each hospital for the digest that it approved."
            }
            Self::Store => {
                "Ask the coordinator for the file with this digest from its store or a backup, and audit again."
            }
            Self::Model => {
                "Withdraw this model and all that follow from it, and compute them again from the stored updates."
            }
        }
    }
}
