//! The privacy loss distribution of sampled Gaussian releases: their exact cost, discretised from above.
//!
//! The loss ln(P/Q) of one release is put on a grid by connecting the dots (Doroshenko et al. 2022, arXiv 2207.04380):
//! each bit of mass is split between its two neighbours so that its share of P and of Q stays, which is the smallest
//! distribution on the grid that dominates. Releases add up by convolution, as a power of the Fourier transform.
//!
//! # Tilted, so that small deltas keep their digits
//! Before the transform the mass at loss l is weighed with exp(lambda l), lambda being the order that minimises the
//! Chernoff bound. The bulk of the weighed distribution lies at epsilon, where the answer is made, so round-off is
//! relative to delta and not to 1, and a window of about 16 standard deviations around epsilon holds all that matters.
//!
//! # Never below the truth
//! * Grid: the step is 1e-4 (spec/privacy.md, 7.3), which makes the answer up to 3e-5 (relative) too large on the reference
//!   table; coarser where that raises it by less than 5e-7, finer where by more than 1e-3. At most 2^22 points.
//! * Tails: mass above the grid counts as infinite loss, mass below it is raised to its edge; what a Chernoff bound
//!   leaves above the window is added, what lies below it comes out on top.
//! * Masses are integrated with positive weights, so their relative errors (at most [`MASS_ERROR`]) add up to a relative
//!   error of delta, which is added. Losses are off by a few units in the last place, which is added to epsilon.
//! * Transform: every coefficient passes through log2(N) butterflies, so it is off by at most `16 u log2(N)` times the sum
//!   of all masses, 1 (Higham 2002, chapter 24); what that does to every mass of the product is added to that mass.
//!
//! # Cost
//! One transform of N points for each kind of release and one back, in both directions for add/remove. All releases with
//! full participation are one, since Gaussian losses add up to a Gaussian loss.

use super::{Adjacency, Failed, Releases, check_delta, pair::Pair};

mod convolution;
mod grid;
mod tilt;

use convolution::Composed;
use grid::Grid;
use tilt::Tilt;

/// How wrong, relatively, the mass of one release at one point of the grid can be.
const MASS_ERROR: f64 = 5e-14;

/// How many units in the last place of the largest loss the loss of one release is off.
const LOSS_ERROR: f64 = 16.0;

/// By how much, relatively, the grid may raise epsilon (or delta at an epsilon): aimed at, and at most.
const RAISE: (f64, f64) = (5e-7, 1e-3);

/// The step of the specification and of dp-accounting, taken wherever it raises epsilon by no more than that.
const USUAL_STEP: f64 = 1e-4;

/// The longest window.
const LONGEST: f64 = (1_u64 << 22) as f64;

/// Everything in one direction: a pair and how many releases have it.
type Direction = Vec<(Pair, f64)>;

fn directions(releases: &[Releases], adjacency: Adjacency) -> Vec<Direction> {
    let (full, sampled): (Vec<Releases>, Vec<Releases>) =
        releases.iter().filter(|some| some.count > 0).partition(|some| some.sampling >= 1.0);
    let mut kinds: Vec<_> = sampled.iter().map(|some| (Pair::directions(some, adjacency), some.count as f64)).collect();
    // Gaussian losses add up to a Gaussian loss, which looks the same in both directions.
    let square: f64 = full.iter().map(|some| some.count as f64 / some.noise_multiplier.powi(2)).sum();
    if square > 0.0 {
        kinds.push((vec![Pair::gaussian(square.sqrt() * (1.0 + 4.0 * f64::EPSILON) * adjacency.factor())], 1.0));
    }
    let most = kinds.iter().map(|(pairs, _)| pairs.len()).max().unwrap_or(0);
    (0..most).map(|at| kinds.iter().map(|(pairs, count)| (pairs[at.min(pairs.len() - 1)], *count)).collect()).collect()
}

/// The smallest epsilon of everything in `releases` together at `delta`, from above.
///
/// # Privacy
/// Neighbours: `adjacency`; add/remove takes the worse of both directions. The releases may follow each other in any
/// order, but which they are must not depend on what they showed (a fixed plan; spec/privacy.md, 3.3).
///
/// # Errors
/// If `delta` is not between 0 and 1.
pub fn epsilon(releases: &[Releases], delta: f64, adjacency: Adjacency) -> Result<f64, Failed> {
    check_delta(delta)?;
    Ok(directions(releases, adjacency).iter().map(|kinds| epsilon_one_way(kinds, delta)).fold(0.0, f64::max))
}

fn epsilon_one_way(kinds: &Direction, delta: f64) -> f64 {
    let tilt = Tilt::for_delta(kinds, delta);
    if tilt.bound <= 0.0 {
        return 0.0;
    }
    let composed = Loss::compose(kinds, tilt.lambda, tilt.bound * tilt.lambda, delta);
    // Both are proofs.
    composed.and_then(|sum| sum.epsilon(delta)).unwrap_or(tilt.bound).min(tilt.bound)
}

