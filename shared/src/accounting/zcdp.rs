//! Zero-concentrated differential privacy (zCDP): what the ledger charges, from integers alone.
//!
//! Every hospital takes part in every round with all its patients (q = 1), so the multivariate discrete Gaussian is
//! exactly rho-zCDP with rho = sensitivity² / (2 sigma²), and rhos add up (Canonne, Kamath, Steinke 2020,
//! arXiv 2004.00010: theorem 14 and lemma on composition). This is a complete proof for the noise that is drawn; the
//! other accountants are for the continuous Gaussian (spec/privacy.md, 7.1).

use super::Adjacency;

/// A zCDP cost of the add/remove relation. Sums round up.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Default)]
pub struct Rho(f64);

impl Rho {
    /// The cost of one discrete Gaussian release of integers.
    ///
    /// # Privacy
    /// Neighbours: one unit's contribution zeroed out; L2 sensitivity `sensitivity`, noise scale `sigma`, both in grid
    /// units. Guarantee: rho-zCDP with rho = sensitivity² / (2 sigma²) (CKS20, theorem 14), rounded up.
    pub fn of_release(sensitivity: u64, sigma: u64) -> Self {
        let ratio = sensitivity as f64 / sigma as f64;
        Self((ratio * ratio / 2.0).next_up().next_up().next_up())
    }

    /// The cost of `steps` Gaussian releases whose noise has `noise_multiplier` times the L2 sensitivity of the
    /// add/remove relation as its standard deviation; none unless that is positive and the cost finite.
    ///
    /// # Privacy
    /// rho = steps / (2 noise_multiplier²), rounded up. For what-if questions with a real-valued multiplier; a release of
    /// this system is charged by its integers with [`Rho::of_release`], which is at most this for a plan's multiplier.
    pub fn of_gaussian(noise_multiplier: f64, steps: u64) -> Option<Self> {
        let one = 0.5 / noise_multiplier / noise_multiplier;
        let rho = (one.next_up().next_up().next_up() * (steps as f64).next_up()).next_up();
        (noise_multiplier > 0.0).then_some(rho).and_then(Self::from_value)
    }

    /// A recorded cost.
    pub fn from_value(value: f64) -> Option<Self> {
        (value.is_finite() && value >= 0.0).then_some(Self(value))
    }

    /// The number.
    pub fn value(self) -> f64 {
        self.0
    }

    /// Both costs together, rounded up.
    #[must_use]
    pub fn plus(self, other: Rho) -> Self {
        match (self.0, other.0) {
            (0.0, rest) | (rest, 0.0) => Self(rest),
            (one, two) => Self((one + two).next_up()),
        }
    }

    /// The smallest epsilon that this cost gives at `delta`.
    ///
    /// # Privacy
    /// `adjacency` doubles the sensitivity for replace-one, so rho grows fourfold. The conversion is proposition 12 of
    /// CKS20: delta = inf over alpha > 1 of exp((alpha-1)(alpha rho - epsilon)) / (alpha-1) * (1 - 1/alpha)^alpha;
    /// every alpha is a proof, so a coarse minimum is an answer that is too large, never one that is too small.
    pub fn epsilon(self, delta: f64, adjacency: Adjacency) -> f64 {
        epsilon_cks20(self.0 * adjacency.factor() * adjacency.factor(), delta)
    }
}

