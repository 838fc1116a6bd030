//! The other way round: how much noise an epsilon takes.

use super::{Adjacency, Failed, LARGEST_MULTIPLIER, Releases, Rho, SMALLEST_MULTIPLIER, check_delta, pld, rdp};

/// Which accountant is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accountant {
    /// Zero-concentrated differential privacy: what the ledger charges. Full participation alone.
    Zcdp,
    /// Renyi differential privacy.
    Rdp,
    /// Privacy loss distributions.
    Pld,
}

impl Accountant {
    /// Epsilon of `releases` at `delta`, from above.
    ///
    /// # Privacy
    /// Neighbours: `adjacency`. See [`Rho::epsilon`], [`rdp::epsilon`], [`pld::epsilon`].
    ///
    /// # Errors
    /// If `delta` is out of range, or zCDP is asked about units that take part by chance.
    pub fn epsilon(self, releases: &Releases, delta: f64, adjacency: Adjacency) -> Result<f64, Failed> {
        match self {
            Accountant::Zcdp if releases.sampling < 1.0 => Err(Failed::Sampled),
            Accountant::Zcdp => {
                check_delta(delta)?;
                let rho = Rho::of_gaussian(releases.noise_multiplier, releases.count);
                Ok(rho.map_or(f64::INFINITY, |rho| rho.epsilon(delta, adjacency)))
            }
            Accountant::Rdp => rdp::epsilon(&[*releases], delta, adjacency).map(|found| found.epsilon),
            Accountant::Pld => pld::epsilon(&[*releases], delta, adjacency),
        }
    }
}

/// How exact the answer is, relatively.
const EXACT: f64 = 1e-7;

/// The smallest noise multiplier with which `count` releases cost at most `epsilon` at `delta`, as `accountant` reckons;
/// rounded up by at most a relative 1e-7, and never below [`SMALLEST_MULTIPLIER`].
///
/// # Privacy
/// The accountant confirms the answer: it is never too small.
///
/// # Errors
/// If a figure is out of range, or no multiplier is large enough.
pub fn smallest_noise_multiplier(
    accountant: Accountant,
    (epsilon, delta): (f64, f64),
    count: u64,
    sampling: f64,
    adjacency: Adjacency,
) -> Result<f64, Failed> {
    let cost = |of: Accountant, multiplier| of.epsilon(&Releases::new(sampling, multiplier, count)?, delta, adjacency);
    // The cheaper accountant is above, so what is enough for it is enough.
    let cheap = if accountant == Accountant::Pld { Accountant::Rdp } else { accountant };
    smallest(epsilon, |multiplier| cost(cheap, multiplier), |multiplier| cost(accountant, multiplier))
}

/// The smallest noise multiplier whose `cost` is at most `epsilon`; `above` is nowhere below `cost`.
pub(super) fn smallest(
    epsilon: f64,
    above: impl Fn(f64) -> Result<f64, Failed>,
    cost: impl Fn(f64) -> Result<f64, Failed>,
) -> Result<f64, Failed> {
    if !(epsilon > 0.0 && epsilon <= 1e9) {
        return Err(Failed::Epsilon(epsilon));
    }
    let mut high = 1.0;
    while above(high)? > epsilon {
        if high >= LARGEST_MULTIPLIER {
            return Err(Failed::OutOfReach(epsilon));
        }
        high = (high * 2.0).min(LARGEST_MULTIPLIER);
    }
    let mut low = high / 2.0;
    while cost(low)? <= epsilon {
        if low <= SMALLEST_MULTIPLIER {
            return Ok(SMALLEST_MULTIPLIER);
        }
        (low, high) = ((low / 2.0).max(SMALLEST_MULTIPLIER), low);
    }
    between(|multiplier| Ok(cost(multiplier)? / epsilon), low, high)
}

