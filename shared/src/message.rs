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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{ids::SiteId, signing::SigningKey};

    /// Names of all fields of a JSON value, however deep.
    fn names(value: &serde_json::Value, found: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Object(fields) => fields.iter().for_each(|(name, inner)| {
                found.insert(name.clone());
                names(inner, found);
            }),
            serde_json::Value::Array(items) => items.iter().for_each(|item| names(item, found)),
            _ => {}
        }
    }

    /// spec/privacy.md, P6: what a hospital says has these fields and no other: which program it is, keys and digests, what is
    /// asked for, and the head of its ledger. No count, norm, loss, score, time or path. A new field must be added here, and
    /// argued for; a new message does not compile here.
    #[test]
    fn no_request_has_a_field_for_anything_private() {
        let (key, ledger) = (SigningKey::from_hex(&"07".repeat(32)).expect("hex").public(), Head::EMPTY);
        let (site, digest) = (SiteId([1; 32]), Digest::ZERO);
        let receipt = Receipt { plan: digest, round: RoundNumber(1), site, payload: digest, bytes: 4, ledger };
        let requests = [
            Request::Hello { oldest: 1, newest: 1, software: "x".into(), ledger_key: key, ledger },
            Request::Plan,
            Request::Task,
            Request::Fetch { blob: digest, offset: 0 },
            Request::Submit { receipt },
        ];
        let mut all = BTreeSet::new();
        for request in &requests {
            let expected: &[&str] = match request {
                Request::Hello { oldest: _, newest: _, software: _, ledger_key: _, ledger: _ } => {
                    &["Hello", "hash", "ledger", "ledger_key", "length", "newest", "oldest", "software"]
                }
                Request::Plan | Request::Task => &[],
                Request::Fetch { blob: _, offset: _ } => &["Fetch", "blob", "offset"],
                Request::Submit {
                    receipt: Receipt { plan: _, round: _, site: _, payload: _, bytes: _, ledger: _ },
                } => &["Submit", "bytes", "hash", "ledger", "length", "payload", "plan", "receipt", "round", "site"],
            };
            let mut found = BTreeSet::new();
            names(&serde_json::to_value(request).expect("json"), &mut found);
            assert!(found.iter().eq(expected), "{request:?}: {found:?}");
            all.extend(found);
        }
        let private =
            ["loss", "dice", "norm", "count", "patients", "seed", "path", "seconds", "clip", "epsilon", "score"];
        assert!(all.iter().all(|name| private.iter().all(|word| !name.contains(word))), "{all:?}");
    }
}
