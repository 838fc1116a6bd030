//! Ed25519 signatures, each under a named domain, so that a signature made for one purpose is void for every other.

use std::fmt;

use ed25519_dalek::{Signature as Ed25519, Signer, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::ids::PublicKey;

/// What a signature is for. The text is signed before the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// A record of a hospital's privacy ledger.
    Ledger,
    /// A record of the coordinator's journal.
    Journal,
    /// A plan.
    Plan,
    /// The coordinator's receipt for an update.
    Receipt,
}

impl Domain {
    /// The bytes that stand before the signed message.
    pub fn prefix(self) -> &'static [u8] {
        match self {
            Domain::Ledger => b"semisam/1 ledger record\0",
            Domain::Journal => b"semisam/1 journal record\0",
            Domain::Plan => b"semisam/1 plan\0",
            Domain::Receipt => b"semisam/1 receipt\0",
        }
    }

    fn message(self, bytes: &[u8]) -> Vec<u8> {
        [self.prefix(), bytes].concat()
    }
}

/// A key or a signature is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// Not a point on the curve.
    #[error("the public key {0} is not an Ed25519 key")]
    Key(PublicKey),
    /// The signature does not fit.
    #[error("the signature does not belong to this text and key {0}")]
    Mismatch(PublicKey),
    /// Not 32 bytes of hex.
    #[error("a signing key file holds 64 hex digits and nothing else")]
    KeyFile,
    /// The operating system has no entropy.
    #[error("the operating system gave no random bytes: {0}")]
    Entropy(String),
}

/// A private signing key. It never prints.
pub struct SigningKey(ed25519_dalek::SigningKey);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(public {})", self.public().short())
    }
}

impl SigningKey {
    /// A fresh key from the operating system's entropy.
    ///
    /// # Errors
    /// If the system has none.
    pub fn generate() -> Result<Self, SigningError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).map_err(|e| SigningError::Entropy(e.to_string()))?;
        Ok(Self(ed25519_dalek::SigningKey::from_bytes(&seed)))
    }

    /// The key in the text of a key file.
    ///
    /// # Errors
    /// If the text is anything but 64 hex digits.
    pub fn from_hex(text: &str) -> Result<Self, SigningError> {
        let mut seed = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text.trim(), seed.as_mut()).map_err(|_| SigningError::KeyFile)?;
        Ok(Self(ed25519_dalek::SigningKey::from_bytes(&seed)))
    }

    /// The text of a key file.
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(self.0.to_bytes()))
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `bytes` for one purpose.
    pub fn sign(&self, domain: Domain, bytes: &[u8]) -> Signature {
        Signature(self.0.sign(&domain.message(bytes)).to_bytes())
    }
}

/// An Ed25519 signature: hex in text, 64 raw bytes in binary.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({}..)", hex::encode(&self.0[..4]))
    }
}

impl Signature {
    /// Checks the signature strictly (no malleable or small-order forms).
    ///
    /// # Errors
    /// If the key is no key, or the signature does not fit.
    pub fn verify(&self, key: PublicKey, domain: Domain, bytes: &[u8]) -> Result<(), SigningError> {
        let verifying = VerifyingKey::from_bytes(&key.0).map_err(|_| SigningError::Key(key))?;
        verifying
            .verify_strict(&domain.message(bytes), &Ed25519::from_bytes(&self.0))
            .map_err(|_| SigningError::Mismatch(key))
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&hex::encode(self.0))
        } else {
            let (mut low, mut high) = ([0; 32], [0; 32]);
            low.copy_from_slice(&self.0[..32]);
            high.copy_from_slice(&self.0[32..]);
            (low, high).serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut bytes = [0; 64];
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            hex::decode_to_slice(&text, &mut bytes).map_err(serde::de::Error::custom)?;
        } else {
            let (low, high) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
            bytes[..32].copy_from_slice(&low);
            bytes[32..].copy_from_slice(&high);
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_one_key_one_domain_one_text() {
        let key = SigningKey::from_hex(&"07".repeat(32)).expect("hex");
        let signature = key.sign(Domain::Ledger, b"text");
        assert!(signature.verify(key.public(), Domain::Ledger, b"text").is_ok());
        assert!(signature.verify(key.public(), Domain::Journal, b"text").is_err());
        assert!(signature.verify(key.public(), Domain::Ledger, b"Text").is_err());
        let other = SigningKey::generate().expect("entropy");
        assert!(signature.verify(other.public(), Domain::Ledger, b"text").is_err());
        assert!(!format!("{key:?}").contains("0707"));
    }
}