/// Where `cost` falls to 1 between `low`, where it is above, and `high`, where it is not: false position on logarithms
/// (Illinois), and bisection wherever that has no number or is slow.
fn between(cost: impl Fn(f64) -> Result<f64, Failed>, low: f64, high: f64) -> Result<f64, Failed> {
    let (mut low, mut high) = (low.ln(), high.ln());
    let (mut above, mut below) = (cost(low.exp())?.ln(), cost(high.exp())?.ln());
    // The end itself may be off by rounding; it is confirmed before it is answered.
    let mut answer = high.exp();
    for round in 1..200 {
        if high - low < EXACT {
            break;
        }
        let guess = low + (high - low) * above / (above - below);
        let middle = low + (high - low) / 2.0;
        let margin = 0.4 * EXACT;
        let next = if guess.is_finite() && round % 4 != 0 { guess.clamp(low + margin, high - margin) } else { middle };
        let found = cost(next.exp())?;
        if found <= 1.0 {
            (high, below, answer) = (next, found.ln(), next.exp());
            above /= 2.0;
        } else {
            (low, above) = (next, found.ln());
            below /= 2.0;
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_planning_table_of_the_specification_is_met() {
        // spec/privacy.md, section 14: z for epsilon 8 and 3 at 1e-5, exact Gaussian, two decimals, up to 0.02 too large.
        for (count, eight, three) in [(20, 2.68, 6.22), (40, 3.80, 8.79), (60, 4.65, 10.77), (100, 6.00, 13.91)] {
            for (epsilon, expected) in [(8.0, eight), (3.0, three)] {
                let ask = |accountant| {
                    smallest_noise_multiplier(accountant, (epsilon, 1e-5), count, 1.0, Adjacency::AddRemove)
                };
                let found = ask(Accountant::Pld).expect("in reach");
                let mu = |z: f64| (count as f64).sqrt() / z;
                let exact = super::super::gdp::epsilon(mu(found), 1e-5).expect("a delta");
                assert!(exact <= epsilon && exact > epsilon * (1.0 - 3e-6), "{count}: {found} gives {exact}");
                assert!((found - expected).abs() < 0.02, "{count} {epsilon}: {found}");
                let (rdp, zcdp) = (ask(Accountant::Rdp).expect("in reach"), ask(Accountant::Zcdp).expect("in reach"));
                assert!(found < rdp && found < zcdp && rdp < found * 1.1, "{found} {rdp} {zcdp}");
            }
        }
    }

    #[test]
    fn a_sampled_answer_is_enough_and_a_little_less_is_not() {
        for adjacency in [Adjacency::AddRemove, Adjacency::ReplaceOne] {
            for accountant in [Accountant::Rdp, Accountant::Pld] {
                let found = smallest_noise_multiplier(accountant, (2.0, 1e-5), 300, 0.1, adjacency).expect("in reach");
                let cost = |z| accountant.epsilon(&Releases::new(0.1, z, 300).expect("in range"), 1e-5, adjacency);
                assert!(cost(found).expect("a figure") <= 2.0);
                assert!(cost(found * (1.0 - 1e-5)).expect("a figure") > 2.0);
            }
        }
    }

    #[test]
    fn what_cannot_be_had_is_said() {
        let ask = |epsilon, delta, count, sampling| {
            smallest_noise_multiplier(Accountant::Zcdp, (epsilon, delta), count, sampling, Adjacency::AddRemove)
        };
        assert_eq!(ask(1.0, 1e-5, 10, 0.5), Err(Failed::Sampled));
        assert_eq!(ask(0.0, 1e-5, 10, 1.0), Err(Failed::Epsilon(0.0)));
        assert!(ask(f64::NAN, 1e-5, 10, 1.0).is_err() && ask(1.0, 0.0, 10, 1.0).is_err());
        assert_eq!(ask(1e-9, 1e-100, 1_000_000_000, 1.0), Err(Failed::OutOfReach(1e-9)));
        assert_eq!(ask(1e9, 0.5, 1, 1.0), Ok(SMALLEST_MULTIPLIER));
    }
}
