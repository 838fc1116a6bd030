//! delta(epsilon) by other means, at settings that are in no table: by brute force from both sides, and by drawing.

use super::*;
use crate::accounting::normal;

/// A loss distribution on multiples of `step` by differences of tails, every loss rounded down (or up), convolved directly.
fn brute_force(pair: &Pair, step: f64, count: u32, epsilon: f64, up: bool) -> f64 {
    let (low, high) = pair.range(1e-14, 1e-14);
    let first = (pair.loss(low) / step).floor() as i64;
    let cells = ((pair.loss(high) / step).ceil() as i64 - first) as usize;
    let edge =
        |cell: usize| if cell == 0 { low } else { pair.at_loss((first + cell as i64) as f64 * step).clamp(low, high) };
    let one: Vec<f64> = (0..cells)
        .map(|cell| {
            (pair.above(edge(cell)) - pair.above(if cell + 1 == cells { high } else { edge(cell + 1) })).max(0.0)
        })
        .collect();
    let mut sum = one.clone();
    for _ in 1..count {
        let mut next = vec![0.0; sum.len() + one.len() - 1];
        for (i, a) in sum.iter().enumerate() {
            one.iter().enumerate().for_each(|(j, b)| next[i + j] += a * b);
        }
        sum = next;
    }
    let shift = if up { f64::from(count) * step } else { 0.0 };
    let loss = |index: usize| (first * i64::from(count) + index as i64) as f64 * step + shift;
    let part = |(index, mass): (usize, &f64)| mass * (-libm::expm1(epsilon - loss(index))).max(0.0);
    sum.iter().enumerate().map(part).sum::<f64>() + if up { f64::from(count) * 2e-14 } else { 0.0 }
}

#[test]
fn brute_force_from_below_and_from_above_encloses_the_answer() {
    for (q, z, count, epsilon) in [(0.15, 0.9, 3, 1.5), (0.4, 1.3, 4, 2.0), (0.03, 0.6, 2, 3.0), (0.7, 2.2, 5, 1.0)] {
        for adjacency in [Adjacency::AddRemove, Adjacency::ReplaceOne] {
            let pairs = Pair::directions(&of(q, z, 1), adjacency);
            let side = |up| {
                let one = |pair| brute_force(pair, 4e-3, count, epsilon, up);
                pairs.iter().map(one).fold(0.0, f64::max)
            };
            let found = delta(&[of(q, z, u64::from(count))], epsilon, adjacency).expect("in range");
            let (low, high) = (side(false), side(true));
            assert!(low > 1e-9 && low < found && found < high, "{q} {z} {count} {adjacency:?}: {low} {found} {high}");
            assert!(high < low * 1.2, "a bracket that tells something: {low} {high}");
        }
    }
}

#[test]
fn one_release_is_the_difference_of_two_tails() {
    for (q, z) in [(0.15, 0.9), (0.02, 0.5), (0.6, 5.0)] {
        for adjacency in [Adjacency::AddRemove, Adjacency::ReplaceOne] {
            for epsilon in [0.1, 0.3, 1.0, 4.0] {
                let exact = Pair::directions(&of(q, z, 1), adjacency).into_iter().map(|pair| {
                    let x = pair.at_loss(epsilon);
                    if x.is_infinite() {
                        return 0.0;
                    }
                    let q_above = if pair.b() > 0.0 {
                        (1.0 - pair.b()) * normal::above(x / z) + pair.b() * normal::above((x + 1.0) / z)
                    } else {
                        normal::above(x / z)
                    };
                    pair.above(x) - epsilon.exp() * q_above
                });
                let exact = exact.fold(0.0, f64::max);
                let found = delta(&[of(q, z, 1)], epsilon, adjacency).expect("in range");
                if exact > 1e-80 {
                    assert!(
                        found >= exact * (1.0 - 1e-9) && found <= exact * (1.0 + 1e-4),
                        "{q} {z} {epsilon}: {found} {exact}"
                    );
                }
            }
        }
    }
}

/// SplitMix64, and two normals at a time by Box and Muller.
struct Drawn(u64);

impl Drawn {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (2.0 * std::f64::consts::PI * self.uniform()).cos()
    }
}

#[test]
fn drawing_the_mechanism_agrees() {
    // E[(1 - exp(epsilon - loss))+] over draws of 30 releases of a patient who is there, losses straight from densities.
    let (q, z, count, epsilon, draws) = (0.2_f64, 1.1_f64, 30, 2.0_f64, 200_000);
    let mut drawn = Drawn(7);
    let (mut sum, mut squares) = (0.0, 0.0);
    for _ in 0..draws {
        let mut loss = 0.0;
        for _ in 0..count {
            let x = drawn.normal() * z + if drawn.uniform() < q { 1.0 } else { 0.0 };
            loss += (1.0 - q + q * ((x - 0.5) / (z * z)).exp()).ln();
        }
        let value = (1.0 - (epsilon - loss).exp()).max(0.0);
        sum += value;
        squares += value * value;
    }
    let mean = sum / f64::from(draws);
    let error = ((squares / f64::from(draws) - mean * mean) / f64::from(draws)).sqrt();
    let kinds = vec![(Pair::directions(&of(q, z, 1), Adjacency::AddRemove)[0], f64::from(count))];
    let found = delta_one_way(&kinds, epsilon);
    assert!((found - mean).abs() < 4.5 * error && error < 0.02 * mean, "{found} {mean} {error}");
}
