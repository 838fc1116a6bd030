//! What releases cost: as zCDP, as Renyi differential privacy, as a privacy loss distribution, and what that means as
//! (epsilon, delta). Source: spec/privacy.md, section 7.
//!
//! | accountant | for | answer |
//! |---|---|---|
//! | [`Rho`] | discrete Gaussian, full participation | complete proof, sums in the ledger; about 8 % above the smallest |
//! | [`rdp`] | sampled Gaussian | proof at the best of 161 orders; 14 % above the smallest, many times where that is near 0 |
//! | [`pld`] | sampled Gaussian | the smallest, up to discretisation from above |
//! | [`gdp`] | Gaussian, full participation | the smallest, in closed form; a check |
//! | [`fixed_batch`] | Gaussian on fixed batches without replacement, exchanges | RDP alone; no plan here draws such batches |
//!
//! None is ever below the truth: discretisation, tails and rounding all go up.
//!
//! # Noise on a grid
//! [`rdp`] and [`pld`] are for the continuous Gaussian. Releases of this system carry a discrete Gaussian of scale
//! `sigma` grid units; they are accounted as continuous with variance sigma² - 1/12, the variance that rounding adds:
//! [`Releases::of_integers`] (spec/privacy.md, 7.1, with what is proved of it and what is not). For the scale of 2^20
//! that is a relative 4e-14, so a figure for a real-valued multiplier needs no such step.

/// Which two cohorts the promise tells apart no better than epsilon and delta allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Adjacency {
    /// One unit (patient or hospital) is there or not: its contribution is zeroed out. Sensitivity C.
    AddRemove,
    /// One unit is exchanged for another. Sensitivity 2C.
    ReplaceOne,
}

impl Adjacency {
    /// By how much the sensitivity exceeds the clip norm.
    pub fn factor(self) -> f64 {
        match self {
            Adjacency::AddRemove => 1.0,
            Adjacency::ReplaceOne => 2.0,
        }
    }
}

pub mod fixed_batch;
pub mod gdp;
pub mod pld;
pub mod rdp;

mod calibrate;
mod moment;
mod normal;
mod pair;
mod zcdp;

pub use calibrate::{Accountant, smallest_noise_multiplier};
pub use zcdp::Rho;

/// The smallest noise multiplier that is accounted for: below it, noise hides nothing.
pub const SMALLEST_MULTIPLIER: f64 = 0.01;

/// The largest noise multiplier that is accounted for.
pub const LARGEST_MULTIPLIER: f64 = 1e9;

/// The largest number of releases of one kind that is accounted for.
pub const LARGEST_COUNT: u64 = 1_000_000_000;

/// No figure can be given.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Failed {
    /// Not a chance.
    #[error("the chance of taking part is `{0}`: give one above 0 and at most 1")]
    Sampling(f64),
    /// Noise out of range.
    #[error("the noise multiplier is `{0}`: give one between {SMALLEST_MULTIPLIER} and {LARGEST_MULTIPLIER}")]
    NoiseMultiplier(f64),
    /// Too many.
    #[error("there are {0} releases: give at most {LARGEST_COUNT}")]
    Count(u64),
    /// Not a delta.
    #[error("delta is `{0}`: give one of at least 1e-100 and below 1")]
    Delta(f64),
    /// Not an epsilon.
    #[error("epsilon is `{0}`: give one above 0 and at most 1e9")]
    Epsilon(f64),
    /// No closed form.
    #[error("units take part by chance, and this figure is for full participation: ask for RDP or PLD")]
    Sampled,
    /// Out of reach.
    #[error(
        "no noise multiplier up to {LARGEST_MULTIPLIER} gives epsilon `{0}`: ask for a larger epsilon or fewer releases"
    )]
    OutOfReach(f64),
}

/// Some Gaussian releases of one kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Releases {
    /// The chance q with which a unit takes part in a release, independently of all others; 1 is full participation.
    sampling: f64,
    /// Standard deviation of the noise divided by the clip norm.
    noise_multiplier: f64,
    /// How many.
    count: u64,
}

impl Releases {
    /// `count` releases with these figures.
    ///
    /// # Errors
    /// The first figure that is out of range.
    pub fn new(sampling: f64, noise_multiplier: f64, count: u64) -> Result<Self, Failed> {
        if !(sampling > 0.0 && sampling <= 1.0) {
            return Err(Failed::Sampling(sampling));
        }
        if !(SMALLEST_MULTIPLIER..=LARGEST_MULTIPLIER).contains(&noise_multiplier) {
            return Err(Failed::NoiseMultiplier(noise_multiplier));
        }
        if count > LARGEST_COUNT {
            return Err(Failed::Count(count));
        }
        Ok(Self { sampling, noise_multiplier, count })
    }

    /// `count` releases of integers with full participation: sensitivity and scale of the discrete Gaussian in grid
    /// units.
    ///
    /// # Privacy
    /// Accounted as continuous noise of variance sigma² - 1/12 (spec/privacy.md, 7.1).
    ///
    /// # Errors
    /// If the multiplier is out of range.
    pub fn of_integers(sensitivity: u64, sigma: u64, count: u64) -> Result<Self, Failed> {
        let sigma = sigma as f64;
        let multiplier = (sigma * sigma - 1.0 / 12.0).max(0.0).sqrt() / sensitivity as f64;
        Self::new(1.0, multiplier * (1.0 - 2.0 * f64::EPSILON), count)
    }
}

/// Refuses what is no delta, or so small that densities underflow.
fn check_delta(delta: f64) -> Result<(), Failed> {
    if (1e-100..1.0).contains(&delta) { Ok(()) } else { Err(Failed::Delta(delta)) }
}

#[cfg(test)]
mod tests;
