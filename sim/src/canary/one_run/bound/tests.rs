//! The bound against exact rational arithmetic, and against the table of the specification by simulation.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// `P[B >= v] + 2 m delta max_i P[v-i <= B < v]/i` in rational numbers (Python, `fractions.Fraction` and `math.comb`), rounded
/// once at the end: m, r, v, e^epsilon, delta, chance.
const EXACT: [(usize, usize, usize, f64, f64, f64); 6] = [
    (10, 10, 9, 3.0, 1e-2, 0.300_338_745_117_187_5),
    (100, 20, 20, 9.0, 1e-5, 0.122_132_004_741_168_18),
    (100, 100, 75, 2.0, 1e-3, 0.058_651_564_874_267_17),
    (1000, 200, 190, 9.0, 1e-5, 0.009_286_982_875_156_793),
    (1000, 1000, 900, 6.0, 1e-5, 0.000_349_743_670_702_656_84),
    (1000, 500, 250, 4.0, 1e-5, 1.0),
];

#[test]
fn the_chance_is_that_of_exact_arithmetic() {
    for (canaries, guesses, right, odds, delta, expected) in EXACT {
        let found = chance(&Factorials::up_to(canaries), (canaries, guesses, right), odds.ln(), delta);
        assert!((found / expected - 1.0).abs() < 1e-11, "{canaries} {guesses} {right}: {found} instead of {expected}");
    }
}

#[test]
fn the_bound_is_where_the_chance_is_the_error() {
    let factorials = Factorials::up_to(10_000);
    let error = (1.0 - CONFIDENCE) / FRACTIONS.len() as f64;
    for (guesses, right) in [(200, 190), (2000, 1900), (10_000, 9000), (10_000, 10_000)] {
        let bound = refuted(&factorials, (10_000, guesses, right), 1e-5);
        let at = |epsilon| chance(&factorials, (10_000, guesses, right), epsilon, 1e-5);
        assert!(at(bound) < error && at(bound + 1e-9) >= error, "{guesses} {right}: {bound}");
    }
    for right in [0, 1000, 5000] {
        assert_eq!(refuted(&factorials, (10_000, 10_000, right), 1e-5), 0.0, "no better than a coin");
    }
}

/// By a second implementation (Python floats, `math.lgamma`): what 20, 200 and 2000 right guesses of as many show at most.
#[test]
fn a_perfect_attacker_shows_no_more_than_its_guesses_can() {
    for (canaries, half, expected) in [(100, 10, 1.400), (1000, 100, 3.755), (10_000, 1000, 5.222)] {
        let found = refuted(&Factorials::up_to(canaries), (canaries, 2 * half, 2 * half), 1e-5);
        assert!((found - expected).abs() < 6e-4, "{canaries}: {found}");
    }
    assert!((most(10_000, 1e-5) - 6.837).abs() < 6e-4 && (most(1000, 1e-5) - 5.374).abs() < 6e-4);
}

/// The table of spec/privacy.md, section 13: canaries N(0, 1) out and N(mu, 1) in, where mu has the epsilon of theory at
/// 1e-5 (4.38: 1; 10: 2; 24.4: 4). A figure of the table is one run or the mean of a few; ours is the mean of 40. So the
/// tolerance is the standard deviation of a single run, measured over 400 of them (`spread_of_the_table`).
#[test]
fn the_table_of_the_specification_is_met() {
    let mut random = ChaCha8Rng::seed_from_u64(20);
    for (mu, canaries, expected, tolerance) in TABLE {
        let bounds = (0..40).map(|_| simulated(&mut random, mu, canaries));
        let mean = bounds.sum::<f64>() / 40.0;
        assert!((mean - expected).abs() < tolerance, "mu {mu}, {canaries} canaries: {mean} instead of {expected}");
    }
}

/// mu, canaries, the table's bound, the tolerance.
const TABLE: [(f64, usize, f64, f64); 9] = [
    (1.0, 100, 0.62, 0.32),
    (1.0, 1000, 1.50, 0.23),
    (1.0, 10_000, 2.10, 0.15),
    (2.0, 100, 1.40, 0.18),
    (2.0, 1000, 3.15, 0.33),
    (2.0, 10_000, 4.07, 0.16),
    (4.0, 100, 1.84, 0.37),
    (4.0, 1000, 3.75, 0.02),
    (4.0, 10_000, 5.22, 0.01),
];

fn simulated(random: &mut ChaCha8Rng, mu: f64, canaries: usize) -> f64 {
    let mut scored: Vec<(f64, bool)> = (0..canaries)
        .map(|_| {
            let (radius, angle) = (1.0 - random.random::<f64>(), random.random::<f64>() * std::f64::consts::TAU);
            let inside = random.random();
            ((-2.0 * radius.ln()).sqrt() * angle.cos() + if inside { mu } else { 0.0 }, inside)
        })
        .collect();
    epsilon_lower_bound(&mut scored, 1e-5).epsilon
}

/// By hand: what the tolerances of the table come from.
#[test]
#[ignore = "prints mean and standard deviation of 400 runs of each row"]
fn spread_of_the_table() {
    let mut random = ChaCha8Rng::seed_from_u64(21);
    for (mu, canaries, expected, _) in TABLE {
        let bounds: Vec<f64> = (0..400).map(|_| simulated(&mut random, mu, canaries)).collect();
        let mean = bounds.iter().sum::<f64>() / 400.0;
        let deviation = (bounds.iter().map(|bound| (bound - mean).powi(2)).sum::<f64>() / 400.0).sqrt();
        eprintln!("mu {mu}, {canaries}: table {expected}, mean {mean:.3}, deviation {deviation:.3}");
    }
}
