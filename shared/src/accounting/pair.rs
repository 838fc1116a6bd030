//! The two distributions that a sampled Gaussian release makes hardest to tell apart, in one dimension.
//!
//! With noise of standard deviation sigma and sensitivity 1, and every unit present with chance q:
//!
//! * one unit removed: P = (1-q) N(0) + q N(1) against Q = N(0); added: the two exchanged
//!   (Zhu, Dong, Wang 2022, arXiv 2106.08567: they dominate, and compose direction by direction);
//! * one unit exchanged: P = (1-q) N(0) + q N(1) against Q = (1-q) N(0) + q N(-1);
//! * q = 1: N(1) against N(0), twice as far apart for replace-one.
//!
//! All four are `P = (1-a) N(0) + a N(1)` and `Q = (1-b) N(0) + b N(-1)`, mirrored where need be so that the loss
//! ln(P/Q) grows with x.

use super::{Adjacency, Releases, normal};

/// P = (1-a) N(0, sigma²) + a N(1, sigma²) against Q = (1-b) N(0, sigma²) + b N(-1, sigma²).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pair {
    a: f64,
    b: f64,
    pub(super) sigma: f64,
}

impl Pair {
    /// The pairs of all directions that `adjacency` has: the worst of them counts.
    pub(super) fn directions(releases: &Releases, adjacency: Adjacency) -> Vec<Self> {
        let (q, sigma) = (releases.sampling, releases.noise_multiplier);
        match adjacency {
            _ if q >= 1.0 => vec![Self { a: 1.0, b: 0.0, sigma: sigma / adjacency.factor() }],
            Adjacency::AddRemove => vec![Self { a: q, b: 0.0, sigma }, Self { a: 0.0, b: q, sigma }],
            Adjacency::ReplaceOne => vec![Self { a: q, b: q, sigma }],
        }
    }

    /// The share of Q that is shifted.
    #[cfg(test)]
    pub(super) fn b(&self) -> f64 {
        self.b
    }

    /// N(mu, 1) against N(0, 1), in units of mu.
    pub(super) fn gaussian(mu: f64) -> Self {
        Self { a: 1.0, b: 0.0, sigma: 1.0 / mu }
    }

    /// Whether it is a plain Gaussian, shifted by one.
    pub(super) fn is_gaussian(&self) -> bool {
        self.a >= 1.0 && self.b <= 0.0
    }

    /// ln(P/Q) at `x`.
    pub(super) fn loss(&self, x: f64) -> f64 {
        let variance = self.sigma * self.sigma;
        log_mixture(self.a, (x - 0.5) / variance) - log_mixture(self.b, -(x + 0.5) / variance)
    }

    /// The density of P at `x`.
    pub(super) fn density(&self, x: f64) -> f64 {
        let part = |weight: f64, centre: f64| {
            if weight <= 0.0 { 0.0 } else { weight * normal::density((x - centre) / self.sigma) / self.sigma }
        };
        part(1.0 - self.a, 0.0) + part(self.a, 1.0)
    }

    /// The logarithm of the density of Q at `x`; it does not underflow.
    pub(super) fn log_density_of_q(&self, x: f64) -> f64 {
        let variance = self.sigma * self.sigma;
        let plain = -x * x / (2.0 * variance) - (self.sigma * (2.0 * std::f64::consts::PI).sqrt()).ln();
        plain + log_mixture(self.b, -(x + 0.5) / variance)
    }

    /// How much of P lies above `x`.
    pub(super) fn above(&self, x: f64) -> f64 {
        (1.0 - self.a) * normal::above(x / self.sigma) + self.a * normal::above((x - 1.0) / self.sigma)
    }

    /// How much of P lies below `x`.
    pub(super) fn below(&self, x: f64) -> f64 {
        (1.0 - self.a) * normal::above(-x / self.sigma) + self.a * normal::above((1.0 - x) / self.sigma)
    }

    /// Points below and above which P has at most `low` and `high` of its mass.
    pub(super) fn range(&self, low: f64, high: f64) -> (f64, f64) {
        let centre = |present: bool| if present { 1.0 } else { 0.0 };
        let (first, last) = (centre(self.a >= 1.0), centre(self.a > 0.0));
        (first - self.sigma * normal::beyond(low), last + self.sigma * normal::beyond(high))
    }

