//! What every party of a federation must agree on. In reading order:
//!
//! * [`ids`], [`clock`]: sites, digests, rounds, moments
//! * [`weights`]: named tensors and their digests
//! * [`canonical`], [`signing`]: canonical JSON, Ed25519 under named domains
//! * [`codec`]: bytes of control messages
//! * [`tls`], [`issue`]: mutual TLS from PEM files, and how these are made
//! * [`transport`]: QUIC, frames, resumable chunks

pub mod canonical;
pub mod clock;
pub mod codec;
pub mod ids;
pub mod issue;
pub mod signing;
pub mod tls;
pub mod transport;
pub mod weights;
