//! ln E_Q[(P/Q)^alpha] of a dominating pair, from above: what Renyi differential privacy and every Chernoff bound need.
//!
//! * Whole orders of the sampled Gaussian, one unit removed: the closed form of Mironov, Talwar, Zhang 2019
//!   (arXiv 1908.10530, section 3.3). There, theorem 5, it is also shown that removing costs no less than adding.
//! * All others: the trapezoid rule, which converges exponentially here, because the integrand is analytic in a strip.
//!
//! Both compute E - 1 from terms that are all positive, so that a release which costs almost nothing keeps its digits.

use super::pair::Pair;

/// By how much, relatively, a quadrature is rounded up: its error (below) and the rounding of its sums.
const QUADRATURE: f64 = 1e-11;

/// By how much, relatively, a closed form is rounded up.
pub(super) const CLOSED_FORM: f64 = 1e-12;

/// Terms below e^-60 of the largest are left out.
const NEGLIGIBLE: f64 = 60.0;

/// ln E_Q[(P/Q)^alpha] for `alpha` above 1, rounded up; infinite where it is no number.
pub(super) fn log_moment(pair: &Pair, alpha: f64) -> f64 {
    if pair.is_gaussian() {
        return alpha * (alpha - 1.0) / (2.0 * pair.sigma * pair.sigma) * (1.0 + CLOSED_FORM);
    }
    let found = softplus(log_quadrature(pair, alpha)) * (1.0 + QUADRATURE);
    // What has no proof must never look free.
    if found.is_nan() { f64::INFINITY } else { found }
}

/// [`log_moment`] of whole orders at least 2, for a unit that takes part with chance `q` below 1 and is removed:
/// the sum over i of C(alpha, i) q^i (1-q)^(alpha-i) (exp((i² - i) / 2 sigma²) - 1), plus 1.
pub(super) fn log_moment_of_whole_order(q: f64, sigma: f64, alpha: u32) -> f64 {
    // The terms for 0 and 1 are 0. The binomial factor is held as mantissa * 2^exponent, so that nothing underflows.
    let odds = q / (1.0 - q);
    let mut log_binomial = Scaled::power(1.0 - q, alpha);
    let mut terms = Vec::with_capacity(alpha as usize);
    for i in 1..=alpha {
        log_binomial.times(f64::from(alpha - i + 1) / f64::from(i) * odds);
        let exponent = f64::from(i) * (f64::from(i) - 1.0) / (2.0 * sigma * sigma);
        if i > 1 {
            terms.push(log_binomial.ln() + log_expm1(exponent));
        }
    }
    softplus(log_sum(&terms)) * (1.0 + CLOSED_FORM)
}

/// A positive number with a wide exponent.
pub(super) struct Scaled {
    mantissa: f64,
    exponent: i64,
}

impl Scaled {
    pub(super) fn power(base: f64, times: u32) -> Self {
        let mut power = Self { mantissa: 1.0, exponent: 0 };
        (0..times).for_each(|_| power.times(base));
        power
    }

    pub(super) fn times(&mut self, factor: f64) {
        let (mantissa, exponent) = libm::frexp(self.mantissa * factor);
        self.mantissa = mantissa;
        self.exponent += i64::from(exponent);
    }

    pub(super) fn ln(&self) -> f64 {
        self.mantissa.ln() + self.exponent as f64 * std::f64::consts::LN_2
    }
}

/// ln E_Q[g(P/Q)] with g(r) = r^alpha - 1 - alpha (r - 1), which is nowhere negative and has the same mean as
/// r^alpha - 1.
///
/// # Error
/// r is free of zeros for |Im x| < pi sigma², so f is analytic there, and on the line Im x = y = theta sigma² it is at
/// most exp(y² / 2 sigma²) cos(theta/2)^-alpha times what it is on the real line. The rule with step s is then wrong by
/// at most 2 exp(y² / 2 sigma² + alpha theta² / 8 - 2 pi y / s), relatively, for any such y; the steps below make that
/// less than 1e-20.
fn log_quadrature(pair: &Pair, alpha: f64) -> f64 {
    let sigma = pair.sigma;
    let variance = sigma * sigma;
    let coarse = sigma / 2.0;
    let fine = coarse.min(variance / 8.0).min(1.1 * variance / alpha.sqrt());
    let parts = (coarse / fine).ceil().max(1.0);
    let step = coarse / parts;
    // Between the centres of Q, -1 and 0, and those of P^alpha Q^(1-alpha), up to 2 alpha - 1, and 14 standard deviations
    // (e^-98) beyond.
    let first = -((1.0 + 14.0 * sigma) / coarse).ceil();
    let cells = ((2.0 * alpha + 1.0 + 28.0 * sigma) / coarse).ceil() as u64 + 1;
    let value = |x: f64| pair.log_density_of_q(x) + log_excess(pair.loss(x), alpha);
    let edge = |cell: u64| coarse * (first + cell as f64);
    let edges: Vec<f64> = (0..=cells).map(|cell| value(edge(cell))).collect();
    let top = edges.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // Between two edges the logarithm rises above both by at most 1/32 (its curvature is at least -1 / sigma²).
    let kept = |cell: u64| edges[cell as usize].max(edges[cell as usize + 1]) > top - NEGLIGIBLE;
    let parts = parts as u64;
    let mut sum = 0.0;
    for cell in (0..cells).filter(|cell| kept(*cell)) {
        sum += libm::exp(edges[cell as usize] - top);
        sum += (1..parts).map(|part| libm::exp(value(edge(cell) + step * part as f64) - top)).sum::<f64>();
    }
    top + (sum * step).ln()
}

