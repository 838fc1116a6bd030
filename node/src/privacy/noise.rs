//! The doorkeeper of opendp: an exact discrete Gaussian on the integers, and opendp's own word on what it costs.
//!
//! # Where the random bits come from
//! opendp without OpenSSL draws them from rand 0.7's `thread_rng`: ChaCha20, seeded with 32 bytes of the operating
//! system when a thread first asks, and again after every 64 KiB. opendp calls that source non-secure, because a generator
//! that lives long in memory may be copied with the memory (a fork, a restored snapshot of a virtual machine) and would
//! then give the same noise to two different releases, whose difference is the bare difference of the data. So every draw
//! runs in threads that are started for it and end with it: each begins with fresh bytes from the system, after RESERVE is
//! on disk, and no state of a generator outlives a release. What this does not give, compared with section 9 of
//! spec/privacy.md: the key is not bound to the record by HKDF, its memory is not wiped, and a snapshot taken *during* the
//! fraction of a second of a draw can still repeat what had been drawn up to then or up to the next 64 KiB.
//!
//! The time that a draw takes depends on what is drawn, so it is drawn before any contribution is looked at.

use std::{num::NonZero, thread};

use opendp::{
    core::Measurement, domains::AtomDomain, domains::VectorDomain, measurements::make_gaussian,
    measures::ZeroConcentratedDivergence, metrics::L2Distance,
};
use semisam_shared::accounting::Rho;
use zeroize::Zeroizing;

/// What the COMMIT record says about the noise.
pub const SOURCE: &str =
    "opendp 0.16.0 discrete Gaussian; ChaCha20 keyed by the operating system for this release alone";

/// How many coordinates are drawn at once: opendp keeps about 46 bytes for each.
const CHUNK: usize = 16_384;

/// How much our cost may exceed opendp's.
const AGREEMENT: f64 = 1e-6;

/// Noise cannot be drawn.
#[derive(Debug, thiserror::Error)]
pub enum NoiseError {
    /// opendp says no.
    #[error("opendp cannot draw this noise: {0}")]
    OpenDp(String),
    /// The two accountants differ.
    #[error("opendp charges rho {theirs} for a release that our accountant charges {ours}: do not release")]
    Cost {
        /// opendp's cost.
        theirs: f64,
        /// Ours.
        ours: f64,
    },
    /// A thread ended early, which is how rand reports that the system gave no entropy.
    #[error("the operating system gave no random bytes")]
    Entropy,
}

type Gaussian = Measurement<VectorDomain<AtomDomain<i64>>, L2Distance<f64>, ZeroConcentratedDivergence, Vec<i64>>;

fn gaussian(size: Option<usize>, sigma: u64) -> Result<Gaussian, NoiseError> {
    let domain = VectorDomain::new(AtomDomain::<i64>::default());
    let domain = match size {
        Some(size) => domain.with_size(size),
        None => domain,
    };
    make_gaussian(domain, L2Distance::default(), sigma as f64, None).map_err(refused)
}

fn refused(error: opendp::error::Error) -> NoiseError {
    NoiseError::OpenDp(error.to_string())
}

/// What opendp charges for one release of `coordinates` integers: its privacy map, evaluated once at full size.
///
/// # Privacy
/// Neighbours at L2 distance `sensitivity`; rho-zCDP.
///
/// # Errors
/// If opendp does not know, or its cost is above ours or more than a millionth below it.
pub fn check_cost(coordinates: usize, sensitivity: u64, sigma: u64) -> Result<Rho, NoiseError> {
    let ours = Rho::of_release(sensitivity, sigma);
    let theirs = gaussian(Some(coordinates), sigma)?.map(&(sensitivity as f64)).map_err(refused)?;
    if theirs <= ours.value() && ours.value() <= theirs * (1.0 + AGREEMENT) {
        return Ok(ours);
    }
    Err(NoiseError::Cost { theirs, ours: ours.value() })
}

/// `coordinates` independent draws of the discrete Gaussian with scale `sigma`.
///
/// # Privacy
/// Added to integers of L2 sensitivity s, the result is (s² / 2 sigma²)-zCDP, whatever the number of coordinates and
/// however they are split for drawing, since they are independent (Canonne, Kamath, Steinke 2020, theorem 14). The
/// answer is drawn on zeros, so it depends on no data.
///
/// # Errors
/// If opendp or the operating system fails.
pub fn draw(coordinates: usize, sigma: u64) -> Result<Zeroizing<Vec<i64>>, NoiseError> {
    let mut noise = Zeroizing::new(vec![0; coordinates]);
    let workers = thread::available_parallelism().map_or(1, NonZero::get).min(coordinates.div_ceil(CHUNK)).max(1);
    let share = coordinates.div_ceil(workers).max(1);
    thread::scope(|scope| {
        let threads: Vec<_> = noise.chunks_mut(share).map(|part| scope.spawn(move || fill(part, sigma))).collect();
        // Every thread is joined before the first failure is reported.
        let ended: Vec<_> =
            threads.into_iter().map(|thread| thread.join().unwrap_or(Err(NoiseError::Entropy))).collect();
        ended.into_iter().collect::<Result<(), NoiseError>>()
    })?;
    Ok(noise)
}

