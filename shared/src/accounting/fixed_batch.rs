//! Gaussian releases of batches of fixed size, drawn without replacement: what they cost, by Renyi differential privacy.
//!
//! No plan of this system draws such batches. Others do, and often account for them as if units took part by chance, which
//! is too little. This is the bound of Wang, Balle, Kasiviswanathan 2019 (arXiv 1808.00087, theorem 27): with
//! r = exp(mu x - mu²/2), x standard normal, mu = 2 / sigma and q the share of units in a batch,
//!
//! ```text
//! E_alpha <= 1 + sum over i from 2 to alpha of q^i C(alpha, i) min(2 E[r^i], 4 sqrt(B(2 floor(i/2)) B(2 ceil(i/2))))
//! E[r^i] = exp(i (i - 1) mu² / 2),  B(l) = E[(r - 1)^l],  cost(alpha) = ln E_alpha / (alpha - 1)
//! ```
//!
//! Orders between whole ones by interpolating ln E_alpha, which is convex in alpha (their corollary 10). Since E_alpha of
//! mixtures with the same weights is at most that of their worst component, the plain Gaussian's cost is a bound as well;
//! it is the smaller one for q above about 1/2.
//!
//! # How far from the truth
//! An exchange costs at least what both of these cost under Poisson sampling with the same q, since there are cohorts where
//! batches look like that: an exchange at sigma, where all others contribute nothing; a removal at sigma / 2, where all
//! others contribute what the new unit does.
//!
//! # Why a type of its own
//! So that nothing which is proved for Poisson sampling alone, PLD above all, can be asked about fixed batches.

use std::f64::consts::{LN_2, PI};

use super::{
    Failed, Releases, calibrate, check_delta,
    moment::{CLOSED_FORM, Scaled, log_expm1, log_sum, softplus},
    rdp::{self, Renyi},
};

/// By how much, relatively, ln E_alpha is rounded up.
const ROUNDING: f64 = 1e-11;

/// The largest l of which B(l) is computed: above, 2 E[r^i] is taken.
const LARGEST_DIFFERENCE: u32 = 256;

/// The largest whole order of [`rdp::orders`].
const LARGEST_ORDER: u32 = 1024;

/// Some Gaussian releases of one kind, each of a batch of fixed size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FixedBatches {
    /// Batch size divided by how many units there are.
    share: f64,
    /// Standard deviation of the noise divided by the clip norm.
    noise_multiplier: f64,
    /// How many.
    count: u64,
}

impl FixedBatches {
    /// `count` releases, each of another batch of `share` of all units, every such batch being equally likely.
    ///
    /// # Errors
    /// The first figure that is out of range.
    pub fn new(share: f64, noise_multiplier: f64, count: u64) -> Result<Self, Failed> {
        Releases::new(share, noise_multiplier, count)?;
        Ok(Self { share, noise_multiplier, count })
    }

    /// What one of them costs at `order`, an order above 1: a Renyi divergence, from above.
    ///
    /// # Privacy
    /// Neighbours: one unit exchanged for another ([`ReplaceOne`](super::Adjacency::ReplaceOne)), L2 sensitivity twice the
    /// clip norm. There is no figure for add/remove: it would change how many units there are, and with that q. A unit that
    /// is zeroed out while their number is public is a case of an exchange and costs no more. Wang, Balle,
    /// Kasiviswanathan 2019, theorem 27.
    pub fn cost(&self, order: f64) -> f64 {
        Costs::of(self, order.ceil() as u32).at(order)
    }

    /// Epsilon of all of them together at `delta`.
    ///
    /// # Privacy
    /// Neighbours as for [`FixedBatches::cost`]; to epsilon as [`rdp::epsilon`] does.
    ///
    /// # Errors
    /// If `delta` is not between 0 and 1.
    pub fn epsilon(&self, delta: f64) -> Result<Renyi, Failed> {
        check_delta(delta)?;
        if self.count == 0 {
            return Ok(Renyi { epsilon: 0.0, order: f64::INFINITY });
        }
        let costs = Costs::of(self, LARGEST_ORDER);
        Ok(rdp::best(delta, |order| self.count as f64 * costs.at(order)))
    }
}

/// The smallest noise multiplier with which `count` fixed batches of `share` of all units cost at most `epsilon` at `delta`;
/// rounded up by at most a relative 1e-7.
///
/// # Privacy
/// [`FixedBatches::epsilon`] confirms the answer: it is never too small.
///
/// # Errors
/// If a figure is out of range, or no multiplier is large enough.
pub fn smallest_noise_multiplier((epsilon, delta): (f64, f64), count: u64, share: f64) -> Result<f64, Failed> {
    let cost = |multiplier| Ok(FixedBatches::new(share, multiplier, count)?.epsilon(delta)?.epsilon);
    calibrate::smallest(epsilon, cost, cost)
}