/// ln(e^(alpha y) - 1 - alpha (e^y - 1)).
fn log_excess(y: f64, alpha: f64) -> f64 {
    let raised = alpha * y;
    if raised.abs() < 0.5 && y.abs() < 0.5 {
        // The series: sum over k from 2 of (alpha^k - alpha) y^k / k!, of which the 20th term is below 1e-24 of the first.
        let (mut power, mut plain, mut sum) = (raised, raised, 0.0);
        for k in 2..=20 {
            power *= raised / f64::from(k);
            plain *= y / f64::from(k);
            sum += power - plain;
        }
        return sum.max(0.0).ln();
    }
    if raised > 30.0 {
        return raised + libm::log1p((alpha - 1.0) * libm::exp(-raised) - alpha * libm::exp(y - raised));
    }
    (libm::expm1(raised) - alpha * libm::expm1(y)).max(0.0).ln()
}

/// ln(e^x - 1) for positive `x`.
pub(super) fn log_expm1(x: f64) -> f64 {
    if x > 1.0 { x + libm::log1p(-libm::exp(-x)) } else { libm::expm1(x).ln() }
}

/// ln(1 + e^x).
pub(super) fn softplus(x: f64) -> f64 {
    if x > 0.0 { x + libm::log1p(libm::exp(-x)) } else { libm::log1p(libm::exp(x)) }
}

/// ln of the sum of e^term.
pub(super) fn log_sum(terms: &[f64]) -> f64 {
    let top = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    top + terms.iter().map(|term| libm::exp(term - top)).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounting::{Adjacency, Releases};

    #[test]
    fn quadrature_and_closed_form_agree() {
        for q in [1e-5, 0.01, 0.2, 0.5, 0.97] {
            for sigma in [0.3, 0.8, 1.0, 4.0, 30.0, 1000.0] {
                let releases = Releases::new(q, sigma, 1).expect("in range");
                let pair = Pair::directions(&releases, Adjacency::AddRemove)[0];
                for alpha in [2, 3, 4, 8, 17, 64, 256] {
                    let closed = log_moment_of_whole_order(q, sigma, alpha);
                    let found = log_moment(&pair, f64::from(alpha));
                    assert!((found / closed - 1.0).abs() < 5e-11, "{q} {sigma} {alpha}: {found} {closed}");
                }
            }
        }
    }

    #[test]
    fn order_two_is_what_the_integral_says() {
        // E_Q[(P/Q)²] = 1 + q² (exp(1 / sigma²) - 1).
        for (q, sigma) in [(0.05, 1.0), (0.5, 4.0), (1e-4, 0.5)] {
            let exact = libm::log1p(q * q * libm::expm1(1.0 / (sigma * sigma)));
            let found = log_moment_of_whole_order(q, sigma, 2);
            assert!(found >= exact && found < exact * (1.0 + 2e-12), "{found} {exact}");
        }
    }

    #[test]
    fn full_participation_is_the_limit_of_sampling() {
        let near = Releases::new(1.0 - 1e-12, 2.0, 1).expect("in range");
        for adjacency in [Adjacency::AddRemove, Adjacency::ReplaceOne] {
            let exact = Pair::directions(&Releases::new(1.0, 2.0, 1).expect("in range"), adjacency)[0];
            for pair in Pair::directions(&near, adjacency) {
                for alpha in [1.5, 2.0, 3.3] {
                    let (limit, found) = (log_moment(&exact, alpha), log_moment(&pair, alpha));
                    assert!((found / limit - 1.0).abs() < 1e-7, "{adjacency:?} {alpha}: {found} {limit}");
                }
            }
        }
    }
}