fn fill(part: &mut [i64], sigma: u64) -> Result<(), NoiseError> {
    let measurement = gaussian(None, sigma)?;
    for chunk in part.chunks_mut(CHUNK) {
        let drawn = Zeroizing::new(measurement.invoke(&vec![0; chunk.len()]).map_err(refused)?);
        if drawn.len() != chunk.len() {
            return Err(NoiseError::OpenDp(format!("{} draws instead of {}", drawn.len(), chunk.len())));
        }
        chunk.copy_from_slice(&drawn);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use semisam_shared::plan::SIGMA;

    #[test]
    fn both_accountants_charge_the_same() {
        for sensitivity in [1, 104, 349_525, 1 << 18, 1 << 20, 10_485_760] {
            for coordinates in [1, 32, 1_000_000] {
                let ours = check_cost(coordinates, sensitivity, SIGMA).expect("agreement").value();
                let exact = (sensitivity as f64 / SIGMA as f64).powi(2) / 2.0;
                assert!(ours >= exact && ours <= exact * (1.0 + 1e-12), "{sensitivity}: {ours}");
            }
        }
        let rho = check_cost(10_000, 1 << 18, SIGMA).expect("agreement").value();
        assert!((rho - 0.03125).abs() < 1e-12, "no rounding term for integers: {rho}");
    }

    #[test]
    fn the_replace_one_relation_costs_four_times_as_much_in_opendp_too() {
        let single = gaussian(Some(10), SIGMA).and_then(|m| m.map(&f64::from(1 << 18)).map_err(refused));
        let double = gaussian(Some(10), SIGMA).and_then(|m| m.map(&f64::from(1 << 19)).map_err(refused));
        assert_eq!(double.expect("rho"), 4.0 * single.expect("rho"));
    }

    #[test]
    fn moments_are_those_of_a_gaussian() {
        let count = 100_000;
        let noise = draw(count, SIGMA).expect("drawn");
        let sigma = SIGMA as f64;
        let scaled: Vec<f64> = noise.iter().map(|value| *value as f64 / sigma).collect();
        let moment = |power: i32| scaled.iter().map(|value| value.powi(power)).sum::<f64>() / count as f64;
        // Five standard errors of each moment of a standard normal.
        let within = |power: i32, expected: f64, variance: f64| {
            let error = (moment(power) - expected).abs();
            assert!(error < 5.0 * (variance / count as f64).sqrt(), "moment {power}: off by {error}");
        };
        within(1, 0.0, 1.0);
        within(2, 1.0, 2.0);
        within(3, 0.0, 15.0);
        within(4, 3.0, 96.0);
    }

    #[test]
    fn small_noise_follows_the_exact_distribution() {
        // Chi-square against exp(-x² / 2 sigma²) / normaliser, 13 cells, the outer ones open.
        let (sigma, count, edge) = (3_u64, 60_000_usize, 6_i64);
        let weight = |x: i64| (-(x * x) as f64 / (2.0 * (sigma * sigma) as f64)).exp();
        let total: f64 = (-200..=200).map(weight).sum();
        let mut expected = vec![0.0; 13];
        (-200..=200).for_each(|x: i64| expected[(x.clamp(-edge, edge) + edge) as usize] += weight(x) / total);
        let mut observed = [0.0; 13];
        let noise = draw(count, sigma).expect("drawn");
        noise.iter().for_each(|x| observed[((*x).clamp(-edge, edge) + edge) as usize] += 1.0);
        let chi: f64 = observed
            .iter()
            .zip(&expected)
            .map(|(o, e): (&f64, &f64)| (o - e * count as f64).powi(2) / (e * count as f64))
            .sum();
        // 12 degrees of freedom: the chance of more than 46 is 7e-6.
        assert!(chi < 46.0, "chi-square {chi}");
    }

    #[test]
    fn no_two_draws_are_alike() {
        let draws: Vec<_> = (0..8).map(|_| draw(40_000, SIGMA).expect("drawn")).collect();
        for (index, one) in draws.iter().enumerate() {
            for other in &draws[index + 1..] {
                let same = one.iter().zip(other.iter()).filter(|(a, b)| a == b).count();
                assert!(same < 10, "{same} equal values");
            }
        }
        let one = &draws[0];
        let repeated = one.iter().zip(one.iter().skip(CHUNK)).filter(|(a, b)| a == b).count();
        assert!(repeated < 10, "chunks of one draw differ: {repeated}");
        assert!(draw(0, SIGMA).expect("nothing").is_empty());
    }
}
