//! The door: price, keys and threads, and our draws beside opendp's.

use semisam_shared::{
    chain::Head,
    ids::{Digest, RoundNumber, SiteId},
    ledger::Query,
    plan::SIGMA,
};

use super::*;

/// Fails if counts do not fit probabilities: chi-square, at a chance of about 1e-6 (Wilson and Hilferty's quantile). Cells
/// that expect fewer than ten are put together.
pub(super) fn fits(observed: &[f64], expected: &[f64], what: &str) {
    let count: f64 = observed.iter().sum();
    assert!((expected.iter().sum::<f64>() - 1.0).abs() < 1e-9 && observed.len() == expected.len(), "{what}");
    let (mut chi, mut cells, mut rare) = (0.0, 0.0, (0.0, 0.0));
    for (observed, expected) in observed.iter().zip(expected.iter().map(|p| p * count)) {
        if expected < 10.0 {
            rare = (rare.0 + observed, rare.1 + expected);
        } else {
            chi += (observed - expected).powi(2) / expected;
            cells += 1.0;
        }
    }
    if rare.1 >= 10.0 {
        chi += (rare.0 - rare.1).powi(2) / rare.1;
        cells += 1.0;
    }
    let bound = quantile(cells - 1.0);
    assert!(chi < bound, "{what}: chi-square {chi:.1} with {cells} cells, {bound:.1} allowed");
}

/// Which chi-square with so many degrees of freedom is exceeded once in a million.
fn quantile(freedom: f64) -> f64 {
    let part = 2.0 / (9.0 * freedom);
    freedom * (1.0 - part + 4.753 * part.sqrt()).powi(3)
}

/// The standard normal distribution function.
pub(super) fn normal_below(x: f64) -> f64 {
    0.5 * libm::erfc(-x / std::f64::consts::SQRT_2)
}

fn purpose() -> Purpose {
    let query = Query { plan: Digest::ZERO, round: RoundNumber(1), model: Digest::ZERO };
    Purpose { site: SiteId([1; 32]), query, reserve: 3, head: Head::EMPTY }
}

fn ours(count: usize, sigma: u64) -> Zeroizing<Vec<i64>> {
    draw(count, sigma, &purpose()).expect("drawn").into_values()
}

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
    let single = reference(Some(10), SIGMA).and_then(|m| m.map(&f64::from(1 << 18)).map_err(refused));
    let double = reference(Some(10), SIGMA).and_then(|m| m.map(&f64::from(1 << 19)).map_err(refused));
    assert_eq!(double.expect("rho"), 4.0 * single.expect("rho"));
}

/// Two samples of one distribution: chi-square of homogeneity, value by value for small scales and in cells of equal
/// probability for the scale of a release. opendp's bits are fresh each time: a chance of one in a million to fail.
#[test]
fn our_draws_and_those_of_opendp_are_of_one_distribution() {
    for (sigma, count) in [(1_u64, 100_000), (8, 100_000), (64, 60_000), (SIGMA, 60_000)] {
        let (own, theirs) = (ours(count, sigma), draw_reference(count, sigma).expect("drawn"));
        let cell = |value: &i64| match sigma {
            1 | 8 => (value.clamp(&(-3 * sigma as i64), &(3 * sigma as i64)) + 3 * sigma as i64) as usize,
            _ => ((normal_below((*value as f64 + 0.5) / sigma as f64) * 64.0) as usize).min(63),
        };
        let mut counts = [vec![0.0_f64; 64], vec![0.0_f64; 64]];
        own.iter().for_each(|value| counts[0][cell(value)] += 1.0);
        theirs.iter().for_each(|value| counts[1][cell(value)] += 1.0);
        let both = counts[0].iter().zip(&counts[1]).filter(|(a, b)| *a + *b > 0.0);
        let chi: f64 = both.clone().map(|(a, b)| (a - b).powi(2) / (a + b)).sum();
        let bound = quantile(both.count() as f64 - 1.0);
        assert!(chi < bound, "sigma {sigma}: {chi} {bound}");
        let spread = |values: &[i64]| values.iter().map(|v| (*v as f64 / sigma as f64).powi(2)).sum::<f64>();
        let ratio = spread(&own) / spread(&theirs);
        assert!((ratio - 1.0).abs() < 6.0 * (4.0 / count as f64).sqrt(), "sigma {sigma}: {ratio}");
    }
}

#[test]
fn threads_and_length_do_not_change_a_value() {
    let gaussian = Gaussian::new(SIGMA).expect("a scale");
    let filled = |threads, length| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let mut noise = vec![0; length];
        pool.install(|| fill(&mut noise, &gaussian, &Key::known(6)));
        noise
    };
    let one = filled(1, 5 * CHUNK + 7);
    assert_eq!(one, filled(2, 5 * CHUNK + 7));
    assert_eq!(one, filled(7, 5 * CHUNK + 7));
    assert_eq!(one[..CHUNK + 3], filled(3, CHUNK + 3), "a longer vector begins like a shorter one");
    let repeated = one.iter().zip(one.iter().skip(CHUNK)).filter(|(a, b)| a == b).count();
    assert!(repeated < 10, "chunks differ: {repeated}");
}

#[test]
fn no_two_draws_are_alike_not_even_for_one_purpose() {
    let draws: Vec<_> = (0..8).map(|_| ours(40_000, SIGMA)).collect();
    for (index, one) in draws.iter().enumerate() {
        for other in &draws[index + 1..] {
            let same = one.iter().zip(other.iter()).filter(|(a, b)| a == b).count();
            assert!(same < 10, "{same} equal values");
        }
    }
    assert!(ours(0, SIGMA).is_empty());
    assert!(matches!(draw(1, 3, &purpose()), Err(NoiseError::Scale(3))));
}
