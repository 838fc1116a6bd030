//! The coordinator's signed word that an update is on its disk: the hospital keeps it in its ledger, the auditor holds
//! it against the journal.

use serde::{Deserialize, Serialize};

use crate::{
    canonical::{CanonicalError, to_canonical},
    chain::Head,
    ids::{Digest, PublicKey, RoundNumber, SiteId},
    signing::{Domain, Signature, SigningError, SigningKey},
};

/// What was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The plan.
    pub plan: Digest,
    /// The round.
    pub round: RoundNumber,
    /// Whose update it is.
    pub site: SiteId,
    /// SHA-256 of the update.
    pub payload: Digest,
    /// How long the update is.
    pub bytes: u64,
    /// The head of the site's ledger when it sent the update.
    pub ledger: Head,
}

/// A receipt with the coordinator's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedReceipt {
    /// What was received.
    pub receipt: Receipt,
    /// Over its canonical JSON.
    pub signature: Signature,
}

impl Receipt {
    /// Signs the receipt.
    ///
    /// # Errors
    /// Never for a receipt made by this program; the canonical form is checked all the same.
    pub fn sign(self, coordinator: &SigningKey) -> Result<SignedReceipt, CanonicalError> {
        let signature = coordinator.sign(Domain::Receipt, to_canonical(&self)?.as_bytes());
        Ok(SignedReceipt { receipt: self, signature })
    }
}

impl SignedReceipt {
    /// Checks the signature.
    ///
    /// # Errors
    /// If it is not `coordinator`'s.
    pub fn verify(&self, coordinator: PublicKey) -> Result<(), SigningError> {
        let text = to_canonical(&self.receipt).map_err(|_| SigningError::Mismatch(coordinator))?;
        self.signature.verify(coordinator, Domain::Receipt, text.as_bytes())
    }
}