/// What does not depend on the order.
struct Costs {
    share: f64,
    mu: f64,
    /// ln min(2 E[r^i], ..) for i from 2.
    log_factors: Vec<f64>,
}

impl Costs {
    /// For orders up to `most`.
    fn of(batches: &FixedBatches, most: u32) -> Self {
        let mu = 2.0 / batches.noise_multiplier;
        let differences = log_differences(mu, most.min(LARGEST_DIFFERENCE));
        let difference = |half: u32| differences.get(half as usize).copied().unwrap_or(f64::INFINITY);
        let log_factors = (2..=most).map(|i| {
            let ternary = 2.0 * LN_2 + (difference(i / 2) + difference(i.div_ceil(2))) / 2.0;
            ternary.min(LN_2 + f64::from(i) * f64::from(i - 1) * mu * mu / 2.0)
        });
        Self { share: batches.share, mu, log_factors: log_factors.collect() }
    }

    /// The cost of one release at `order`.
    fn at(&self, order: f64) -> f64 {
        let (low, part) = (order.floor(), order.fract());
        let interpolated = if part > 0.0 {
            (1.0 - part) * self.log_moment(low as u32) + part * self.log_moment(low as u32 + 1)
        } else {
            self.log_moment(low as u32)
        };
        let plain = order * (order - 1.0) * self.mu * self.mu / 2.0 * (1.0 + CLOSED_FORM);
        interpolated.min(plain) / (order - 1.0) * (1.0 + 4.0 * f64::EPSILON)
    }

    /// ln E_alpha of a whole order, rounded up; 0 at order 1.
    fn log_moment(&self, alpha: u32) -> f64 {
        let mut log_binomial = Scaled::power(self.share, 1);
        log_binomial.times(f64::from(alpha));
        let terms: Vec<f64> = (2..=alpha)
            .zip(&self.log_factors)
            .map(|(i, factor)| {
                log_binomial.times(f64::from(alpha - i + 1) / f64::from(i) * self.share);
                log_binomial.ln() + factor
            })
            .collect();
        softplus(log_sum(&terms)) * (1.0 + ROUNDING)
    }
}

/// ln B(2 k) at index k from 1, as far as it can be of use and up to `largest` = 2 k or one more.
///
/// (r - 1)^l >= r^l - l r^(l-1) for even l, so B(l) >= (1 - l exp(-(l-1) mu²)) E[r^l]. Where l exp(-(l-1) mu²) is below 1/2
/// for both of the two that i takes, 4 sqrt(..) is no smaller than 2 E[r^i], by convexity of ln E[r^i].
fn log_differences(mu: f64, largest: u32) -> Vec<f64> {
    let of_use = |i: f64| i * libm::exp(-(i - 2.0) * mu * mu) >= 0.5;
    let halves = (2..=largest.div_ceil(2)).take_while(|half| of_use(f64::from(2 * half - 1)));
    // Nothing is at index 0; B(2) in closed form.
    [f64::INFINITY, log_expm1(mu * mu)].into_iter().chain(halves.map(|half| log_difference(mu, 2 * half))).collect()
}

/// ln B(l) for an even l. About its middle, x = z + mu/2, it is
/// exp(-mu²/8) times the integral of phi(z) exp((l-1) mu z / 2) (2 sinh(mu z / 2))^l: no cancellation, and nowhere negative.
///
/// # Error
/// The integrand is entire. On the line Im z = y it is at most exp(y²/2) (1 + e y² exp(l mu² / 4) / l)^(l/2) times the
/// integral itself: |2 sinh|² is at most (2 sinh(mu z / 2))² + (mu y)², and B(l) is at least exp(-mu²/8) mu^l (l-1)!!. So the
/// trapezoid rule with step s is wrong, relatively, by at most twice that times exp(-2 pi y / s) for any y: with y = 50 less
/// than 1e-200 for all l and mu that are of use.
fn log_difference(mu: f64, l: u32) -> f64 {
    const STEP: f64 = 0.125;
    let l = f64::from(l);
    let slope = (l - 1.0) * mu / 2.0;
    // Both signs of z at once.
    let value = |z: f64| {
        let both = slope * z + libm::log1p(libm::exp(-2.0 * slope * z));
        both - z * z / 2.0 + l * (mu * z / 2.0 + (-libm::expm1(-mu * z)).ln())
    };
    // The integrand falls beyond l mu + sqrt(l), and 14 further it is below e^-98 of its largest value.
    let points = ((l * (mu + 1.0 / l.sqrt()) + 15.0) / STEP).ceil() as u32;
    let terms: Vec<f64> = (1..=points).map(|point| value(STEP * f64::from(point))).collect();
    log_sum(&terms) + STEP.ln() - (2.0 * PI).ln() / 2.0 - mu * mu / 8.0
}

#[cfg(test)]
mod tests;