/// The smallest delta of everything in `releases` together at `epsilon`, from above.
///
/// # Privacy
/// As for [`epsilon`].
///
/// # Errors
/// If `epsilon` is negative or no number.
pub fn delta(releases: &[Releases], epsilon: f64, adjacency: Adjacency) -> Result<f64, Failed> {
    if !(0.0..=1e12).contains(&epsilon) {
        return Err(Failed::Epsilon(epsilon));
    }
    Ok(directions(releases, adjacency).iter().map(|kinds| delta_one_way(kinds, epsilon)).fold(0.0, f64::max))
}

fn delta_one_way(kinds: &Direction, epsilon: f64) -> f64 {
    let tilt = Tilt::for_epsilon(kinds, epsilon);
    let chernoff = tilt.bound;
    let composed = Loss::compose(kinds, tilt.lambda, 1.0, chernoff.clamp(1e-100, 1.0));
    composed.map_or(1.0, |sum| sum.delta(epsilon)).min(chernoff).min(1.0)
}

/// The composed loss and what it may be wrong by.
struct Loss {
    composed: Composed,
    /// By how much losses may be too small.
    late: f64,
    /// By how much delta may be too small, relatively.
    light: f64,
    /// The chance of infinite loss.
    infinite: f64,
}

impl Loss {
    /// Composes `kinds` under the tilt `lambda`, on a grid that raises delta by [`RAISE`] times `weight` (relative), where
    /// deltas of about `delta` are of interest; none if no loss is told from 0.
    fn compose(kinds: &Direction, lambda: f64, weight: f64, delta: f64) -> Option<Self> {
        let count: f64 = kinds.iter().map(|(_, count)| count).sum();
        let ranges: Vec<_> = kinds.iter().map(|(pair, _)| pair.range(1e-17 / count, 1e-8 * delta / count)).collect();
        let ends = kinds.iter().zip(&ranges).map(|((pair, _), (low, high))| (pair.loss(*low), pair.loss(*high)));
        let (widest, largest) = ends
            .fold((0.0_f64, 0.0_f64), |most, (low, high)| (most.0.max(high - low), most.1.max(low.abs().max(high))));
        // Splitting raises E[exp(lambda l)] by lambda (lambda + 1) step² / 12 per release on average.
        let raising = |raise: f64| (12.0 * raise * weight / (count * lambda * (lambda + 1.0))).sqrt();
        let step = raising(RAISE.0).max(USUAL_STEP.min(raising(RAISE.1)));
        // Where all losses are the same to nine digits, a step is one of the ninth.
        let finest = (widest * 2.0 / LONGEST).max(largest * 1e-9);
        let mut step = step.min(widest / 4096.0).max(finest);
        if step.is_nan() || step < f64::MIN_POSITIVE {
            return None;
        }
        loop {
            let exact = with_short_mantissa(step);
            let grids: Vec<(Grid, f64)> = kinds
                .iter()
                .zip(&ranges)
                .map(|((pair, count), range)| (Grid::of(pair, *range, exact), *count))
                .collect();
            let window = convolution::Window::of(&grids, lambda);
            if window.points() > LONGEST {
                step *= 1.02 * window.points() / LONGEST;
                continue;
            }
            let exponents = kinds.iter().zip(&ranges).map(|((pair, _), range)| grid::largest_exponent(pair, *range));
            let infinite = grids.iter().map(|(grid, count)| grid.infinite * count).sum();
            let late = count * LOSS_ERROR * f64::EPSILON * exponents.fold(0.0, f64::max);
            let composed = Composed::of(&grids, &window, lambda);
            return Some(Self { composed, late, light: count * MASS_ERROR, infinite });
        }
    }

    /// Epsilon at `delta`; none if the window does not reach so far up.
    fn epsilon(&self, delta: f64) -> Option<f64> {
        let finite = delta / (1.0 + self.light) - self.infinite;
        let found = if finite > 0.0 { self.composed.epsilon(finite)? } else { return None };
        Some(if found > 0.0 { (found + self.late) * (1.0 + 4.0 * f64::EPSILON) } else { self.zero(delta) })
    }

    /// Nothing is found at 0; what losses are off by could still make it a little more.
    fn zero(&self, delta: f64) -> f64 {
        if self.delta(0.0) <= delta { 0.0 } else { self.late }
    }

    /// Delta at `epsilon`.
    fn delta(&self, epsilon: f64) -> f64 {
        self.composed.delta(epsilon - self.late) * (1.0 + self.light) + self.infinite
    }
}

/// `step` rounded down to 20 bits, so that its multiples are exact.
fn with_short_mantissa(step: f64) -> f64 {
    f64::from_bits(step.to_bits() & !((1 << 33) - 1))
}

#[cfg(test)]
mod tests;