/// Epsilon of rho-zCDP at `delta`, minimised over alpha (a unimodal function of ln(alpha - 1)) by golden section.
fn epsilon_cks20(rho: f64, delta: f64) -> f64 {
    // Also where a figure is NaN: what has no proof must never look free.
    if !(rho >= 0.0 && delta > 0.0 && delta < 1.0) {
        return f64::INFINITY;
    }
    if rho <= 0.0 {
        return 0.0;
    }
    let at = |t: f64| {
        let above = t.exp();
        let alpha = 1.0 + above;
        alpha * rho + (-delta.ln() - above.ln() + alpha * (-1.0 / alpha).ln_1p()) / above
    };
    let (mut low, mut high) = (-20.0_f64, 25.0_f64);
    let golden = (5.0_f64.sqrt() - 1.0) / 2.0;
    for _ in 0..200 {
        let (left, right) = (high - golden * (high - low), low + golden * (high - low));
        if at(left) < at(right) {
            high = right;
        } else {
            low = left;
        }
    }
    let found = at((low + high) / 2.0);
    (found + found.abs() * 1e-12).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Rows of `reference/privacy/dp_reference_extra.csv`: sigma, steps, delta, rho, epsilon by CKS20 (dp-accounting 0.6.0).
    const REFERENCE: &str = include_str!("../../../tests/fixtures/privacy/dp_reference_extra.csv");

    #[test]
    fn epsilon_agrees_with_the_reference_table() {
        let mut rows = 0;
        for line in REFERENCE.lines().skip(1) {
            let field: Vec<&str> = line.split(',').collect();
            let number = |index: usize| field[index].parse::<f64>().expect("a number");
            let adjacency = if field[1] == "replace_one" { Adjacency::ReplaceOne } else { Adjacency::AddRemove };
            let (sigma, steps, delta, expected) = (number(3), number(4), number(5), number(8));
            let rho = Rho(steps / (2.0 * sigma * sigma));
            let epsilon = rho.epsilon(delta, adjacency);
            assert!((epsilon - expected).abs() < 2e-6, "{line}: {epsilon}");
            assert!(epsilon > number(9), "never below the exact value: {line}");
            rows += 1;
        }
        assert_eq!(rows, 16);
    }

    #[test]
    fn one_release_of_the_integer_mechanism_costs_half_the_squared_ratio() {
        let rho = Rho::of_release(1 << 18, 1 << 20).value();
        assert!((rho - 0.03125).abs() < 1e-15 && rho >= 0.03125);
    }

    #[test]
    fn a_real_noise_multiplier_costs_what_the_integers_cost_and_nonsense_has_no_cost() {
        let (real, integers) = (Rho::of_gaussian(4.0, 1).expect("positive"), Rho::of_release(1 << 18, 1 << 20));
        assert!((real.value() - integers.value()).abs() < 1e-15 && real.value() >= 0.03125);
        assert!(Rho::of_gaussian(3.0, 7).expect("positive").value() >= 7.0 / 18.0);
        assert_eq!(Rho::of_gaussian(1.0, 0).map(|rho| rho.value() < 1e-300), Some(true));
        for nonsense in [0.0, -1.0, f64::NAN, 1e-200] {
            assert_eq!(Rho::of_gaussian(nonsense, 1), None);
        }
    }

    #[test]
    fn what_has_no_proof_is_never_free() {
        let rho = Rho(0.5);
        for delta in [f64::NAN, -1.0, 0.0, 1.0, 5.0] {
            assert_eq!(rho.epsilon(delta, Adjacency::AddRemove), f64::INFINITY, "{delta}");
        }
        assert_eq!(Rho(f64::NAN).epsilon(1e-5, Adjacency::AddRemove), f64::INFINITY);
    }

    proptest! {
        #[test]
        fn sums_never_round_down_and_epsilon_grows(parts in proptest::collection::vec(1e-6_f64..0.5, 1..40)) {
            let mut total = Rho::default();
            for part in &parts {
                let before = total.epsilon(1e-5, Adjacency::AddRemove);
                total = total.plus(Rho(*part));
                prop_assert!(total.epsilon(1e-5, Adjacency::AddRemove) >= before);
            }
            prop_assert!(total.value() >= parts.iter().sum::<f64>() * (1.0 - 1e-12));
            prop_assert!(total.epsilon(1e-5, Adjacency::ReplaceOne) > total.epsilon(1e-5, Adjacency::AddRemove));
        }
    }
}
