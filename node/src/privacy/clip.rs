//! From a contribution to integers whose L2 norm is proved not to exceed the sensitivity (spec/privacy.md, section 5).
//!
//! A contribution is scaled to the clip norm, quantised towards zero and then checked in exact integer arithmetic, so the
//! proof of the sensitivity contains no floating point: floating point only decides which integers are tried. One clip
//! covers the whole vector; clipping parts would multiply the sensitivity by the square root of their number.

use semisam_shared::plan::{Plan, Unit};
use zeroize::{Zeroize, Zeroizing};

use super::noise::Noise;

/// How much a scale shrinks when rounding pushed the norm above the bound.
const SHRINK: f64 = 1.0 - 1e-7;

/// After so many attempts a contribution counts as zero, which every bound allows. One or two are enough in practice.
const ATTEMPTS: usize = 64;

/// The largest sum of all contributions that leaves room for noise in an `i64`.
const HEADROOM: u64 = 1 << 62;

/// Contributions cannot be summed.
#[derive(Debug, thiserror::Error)]
pub enum ClipError {
    /// A contribution of another length.
    #[error("a contribution does not have the plan's {expected} coordinates: the model and the release space differ")]
    Length {
        /// What the plan says.
        expected: usize,
    },
    /// The sum could leave an `i64`.
    #[error("there are more contributions than a sum of 64 bits can hold")]
    Headroom,
}

/// The clip of one plan: clip norm and grid are public.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    unit: Unit,
    coordinates: usize,
    /// The clip norm in grid units, before it is rounded down to `bound`.
    radius: f64,
    /// Length of a grid unit.
    grid: f64,
    /// The sensitivity: the largest L2 norm of the integers.
    bound: u64,
}

impl Clip {
    /// The clip that `plan` prescribes.
    pub fn of_plan(plan: &Plan) -> Self {
        Self {
            unit: plan.privacy.unit,
            coordinates: usize::try_from(plan.privacy.release.coordinates()).unwrap_or(usize::MAX),
            radius: plan.privacy.clip_norm.get() / plan.grid(),
            grid: plan.grid(),
            bound: plan.sensitivity(),
        }
    }

    /// The integers of one contribution.
    ///
    /// # Privacy
    /// The sum of squares of the answer is at most the squared sensitivity, checked exactly in `u128`, whatever stands in
    /// `contribution`: huge, denormal or not a number (those count as zero). So adding or removing it moves a sum of such
    /// answers by at most the sensitivity in L2 norm.
    fn quantise(&self, contribution: &[f64]) -> Vec<i64> {
        let finite = |value: &f64| if value.is_finite() { *value } else { 0.0 };
        let largest = contribution.iter().map(|value| finite(value).abs()).fold(0.0, f64::max);
        if largest == 0.0 {
            return vec![0; contribution.len()];
        }
        // Relative to the largest value nothing overflows: each is at most 1 and the norm at most sqrt(length).
        let norm = contribution.iter().map(|value| (finite(value) / largest).powi(2)).sum::<f64>().sqrt();
        let mut scale = (largest / self.grid).min(self.radius / norm);
        for _ in 0..ATTEMPTS {
            let mut integers: Vec<i64> =
                contribution.iter().map(|value| (finite(value) / largest * scale).trunc() as i64).collect();
            if self.holds(&integers) {
                return integers;
            }
            integers.zeroize();
            scale = (scale * SHRINK).min(self.bound as f64 / norm);
        }
        vec![0; contribution.len()]
    }

    fn holds(&self, integers: &[i64]) -> bool {
        let bound = u128::from(self.bound) * u128::from(self.bound);
        let add = |sum: u128, value: &i64| {
            let magnitude = u128::from(value.unsigned_abs());
            sum.checked_add(magnitude * magnitude)
        };
        integers.iter().try_fold(0, add).is_some_and(|sum| sum <= bound)
    }

    /// The noised sum of one hospital's contributions. It takes noise that was drawn before: the time of a draw, which depends
    /// on what is drawn, can then not depend on contributions (spec/privacy.md, P16).
    ///
    /// # Privacy
    /// Neighbours: one unit's contribution zeroed out. L2 sensitivity: the plan's sensitivity in grid units, so rho-zCDP with
    /// rho = sensitivity² / (2 sigma²) for noise of scale sigma.
    ///
    /// # Errors
    /// If a contribution has another length than the plan says.
    pub fn noised(&self, noise: Noise, contributions: &[Vec<f64>]) -> Result<Zeroizing<Vec<i64>>, ClipError> {
        let mut noised = noise.into_values();
        let sum = self.sum(contributions)?;
        // Saturation is post-processing; with this noise it does not happen.
        noised.iter_mut().zip(sum.iter()).for_each(|(total, value)| *total = total.saturating_add(*value));
        Ok(noised)
    }

