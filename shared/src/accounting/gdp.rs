//! Gaussian differential privacy: what Gaussian releases with full participation cost exactly, in closed form
//! (Balle, Wang 2018, arXiv 1805.06530, theorem 8; Dong, Roth, Su 2019, arXiv 1905.02383).
//!
//! It is for the continuous Gaussian, and stands beside the other accountants as a check on them.

use super::{Adjacency, Failed, Releases, check_delta, normal};

/// mu of everything in `releases` together: neighbours look like N(0, 1) and N(mu, 1).
///
/// # Errors
/// If a unit does not take part in every release.
pub fn mu(releases: &[Releases], adjacency: Adjacency) -> Result<f64, Failed> {
    let mut square = 0.0;
    for some in releases {
        if some.sampling < 1.0 {
            return Err(Failed::Sampled);
        }
        square += some.count as f64 / (some.noise_multiplier * some.noise_multiplier);
    }
    Ok(square.sqrt() * adjacency.factor())
}

/// The smallest delta at `epsilon` of neighbours that look like N(0, 1) and N(mu, 1).
///
/// # Privacy
/// delta = Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu), exact to rounding.
pub fn delta(mu: f64, epsilon: f64) -> f64 {
    if mu <= 0.0 {
        return 0.0;
    }
    // e^epsilon phi(far) = phi(near), so no power of e overflows.
    let (near, far) = (epsilon / mu - mu / 2.0, epsilon / mu + mu / 2.0);
    if near > 0.0 {
        normal::density(near) * (normal::mills(near) - normal::mills(far))
    } else {
        normal::above(near) - normal::density(near) * normal::mills(far)
    }
}

/// How often somebody who sees everything, and knows everything but whether one unit took part, guesses that rightly at
/// best, both being equally likely: 0.5 for a coin, 1 without protection. For neighbours that look like N(0, 1) and
/// N(mu, 1) it is (1 + total variation) / 2 = Phi(mu/2).
pub fn best_guess(mu: f64) -> f64 {
    0.5 + delta(mu, 0.0) / 2.0
}

/// The smallest epsilon at `delta` of neighbours that look like N(0, 1) and N(mu, 1), rounded up.
///
/// # Errors
/// If `delta` is not between 0 and 1.
pub fn epsilon(mu: f64, delta: f64) -> Result<f64, Failed> {
    check_delta(delta)?;
    let enough = |epsilon: f64| self::delta(mu, epsilon) <= delta;
    if enough(0.0) {
        return Ok(0.0);
    }
    // Above(near) alone is at most delta from here on.
    let (mut low, mut high) = (0.0, mu * (mu / 2.0 + normal::beyond(delta)));
    while high - low > f64::EPSILON * high {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            break;
        }
        if enough(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok(high * (1.0 + 1e-12))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = include_str!("../../../tests/fixtures/privacy/dp_reference_extra.csv");

    #[test]
    fn the_best_guess_is_that_of_two_normals() {
        // Phi(0.5) and Phi(1), Abramowitz and Stegun, table 26.1.
        for (mu, expected) in [(0.0, 0.5), (1.0, 0.691_462_461_274), (2.0, 0.841_344_746_069), (60.0, 1.0)] {
            assert!((best_guess(mu) - expected).abs() < 1e-11, "{mu}: {}", best_guess(mu));
        }
    }

    #[test]
    fn the_reference_table_is_met() {
        let mut rows = 0;
        for line in TABLE.lines().skip(1) {
            let field: Vec<&str> = line.split(',').collect();
            let number = |index: usize| field[index].parse::<f64>().expect("a number");
            let adjacency = if field[1] == "replace_one" { Adjacency::ReplaceOne } else { Adjacency::AddRemove };
            let releases = [Releases::new(1.0, number(3), number(4) as u64).expect("in range")];
            let mu = mu(&releases, adjacency).expect("full participation");
            assert!((mu - number(10)).abs() < 1e-11, "{line}");
            let epsilon = epsilon(mu, number(5)).expect("a delta");
            assert!((epsilon - number(9)).abs() < 1e-6, "{line}: {epsilon}");
            assert!((delta(mu, epsilon) / number(5) - 1.0).abs() < 1e-9, "{line}");
            rows += 1;
        }
        assert_eq!(rows, 16);
    }

    #[test]
    fn the_closed_form_is_the_integral() {
        // delta = integral of (N(mu,1) - e^epsilon N(0,1)) where that is positive, by the trapezoid rule.
        for (mu, at) in [(0.01, 0.005), (1.0, 3.0), (4.0, 12.0), (60.0, 2000.0)] {
            let start = at / mu + mu / 2.0;
            let step = 1e-4;
            let part = |x: f64| normal::density(x - mu) * -libm::expm1(at - mu * x + mu * mu / 2.0);
            let sum: f64 = (1..400_000).map(|index| part(start + step * f64::from(index))).sum::<f64>() * step;
            let found = delta(mu, at);
            assert!((found / sum - 1.0).abs() < 1e-6, "{mu} {at}: {found} {sum}");
        }
    }

    #[test]
    fn extremes_stay_numbers() {
        for mu in [1e-9, 1e-3, 1.0, 3333.0, 1e6] {
            for delta in [0.5, 1e-5, 1e-100] {
                let epsilon = epsilon(mu, delta).expect("a delta");
                assert!(epsilon.is_finite() && epsilon >= 0.0, "{mu} {delta}: {epsilon}");
            }
        }
        assert_eq!(epsilon(0.0, 1e-5).expect("a delta"), 0.0);
        assert!(epsilon(1.0, 0.0).is_err() && epsilon(1.0, f64::NAN).is_err());
    }
}
