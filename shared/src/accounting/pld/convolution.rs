//! Losses of many releases added up: the power of a Fourier transform, in a window, with its round-off bounded.

use rustfft::{FftPlanner, num_complex::Complex64};

use super::Grid;

/// ln of the weighed chance that is left above and below the window.
const LEFT_OUT: (f64, f64) = (-38.0, -33.0);

/// Exponents that are tried for the ends of the window, in units of that which a Gaussian would want. The small ones, while they
/// help, are for narrow bulks with rare and large losses.
const SHARES: [f64; 10] = [1.0, 0.7, 0.4, 0.2, 0.1, 0.05, 0.025, 0.0125, 0.006, 0.003];

/// Where the sum of all losses lies, weighed with exp(lambda loss).
#[derive(Debug)]
pub(super) struct Window {
    low: f64,
    high: f64,
    step: f64,
    /// ln E[exp(lambda loss)] of each kind of release.
    log_moments: Vec<f64>,
}

impl Window {
    /// By Chernoff bounds on the tilted sum, tried at several exponents around that of a Gaussian.
    pub(super) fn of(grids: &[(Grid, f64)], lambda: f64) -> Self {
        let log_moments: Vec<f64> = grids.iter().map(|(grid, _)| grid.log_moment(lambda)).collect();
        let total = |at: f64| -> f64 {
            let parts = grids.iter().zip(&log_moments);
            parts.map(|((grid, count), here)| count * (grid.log_moment(at) - here)).sum()
        };
        let parts = grids.iter().zip(&log_moments);
        let variance: f64 = parts.map(|((grid, count), here)| count * grid.tilted_variance(lambda, *here)).sum();
        let ends = grids.iter().map(|(grid, count)| (grid.ends().0 * count, grid.ends().1 * count));
        let (mut low, mut high) = ends.fold((0.0, 0.0), |sum, ends| (sum.0 + ends.0, sum.1 + ends.1));
        let gaussian = (-2.0 * LEFT_OUT.0 / variance).sqrt();
        for share in SHARES {
            let (s, before) = (gaussian * share, high - low);
            high = ((total(lambda + s) - LEFT_OUT.0) / s).min(high);
            low = ((LEFT_OUT.1 - total(lambda - s)) / s).max(low);
            if share < 0.1 && high - low >= before {
                break;
            }
        }
        Self { low, high: high.max(low), step: grids[0].0.step, log_moments }
    }

    /// How many points it has.
    pub(super) fn points(&self) -> f64 {
        (self.high - self.low) / self.step + 3.0
    }
}

/// The weighed distribution of the sum, read downwards from the top of the window.
pub(super) struct Composed {
    lambda: f64,
    step: f64,
    /// The lowest point, in steps.
    first: i64,
    /// ln E[exp(lambda sum)].
    log_moment: f64,
    /// Weighed mass of each point, rounded up.
    mass: Vec<f64>,
}

/// What lies above a point l: sums over the points above of weighed mass times exp(-lambda d), d the distance to l.
#[derive(Clone, Copy)]
struct Above {
    /// ... times 1 - exp(-d).
    excess: f64,
    /// ... times exp(-d).
    of_q: f64,
}