    /// Where the loss is `loss`; infinite on the side where it never is.
    pub(super) fn at_loss(&self, loss: f64) -> f64 {
        let variance = self.sigma * self.sigma;
        match (self.a > 0.0, self.b > 0.0) {
            (true, true) => {
                // exp(x / variance) = exp(loss/2) v with v - 1/v = 2 (1-a)/a exp(1 / 2 variance) sinh(loss/2).
                let scale = ((1.0 - self.a) / self.a).ln() + 0.5 / variance;
                variance * (loss / 2.0 + asinh_of_scaled_sinh(scale, loss / 2.0))
            }
            (true, false) => 0.5 + variance * inverse_log_mixture(self.a, loss),
            _ => -0.5 - variance * inverse_log_mixture(self.b, -loss),
        }
    }
}

/// ln(1 - w + w e^t), to a few units in the last place of itself or of t.
fn log_mixture(w: f64, t: f64) -> f64 {
    if w <= 0.0 {
        return 0.0;
    }
    if w >= 1.0 {
        return t;
    }
    if t > 40.0 {
        return t + (w + (1.0 - w) * libm::exp(-t)).ln();
    }
    let more = w * libm::expm1(t);
    if more.abs() < 0.5 { libm::log1p(more) } else { ((1.0 - w) + w * libm::exp(t)).ln() }
}

/// The t with `log_mixture(w, t) = y`; minus infinity below the smallest value, ln(1 - w).
fn inverse_log_mixture(w: f64, y: f64) -> f64 {
    if w >= 1.0 {
        return y;
    }
    if y > 40.0 {
        return y - w.ln() + libm::log1p(-(1.0 - w) * libm::exp(-y));
    }
    if w > 0.5 {
        // Relative to the smallest value, near which 1 - w + w e^t is flat.
        let rise = libm::expm1(y - (1.0 - w).ln());
        return if rise <= 0.0 { f64::NEG_INFINITY } else { ((1.0 - w) / w).ln() + rise.ln() };
    }
    let more = libm::expm1(y) / w;
    if more <= -1.0 { f64::NEG_INFINITY } else { libm::log1p(more) }
}

/// asinh(e^scale sinh(y)) without overflow.
fn asinh_of_scaled_sinh(scale: f64, y: f64) -> f64 {
    // ln |sinh y| for large |y| is |y| - ln 2.
    let log = if y.abs() < 20.0 { libm::sinh(y.abs()).ln() } else { y.abs() - std::f64::consts::LN_2 } + scale;
    let value = if log < 20.0 { libm::asinh(libm::exp(log)) } else { log + std::f64::consts::LN_2 };
    value.copysign(y)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Vec<Pair> {
        let mut pairs = Vec::new();
        for q in [1e-6, 0.01, 0.3, 0.5, 0.9, 0.999_999, 1.0] {
            for sigma in [0.05, 0.3, 1.0, 20.0, 1000.0] {
                let releases = Releases::new(q, sigma, 1).expect("in range");
                pairs.extend(Pair::directions(&releases, Adjacency::AddRemove));
                pairs.extend(Pair::directions(&releases, Adjacency::ReplaceOne));
            }
        }
        pairs
    }

    #[test]
    fn the_loss_grows_and_is_the_ratio_of_the_densities() {
        for pair in examples() {
            let (low, high) = pair.range(1e-12, 1e-12);
            let mut last = f64::NEG_INFINITY;
            for step in 0..=200 {
                let x = low + (high - low) * f64::from(step) / 200.0;
                let loss = pair.loss(x);
                assert!(loss >= last, "{pair:?} at {x}");
                let by_densities = pair.density(x).ln() - pair.log_density_of_q(x);
                assert!((loss - by_densities).abs() < 1e-9 * (1.0 + loss.abs()) + 1e-12 * x.abs(), "{pair:?} at {x}");
                last = loss;
            }
        }
    }

    #[test]
    fn the_inverse_finds_the_loss_again() {
        for pair in examples() {
            let (low, high) = pair.range(1e-12, 1e-12);
            for step in 1..200 {
                let loss = pair.loss(low + (high - low) * f64::from(step) / 200.0);
                let again = pair.at_loss(loss);
                // Where the loss is flat, many points have it.
                let found = if again.is_finite() { pair.loss(again) } else { loss };
                assert!((found - loss).abs() <= 1e-13 * (1.0 + 1.0 / pair.sigma.powi(2)), "{pair:?} {loss} {found}");
            }
        }
    }
}
