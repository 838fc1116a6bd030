use sha2::{Digest as _, Sha256};

use super::*;
use crate::privacy::noise::{
    stream::Key,
    tests::{fits, normal_below},
};

fn drawn(sigma: u64, bits: u32, seed: u8, count: usize) -> Vec<i64> {
    let gaussian = Gaussian::with_words_of(sigma, bits).expect("a power of two");
    let mut stream = Key::known(seed).stream(3);
    (0..count).map(|_| gaussian.draw(&mut stream)).collect()
}

/// From an independent program: mpmath's table, ChaCha20 and arithmetic of Python.
#[test]
fn known_keys_give_known_draws() {
    let known: [(u64, [i64; 8], &str); 3] = [
        (1, [2, 0, -4, 2, 0, -1, -1, 1], "6af654c218bc37374d74b224a3dcdad0a3aecff552937b3df144a63818ee3280"),
        (7, [123, 45, -242, 123, 39, -33, -5, -35], "ecfdf77a51266a94453f93b3496e2ee037588d4bcbe9aa2df7c8b25bc2956c68"),
        (
            20,
            [1_032_171, 338_229, -1_989_882, 999_659, 295_247, -297_985, -13_077, -288_851],
            "e0b1768f8cc5a13b3c7fc6d33b276adc8cf8e9217d7ff52aef87f702c51476ff",
        ),
    ];
    for (s, first, digest) in known {
        let values = drawn(1 << s, 64, 42, 100_000);
        assert_eq!(values[..8], first, "s = {s}");
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(hex::encode(Sha256::digest(&bytes)), digest, "s = {s}");
    }
}

/// Chi-square against the exact probability of every single value, for every kind of step and of table.
#[test]
fn every_value_has_its_exact_probability() {
    for (s, bits) in [(0, 64), (1, 64), (2, 64), (3, 64), (4, 64), (5, 64), (6, 64), (7, 64), (1, 5), (5, 7), (6, 10)] {
        let (sigma, count) = (1_i64 << s, if bits == 64 { 1_000_000 } else { 40_000 });
        let edge = 3 * sigma + 1;
        let mut observed = vec![0.0; 2 * edge as usize + 1];
        for value in drawn(1 << s, bits, s, count) {
            observed[(value.clamp(-edge, edge) + edge) as usize] += 1.0;
        }
        let weight = |y: i64| (-((y * y) as f64) / (2 * sigma * sigma) as f64).exp();
        let total: f64 = (-12 * sigma - 12..=12 * sigma + 12).map(weight).sum();
        let tail: f64 = (edge..=12 * sigma + 12).map(weight).sum::<f64>() / total;
        let mut expected: Vec<f64> = (-edge..=edge).map(|y| weight(y) / total).collect();
        let last = expected.len() - 1;
        (expected[0], expected[last]) = (tail, tail);
        fits(&observed, &expected, &format!("s = {s}, {bits} bits"));
    }
}

/// At the scale of a release: 256 cells of equal probability, for which the sum over integers is the normal integral up to
/// exp(-2 pi² sigma²); the lowest eight bits and the sign are uniform and independent.
#[test]
fn at_full_scale_cells_and_low_bits_are_those_of_a_gaussian() {
    let (sigma, count) = (f64::from(1 << 20), 2_000_000);
    let values = drawn(1 << 20, 64, 5, count);
    let mut cells = vec![0.0; 256];
    let mut low = vec![0.0; 512];
    for value in &values {
        let below = normal_below((*value as f64 + 0.5) / sigma);
        cells[((below * 256.0) as usize).min(255)] += 1.0;
        low[(value.unsigned_abs() & 255) as usize + if *value < 0 { 256 } else { 0 }] += 1.0;
    }
    fits(&cells, &[1.0 / 256.0; 256], "cells");
    fits(&low, &[1.0 / 512.0; 512], "sign and low bits");
    // Neighbours are independent: quadrants of successive pairs, and of values one nonce apart.
    let mut pairs = vec![0.0; 16];
    let quarter = |value: i64| ((normal_below(value as f64 / sigma) * 4.0) as usize).min(3);
    values.windows(2).step_by(2).for_each(|pair| pairs[4 * quarter(pair[0]) + quarter(pair[1])] += 1.0);
    fits(&pairs, &[1.0 / 16.0; 16], "pairs");
}

