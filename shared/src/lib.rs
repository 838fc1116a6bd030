//! What every party of a federation must agree on. In reading order:
//!
//! * [`ids`], [`clock`]: sites, digests, rounds, moments
//! * [`weights`]: named tensors and their digests
//! * [`canonical`], [`signing`]: canonical JSON, Ed25519 under named domains
//! * [`codec`]: bytes of control messages

pub mod canonical;
pub mod clock;
pub mod codec;
pub mod ids;
pub mod signing;
pub mod weights;