    /// The exact sum over the units of one hospital: each patient clipped, or the whole hospital clipped once.
    ///
    /// # Privacy
    /// Neighbours: one unit's contribution zeroed out. L2 sensitivity: the plan's sensitivity in grid units. No count
    /// enters: a contribution of zeros changes nothing.
    ///
    /// # Errors
    /// If a contribution has another length than the plan says.
    fn sum(&self, contributions: &[Vec<f64>]) -> Result<Zeroizing<Vec<i64>>, ClipError> {
        self.check(contributions)?;
        if self.unit == Unit::Hospital {
            let mut whole = Zeroizing::new(vec![0.0; self.coordinates]);
            for contribution in contributions {
                let finite = contribution.iter().map(|value| if value.is_finite() { *value } else { 0.0 });
                whole.iter_mut().zip(finite).for_each(|(total, value)| *total += value);
            }
            return Ok(Zeroizing::new(self.quantise(&whole)));
        }
        let mut sum = Zeroizing::new(vec![0_i64; self.coordinates]);
        for contribution in contributions {
            let integers = Zeroizing::new(self.quantise(contribution));
            // `check` proved that this cannot overflow.
            sum.iter_mut().zip(integers.iter()).for_each(|(total, value)| *total += value);
        }
        Ok(sum)
    }

    /// What is never released: the sum by itself. Not compiled into programs.
    #[cfg(test)]
    pub(crate) fn bare_sum(&self, contributions: &[Vec<f64>]) -> Result<Vec<i64>, ClipError> {
        self.sum(contributions).map(|sum| sum.to_vec())
    }

    /// The longest of the clipped contributions, in grid units. Not compiled into programs.
    #[cfg(test)]
    pub(crate) fn longest(&self, contributions: &[Vec<f64>]) -> Result<f64, ClipError> {
        self.check(contributions)?;
        let square =
            |values: &Vec<i64>| values.iter().map(|value| u128::from(value.unsigned_abs()).pow(2)).sum::<u128>();
        let squares = contributions.iter().map(|contribution| square(&self.quantise(contribution)));
        Ok((squares.max().unwrap_or(0) as f64).sqrt())
    }