impl Composed {
    /// Convolves all of `grids`, each as often as it says.
    pub(super) fn of(grids: &[(Grid, f64)], window: &Window, lambda: f64) -> Self {
        let length = (window.points() as usize).next_power_of_two().max(2);
        let step = window.step;
        let first = (window.low / step).floor() as i64;
        let mut planner = FftPlanner::new();
        let (forward, backward) = (planner.plan_fft_forward(length), planner.plan_fft_inverse(length));
        let half = length / 2;
        let unit = f64::EPSILON / 2.0;
        let off = unit * (16.0 * f64::from(length.trailing_zeros()) + 16.0);
        let mut product = vec![Complex64::new(1.0, 0.0); half + 1];
        // The product of (|coefficient| + off)^count and the sum of count / (|coefficient| + off): its derivative.
        let mut bound = vec![(0.0_f64, 0.0_f64); half + 1];
        let mut buffer = vec![Complex64::default(); length];
        for ((grid, count), log_moment) in grids.iter().zip(&window.log_moments) {
            buffer.fill(Complex64::default());
            for (index, mass) in grid.tilted(lambda, *log_moment).enumerate() {
                let at = (grid.first + index as i64).rem_euclid(length as i64) as usize;
                buffer[at].re += mass;
            }
            forward.process(&mut buffer);
            for ((value, product), bound) in buffer.iter().zip(&mut product).zip(&mut bound) {
                let size = value.norm() + off;
                bound.0 += count * size.ln();
                bound.1 += count / size;
                *product *= if bound.0 < -200.0 { Complex64::default() } else { power(*value, *count as u64) };
            }
        }
        let error: f64 = bound.iter().map(|(log, slope)| libm::exp(*log) * slope * off + libm::exp(-200.0)).sum();
        // The coefficients of both halves, and the way back: as much again for every coefficient.
        let size: f64 = product.iter().map(|value| value.norm()).sum();
        let error = 2.0 * (error + size * off) / length as f64;
        buffer[..=half].copy_from_slice(&product);
        (half + 1..length).for_each(|index| buffer[index] = product[length - index].conj());
        backward.process(&mut buffer);
        let mass = (0..length as i64).map(|index| {
            let at = (first + index).rem_euclid(length as i64) as usize;
            (buffer[at].re / length as f64 + error).max(0.0)
        });
        let log_moment = grids.iter().zip(&window.log_moments).map(|((_, count), here)| count * here).sum();
        Self { lambda, step, first, log_moment, mass: mass.collect() }
    }

    fn loss(&self, index: usize) -> f64 {
        (self.first + index as i64) as f64 * self.step
    }

    /// exp of what turns weighed sums above point `index` into chances, as a logarithm, rounded up.
    fn log_scale(&self, index: usize) -> f64 {
        let weight = self.lambda * self.loss(index);
        self.log_moment - weight + 4.0 * f64::EPSILON * (self.log_moment.abs() + weight.abs())
    }

    /// What lies above the highest point, then above the one before, and so on.
    fn downwards(&self) -> impl Iterator<Item = (usize, Above)> {
        let (shrink, shrink_q) = (libm::exp(-self.lambda * self.step), libm::exp(-(self.lambda + 1.0) * self.step));
        let cell = -libm::expm1(-self.step);
        let beyond = Above { excess: libm::exp(LEFT_OUT.0), of_q: 0.0 };
        self.mass.iter().enumerate().rev().scan(beyond, move |above, (index, mass)| {
            let here = *above;
            let q = above.of_q + mass;
            *above = Above { excess: shrink * (above.excess + cell * q), of_q: shrink_q * q };
            Some((index, here))
        })
    }

    /// The smallest epsilon, not below 0, at which delta is at most `delta`; none if it lies above the window.
    pub(super) fn epsilon(&self, delta: f64) -> Option<f64> {
        for (index, above) in self.downwards() {
            let loss = self.loss(index);
            // delta(loss + e) = scale (excess - of_q (exp(e) - 1)) for e up to one step.
            let allowed = libm::exp(delta.ln() - self.log_scale(index));
            if above.excess > allowed {
                if index + 1 == self.mass.len() {
                    return None;
                }
                let further = libm::log1p((above.excess - allowed) / above.of_q).min(self.step);
                return Some((loss + further).max(0.0));
            }
            if loss <= 0.0 {
                return Some(0.0);
            }
        }
        // Already small enough at the lowest point.
        Some(self.loss(0))
    }

    /// delta at `epsilon`, at most 1.
    pub(super) fn delta(&self, epsilon: f64) -> f64 {
        let index = (epsilon / self.step).floor() - self.first as f64;
        if index < 0.0 {
            return 1.0;
        }
        let last = self.mass.len() - 1;
        let found = self.downwards().find(|(at, _)| *at as f64 <= index);
        let Some((at, above)) = found else { return 1.0 };
        let further = if at == last { 0.0 } else { (epsilon - self.loss(at)).max(0.0) };
        let excess = (above.excess - above.of_q * libm::expm1(further)).max(0.0);
        (libm::exp(self.log_scale(at)) * excess).min(1.0)
    }
}

/// `base` to the `exponent`, by squaring: relative error about `exponent` units in the last place.
fn power(base: Complex64, exponent: u64) -> Complex64 {
    let (mut result, mut square, mut rest) = (Complex64::new(1.0, 0.0), base, exponent);
    while rest > 0 {
        if rest & 1 == 1 {
            result *= square;
        }
        square *= square;
        rest >>= 1;
    }
    result
}
