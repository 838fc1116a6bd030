//! The patients who are there anyway: seeded random vectors from a tenth of the clip norm to ten times it, so that some
//! are clipped and some are not. The attacker knows them; the promise to one patient does not rest on the others' secrecy.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{CLIP_NORM, LONG};

/// How many ordinary patients there are.
pub(crate) const PATIENTS: usize = 64;

/// Which random numbers are for what.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Use {
    /// The ordinary patients.
    Patients = 1,
    /// Directions of one-shot canaries.
    Directions = 2,
    /// Who of the one-run canaries is in.
    Coins = 3,
}

/// Random numbers that are the same for the same seed, and for no other use.
pub(crate) fn random(seed: u64, purpose: Use) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(purpose as u64);
    random
}

/// The ordinary patients.
pub(crate) struct Cohort {
    /// What each contributes, in the release space.
    pub(crate) patients: Vec<Vec<f64>>,
    /// The sum after a clip to norm C, by the attacker's own arithmetic. Shape [coordinates].
    pub(crate) known: Vec<f64>,
}

impl Cohort {
    /// The cohort of `seed`.
    pub(crate) fn ordinary(coordinates: usize, seed: u64) -> Self {
        let mut random = random(seed, Use::Patients);
        let mut known = vec![0.0; coordinates];
        let patients = (0..PATIENTS).map(|_| {
            let direction = direction(&mut random, coordinates);
            let norm = CLIP_NORM * LONG.powf(random.random_range(-1.0..1.0));
            known.iter_mut().zip(&direction).for_each(|(sum, part)| *sum += part * norm.min(CLIP_NORM));
            direction.into_iter().map(|part| part * norm).collect()
        });
        Self { patients: patients.collect(), known }
    }
}

/// A unit vector, every direction being equally likely.
pub(crate) fn direction(random: &mut ChaCha8Rng, coordinates: usize) -> Vec<f64> {
    let mut values: Vec<f64> = Vec::with_capacity(coordinates + 1);
    while values.len() < coordinates {
        // Box and Muller 1958: two independent normals from two uniforms, the first above 0.
        let (radius, angle) = (1.0 - random.random::<f64>(), random.random::<f64>() * std::f64::consts::TAU);
        let radius = (-2.0 * radius.ln()).sqrt();
        values.extend([radius * angle.cos(), radius * angle.sin()]);
    }
    values.truncate(coordinates);
    let norm = values.iter().map(|value| value * value).sum::<f64>().sqrt();
    values.into_iter().map(|value| value / norm).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cohort_has_a_seed_and_patients_on_both_sides_of_the_clip() {
        let (one, same, other) = (Cohort::ordinary(999, 5), Cohort::ordinary(999, 5), Cohort::ordinary(999, 6));
        assert!(one.patients == same.patients && one.patients != other.patients);
        let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
        let longer = one.patients.iter().filter(|patient| norm(patient) > CLIP_NORM).count();
        assert!((PATIENTS / 4..PATIENTS).contains(&longer), "{longer}");
        let furthest = one.patients.iter().map(|patient| norm(patient)).fold(0.0, f64::max);
        assert!(furthest <= LONG * CLIP_NORM + 1e-9, "{furthest}");
        assert!(norm(&one.known) <= PATIENTS as f64 * CLIP_NORM);
    }

    #[test]
    fn directions_are_short_of_nothing_and_almost_at_right_angles() {
        let mut random = random(1, Use::Directions);
        let (one, two) = (direction(&mut random, 20_000), direction(&mut random, 20_000));
        let along = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        assert!((along(&one, &one) - 1.0).abs() < 1e-12);
        // Six standard deviations of 1/sqrt(20000).
        assert!(along(&one, &two).abs() < 6.0 / 20_000_f64.sqrt(), "{}", along(&one, &two));
    }
}