    /// Whether the contributions have the right length and their sum fits, whatever they hold.
    ///
    /// # Errors
    /// If not.
    pub fn check(&self, contributions: &[Vec<f64>]) -> Result<(), ClipError> {
        if contributions.iter().any(|contribution| contribution.len() != self.coordinates) {
            return Err(ClipError::Length { expected: self.coordinates });
        }
        let fits = self.bound.checked_mul(contributions.len() as u64).is_some_and(|most| most <= HEADROOM);
        if fits { Ok(()) } else { Err(ClipError::Headroom) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::tests::plan;
    use proptest::prelude::*;

    fn squared(integers: &[i64]) -> u128 {
        integers.iter().map(|value| u128::from(value.unsigned_abs()).pow(2)).sum()
    }

    fn clip(noise_multiplier: f64, coordinates: usize) -> Clip {
        Clip::of_plan(&plan(noise_multiplier, coordinates, Unit::Patient))
    }

    /// Finite values of every size, and the ones that arithmetic trips over.
    fn hostile() -> impl Strategy<Value = f64> {
        prop_oneof![
            8 => any::<f64>(),
            8 => -3.0..3.0_f64,
            1 => prop::sample::select(vec![
                f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324, -5e-324, -0.0,
            ]),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_input_exceeds_the_sensitivity(
            values in prop::collection::vec(hostile(), 1..80),
            noise_multiplier in prop_oneof![Just(1.0), Just(4.0), Just(0.1), Just(10_000.0), 0.1..10_000.0_f64],
        ) {
            let clip = clip(noise_multiplier, values.len());
            let integers = clip.quantise(&values);
            prop_assert!(squared(&integers) <= u128::from(clip.bound).pow(2));
            for (value, integer) in values.iter().zip(&integers) {
                prop_assert!(*integer == 0 || (*integer > 0) == (*value > 0.0), "towards zero keeps the sign");
            }
        }

        #[test]
        fn what_is_clipped_keeps_its_direction_and_almost_its_norm(
            values in prop::collection::vec(-3.0..3.0_f64, 1..80), factor in 1.0..1e6_f64,
        ) {
            let norm = values.iter().map(|v| v * v).sum::<f64>().sqrt();
            prop_assume!(norm > 0.1);
            let clip = clip(4.0, values.len());
            let long: Vec<f64> = values.iter().map(|value| value / norm * 1.5 * factor).collect();
            let integers = clip.quantise(&long);
            let bound = clip.bound as f64;
            let off = values.iter().zip(&integers).map(|(v, q)| (v / norm * bound - *q as f64).powi(2)).sum::<f64>();
            prop_assert!(off.sqrt() <= (values.len() as f64).sqrt() + 1.0, "one grid unit a coordinate");
        }

        #[test]
        fn what_is_short_enough_is_only_rounded(values in prop::collection::vec(-0.1..0.1_f64, 1..80)) {
            let clip = clip(4.0, values.len());
            for (value, integer) in values.iter().zip(clip.quantise(&values)) {
                prop_assert!((value / clip.grid - integer as f64).abs() < 1.0 + 1e-6);
                prop_assert!(integer.unsigned_abs() as f64 <= value.abs() / clip.grid * (1.0 + 1e-12));
            }
        }

        #[test]
        fn a_patient_who_contributes_nothing_changes_nothing(
            mut patients in prop::collection::vec(prop::collection::vec(hostile(), 5), 1..6), at in 0..6_usize,
        ) {
            for unit in [Unit::Patient, Unit::Hospital] {
                let clip = Clip::of_plan(&plan(2.0, 5, unit));
                let before = clip.sum(&patients).expect("lengths");
                let mut with = patients.clone();
                with.insert(at.min(with.len()), vec![0.0; 5]);
                prop_assert_eq!(&*before, &*clip.sum(&with).expect("lengths"));
            }
            patients.clear();
        }

        #[test]
        fn one_patient_moves_the_sum_by_at_most_the_sensitivity(
            patients in prop::collection::vec(prop::collection::vec(hostile(), 7), 1..6), gone in 0..6_usize,
        ) {
            let clip = clip(3.0, 7);
            let whole = clip.sum(&patients).expect("lengths");
            let mut rest = patients.clone();
            rest.remove(gone.min(rest.len() - 1));
            let without = clip.sum(&rest).expect("lengths");
            let moved: Vec<i64> = whole.iter().zip(without.iter()).map(|(a, b)| a - b).collect();
            prop_assert!(squared(&moved) <= u128::from(clip.bound).pow(2));
        }
    }

    #[test]
    fn one_clip_covers_the_whole_vector() {
        // Many coordinates at once: clipped in parts of 16384 the squared norm would be six times the bound.
        let clip = clip(4.0, 100_000);
        let integers = clip.quantise(&vec![1.0; 100_000]);
        assert!(squared(&integers) <= u128::from(clip.bound).pow(2));
        assert!(integers.iter().all(|value| *value == 828), "2^18 / sqrt(100000), towards zero");
    }

    #[test]
    fn what_is_not_a_number_counts_as_zero_and_the_rest_still_counts() {
        let clip = clip(4.0, 4);
        let integers = clip.quantise(&[f64::NAN, 0.25, f64::INFINITY, f64::NEG_INFINITY]);
        assert_eq!(integers, [0, 1 << 16, 0, 0]);
    }

    #[test]
    fn a_hospital_is_clipped_once() {
        let patients = vec![vec![3.0, 0.0], vec![0.0, 4.0]];
        let hospital = Clip::of_plan(&plan(4.0, 2, Unit::Hospital)).sum(&patients).expect("lengths");
        let bound = 1_u64 << 18;
        assert!(squared(&hospital) <= u128::from(bound).pow(2));
        assert!((hospital[0] - 157_286).abs() <= 1 && (hospital[1] - 209_715).abs() <= 1, "{hospital:?}");
        let patient = Clip::of_plan(&plan(4.0, 2, Unit::Patient)).sum(&patients).expect("lengths");
        assert_eq!(*patient, [1 << 18, 1 << 18]);
    }

    #[test]
    fn another_length_is_refused() {
        let error = clip(4.0, 3).sum(&[vec![0.0; 3], vec![0.0; 2]]).expect_err("length");
        assert!(matches!(error, ClipError::Length { expected: 3 }));
    }
}
