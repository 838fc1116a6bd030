//! The only door through which a weight leaves a hospital: clip, sum, noise, pay, and only then a [`release::Release`].
//!
//! In reading order: [`clip`] makes integers of bounded norm, [`noise`] draws an exact discrete Gaussian, [`book`] is the
//! ledger on disk, [`release`] joins them (DESIGN, decision 1; spec/privacy.md, sections 5, 6 and 8). This module knows
//! vectors of the release space and nothing about training or networks.

pub mod book;
pub mod clip;
pub mod noise;
pub mod release;

pub use book::Book;
pub use release::Release;

#[cfg(test)]
pub(crate) mod tests;
