//! What node and coordinator say to each other. One request a stream; every request may be repeated without harm.
//!
//! The bytes are in `PROTOCOL.md`. Nothing private has a field here: no count, norm, loss, score, seed or path.

use serde::{Deserialize, Serialize};

use crate::{
    chain::Head,
    ids::{Digest, PublicKey, RoundNumber},
    receipt::{Receipt, SignedReceipt},
    round::Rejection,
};

/// The oldest protocol version that is spoken.
pub const OLDEST_VERSION: u16 = 1;
/// The newest protocol version that is spoken.
pub const NEWEST_VERSION: u16 = 1;

/// What a node asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Who are you, what do we do here, and what have you seen of my ledger? First on every connection.
    Hello {
        /// The oldest version that the node speaks.
        oldest: u16,
        /// The newest version that the node speaks.
        newest: u16,
        /// The node's program and its version.
        software: String,
        /// The key that signs the node's ledger.
        ledger_key: PublicKey,
        /// The head of the node's ledger.
        ledger: Head,
    },
    /// The plan, please.
    Plan,
    /// What should I do?
    Task,
    /// The bytes of a published blob from an offset on.
    Fetch {
        /// Which blob.
        blob: Digest,
        /// From where.
        offset: u64,
    },
    /// I have an update. How much of it do you have?
    Submit {
        /// What the update is.
        receipt: Receipt,
    },
}

/// What the coordinator answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// To [`Request::Hello`].
    Welcome {
        /// The version that is spoken from here on.
        version: u16,
        /// The key that signs receipts.
        coordinator: PublicKey,
        /// Digest of the plan.
        plan: Digest,
        /// The newest head of this site's ledger that the coordinator has seen.
        ledger: Head,
    },
    /// To [`Request::Plan`]: the JSON of the signed plan.
    Plan {
        /// UTF-8 text.
        document: Vec<u8>,
    },
    /// To [`Request::Task`].
    Task(Task),
    /// To [`Request::Fetch`]: chunks follow.
    Blob {
        /// The length of the whole blob.
        length: u64,
    },
    /// To [`Request::Submit`]: send chunks from here on; a second answer follows them.
    Upload {
        /// How many bytes the coordinator has.
        offset: u64,
    },
    /// To [`Request::Submit`], once the update is on disk and in the journal.
    Accepted(SignedReceipt),
    /// To anything that the rules forbid.
    Rejected(Rejection),
}

/// What a node should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Ask again later.
    Wait {
        /// How much later.
        seconds: u32,
    },
    /// Contribute to a round.
    Train {
        /// Which.
        round: RoundNumber,
        /// The model to start from.
        model: Digest,
        /// Until the deadline.
        seconds_left: u64,
    },
    /// All rounds are done.
    Done {
        /// The last model.
        model: Digest,
        /// How many rounds there were.
        rounds: u32,
    },
}