/// The first eight moments, five standard errors each, at every scale that has steps and a rest, and symmetry.
#[test]
fn moments_and_symmetry_at_all_scales() {
    let count = 400_000;
    for s in [5_u32, 10, 16, 20, 22] {
        let values = drawn(1 << s, 64, 100 + s as u8, count);
        let sigma = f64::from(1 << s);
        let expected = [0.0, 1.0, 0.0, 3.0, 0.0, 15.0, 0.0, 105.0];
        // Variance of x^k under a standard normal: E x^2k - (E x^k)².
        let second = [1.0, 3.0, 15.0, 105.0, 945.0, 10_395.0, 135_135.0, 2_027_025.0];
        for power in 1..=8 {
            let moment = values.iter().map(|y| (*y as f64 / sigma).powi(power)).sum::<f64>() / count as f64;
            let at = power as usize - 1;
            let error = ((second[at] - expected[at] * expected[at]) / count as f64).sqrt();
            assert!((moment - expected[at]).abs() < 5.0 * error, "s = {s}, moment {power}: {moment}");
        }
        let positive = values.iter().filter(|y| **y > 0).count() as f64;
        let negative = values.iter().filter(|y| **y < 0).count() as f64;
        assert!((positive - negative).abs() < 5.0 * (count as f64).sqrt(), "s = {s}: {positive} {negative}");
    }
}

/// Tails: how many of four million lie beyond 1 to 5 standard deviations, on either side.
#[test]
fn tails_have_their_mass() {
    let (sigma, count) = (f64::from(1 << 20), 4_000_000);
    let values = drawn(1 << 20, 64, 77, count);
    for bound in 1..=5 {
        let probability = normal_below(-f64::from(bound));
        for sign in [-1.0, 1.0] {
            let beyond = values.iter().filter(|y| sign * **y as f64 / sigma > f64::from(bound)).count() as f64;
            let expected = probability * count as f64;
            assert!((beyond - expected).abs() < 5.0 * expected.sqrt() + 1.0, "{bound}: {beyond} of {expected}");
        }
    }
    assert!(values.iter().all(|y| y.unsigned_abs() < 8 << 20), "beyond eight: once in 8e14");
}

/// Step 3 by itself: gamma from nothing to beyond one, where whole factors come in.
#[test]
fn acceptance_is_an_exponential() {
    let gaussian = Gaussian::new(1 << 20).expect("a scale");
    let (one, mut stream) = (1_u64 << 41, Key::known(8).stream(0));
    let count = 400_000;
    for gamma in [0.0, 0.001, 0.25, 0.5, 0.875, 1.0, 1.5, 2.0, 3.25] {
        let numerator = (gamma * one as f64) as u64;
        let accepted = (0..count)
            .filter(|_| {
                let coin = stream.word() >> (64 - gaussian.digits());
                coin >= numerator || gaussian.accepted(numerator, &mut stream)
            })
            .count() as f64;
        let expected = (-gamma).exp() * f64::from(count);
        let error = (expected * (1.0 - (-gamma).exp())).sqrt();
        assert!((accepted - expected).abs() <= 5.0 * error, "{gamma}: {accepted} of {expected}");
    }
}

#[test]
fn only_powers_of_two_that_fit_a_word_have_a_sampler() {
    assert!([1, 2, 1 << 20, 1 << 22].into_iter().all(|sigma| Gaussian::new(sigma).is_some()));
    assert!([0, 3, 1 << 23, u64::MAX, (1 << 20) + 1].into_iter().all(|sigma| Gaussian::new(sigma).is_none()));
}
