//! What every party of a federation must agree on. In reading order:
//!
//! * [`ids`], [`decimal`], [`clock`]: sites, digests, rounds, moments, numbers in records
//! * [`weights`]: named tensors and their digests
//! * [`canonical`], [`signing`], [`chain`]: canonical JSON, Ed25519 under named domains, hash-chained signed logs
//! * [`disk`]: what is done to the disk where a crash matters
//! * [`plan`], [`policy`], [`accounting`]: what is promised, what a hospital allows, what it costs
//! * [`ledger`]: what a hospital spent and sent, and the rules of that
//! * [`round`], [`receipt`], [`message`]: the rules of a federation and what is said on the wire
//! * [`release_space`], [`fold`]: from updates to the next model
//! * [`codec`]: bytes of control messages
//! * [`tls`], [`issue`]: mutual TLS from PEM files, and how these are made
//! * [`transport`]: QUIC, frames, resumable chunks
//! * [`causes`]: what a person is told of an error
#![doc = include_str!("../PROTOCOL.md")]

pub mod accounting;
pub mod canonical;
pub mod causes;
pub mod chain;
pub mod clock;
pub mod codec;
pub mod decimal;
pub mod disk;
pub mod fold;
pub mod ids;
pub mod issue;
pub mod ledger;
pub mod listener;
pub mod message;
pub mod plan;
pub mod policy;
pub mod receipt;
pub mod release_space;
pub mod round;
pub mod signing;
pub mod tls;
pub mod transport;
pub mod weights;
