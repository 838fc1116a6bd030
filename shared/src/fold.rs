//! From updates to the next model: an exact integer sum, a public divisor, FedAvg with server momentum.
//!
//! Integers make the sum independent of order; the rest runs in f64 in one fixed order. So coordinator and auditor get
//! the same bytes (DESIGN, decision 3).

use crate::{
    ids::RoundNumber,
    plan::{Decay, Plan},
    release_space::Projection,
    weights::{Tensor, Weights, WeightsError},
};

/// The tensor of a momentum file: shape [coordinates].
pub const MOMENTUM: &str = "momentum";

/// Updates cannot be folded.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// An update of another length.
    #[error("an update has {found} bytes where the plan says {expected}")]
    Length {
        /// What the plan says.
        expected: usize,
        /// What came.
        found: usize,
    },
    /// Nobody contributed.
    #[error("a round without contributions cannot be folded")]
    Empty,
    /// The model would no longer be finite.
    #[error("the next model has a weight that is not finite: lower `server.learning_rate` in the next plan")]
    NotFinite,
    /// Weights do not fit.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// The bytes of an update: little-endian i32, one a coordinate. Values beyond i32 saturate, which is post-processing.
pub fn update_to_bytes(values: &[i64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|v| i32::try_from(*v).unwrap_or(if *v < 0 { i32::MIN } else { i32::MAX }).to_le_bytes())
        .collect()
}

/// Adds the update in `bytes` to `sum`.
///
/// # Errors
/// If the update has another length; the sum is then as before.
pub fn add_update(sum: &mut [i64], bytes: &[u8]) -> Result<(), FoldError> {
    if bytes.len() != sum.len() * 4 {
        return Err(FoldError::Length { expected: sum.len() * 4, found: bytes.len() });
    }
    for (total, raw) in sum.iter_mut().zip(bytes.chunks_exact(4)) {
        // At most 2^31 updates of 32 bits: an i64 cannot overflow.
        *total += i64::from(i32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]));
    }
    Ok(())
}

/// A model and the server's momentum after a round.
#[derive(Debug, PartialEq)]
pub struct Folded {
    /// The next model.
    pub model: Weights,
    /// The server's momentum, in the release space.
    pub momentum: Weights,
}

/// The momentum before round 1.
///
/// # Errors
/// Never for a real plan.
pub fn no_momentum(coordinates: usize) -> Result<Weights, WeightsError> {
    momentum_file(vec![0.0; coordinates])
}

fn momentum_file(values: Vec<f32>) -> Result<Weights, WeightsError> {
    Weights::new([(MOMENTUM.to_owned(), Tensor { shape: vec![values.len()], values })])
}

/// The factor on the server's step in `round`.
pub fn server_step(plan: &Plan, round: RoundNumber) -> f64 {
    let rate = plan.server.learning_rate.get();
    match plan.server.decay {
        Decay::Constant => rate,
        Decay::Cosine => {
            let passed = f64::from(round.0.saturating_sub(1)) / f64::from(plan.rounds.max(1));
            rate * 0.5 * (1.0 + libm::cos(std::f64::consts::PI * passed))
        }
    }
}

/// One round: mean = sum * grid / (expected patients * contributors); momentum = beta * momentum + mean;
/// model = model + step * map^T momentum.
///
/// # Privacy
/// Post-processing of releases: uses no private count, only the plan and how many sites sent something.
///
/// # Errors
/// If nobody contributed, a length differs, or the result is not finite.
pub fn fold(
    plan: &Plan,
    round: RoundNumber,
    before: &Folded,
    projection: &Projection,
    sum: &[i64],
    contributors: usize,
) -> Result<Folded, FoldError> {
    if contributors == 0 {
        return Err(FoldError::Empty);
    }
    let divisor = f64::from(plan.privacy.expected_patients) * contributors as f64;
    let scale = plan.grid() / divisor;
    let old = before.momentum.to_flat();
    if old.len() != sum.len() {
        return Err(WeightsError::Length { expected: sum.len(), found: old.len() }.into());
    }
    let beta = plan.server.momentum.get();
    let momentum: Vec<f64> =
        old.iter().zip(sum).map(|(old, sum)| beta * f64::from(*old) + *sum as f64 * scale).collect();
    let mut flat: Vec<f64> = before.model.to_flat().into_iter().map(f64::from).collect();
    let step = server_step(plan, round);
    projection.add_to(&momentum.iter().map(|value| value * step).collect::<Vec<_>>(), &mut flat);
    let flat: Vec<f32> = flat.into_iter().map(|value| value as f32).collect();
    if !flat.iter().all(|value| value.is_finite()) {
        return Err(FoldError::NotFinite);
    }
    let momentum = momentum_file(momentum.into_iter().map(|value| value as f32).collect())?;
    Ok(Folded { model: before.model.with_flat(&flat)?, momentum })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::ReleaseSpace;
    use proptest::prelude::*;

    fn model(values: Vec<f32>) -> Weights {
        Weights::new([("w".to_owned(), Tensor { shape: vec![values.len()], values })]).expect("fits")
    }

    #[test]
    fn a_round_moves_the_model_by_the_noised_mean() {
        let mut plan = crate::plan::tests::example();
        plan.privacy.release = ReleaseSpace::All { coordinates: 2 };
        let projection = Projection::new(&plan.privacy.release, &model(vec![0.0; 2]), None).expect("fits");
        let before = Folded { model: model(vec![1.0, 2.0]), momentum: no_momentum(2).expect("fits") };
        let unit = (1.0 / plan.grid()).round() as i64;
        let mut sum = vec![0; 2];
        for update in [[unit * 10, 0], [unit * 10, -unit * 20]] {
            add_update(&mut sum, &update_to_bytes(&update)).expect("length");
        }
        let after = fold(&plan, RoundNumber(1), &before, &projection, &sum, 2).expect("folded");
        assert_eq!(after.model.to_flat(), [2.0, 1.0]);
        assert_eq!(after.momentum.to_flat(), [1.0, -1.0]);
        let last = server_step(&plan, RoundNumber(10));
        assert!(last > 0.0 && last < 0.05, "{last}");
        assert!(matches!(fold(&plan, RoundNumber(1), &before, &projection, &sum, 0), Err(FoldError::Empty)));
    }

    proptest! {
        #[test]
        fn the_order_of_updates_does_not_matter(
            mut updates in proptest::collection::vec(proptest::array::uniform3(any::<i32>()), 1..8)
        ) {
            let total = |updates: &[[i32; 3]]| {
                let mut sum = vec![0; 3];
                for update in updates {
                    let wide: Vec<i64> = update.iter().map(|v| i64::from(*v)).collect();
                    add_update(&mut sum, &update_to_bytes(&wide)).expect("length");
                }
                sum
            };
            let forward = total(&updates);
            updates.reverse();
            prop_assert_eq!(forward, total(&updates));
        }
    }

    #[test]
    fn large_values_saturate_and_wrong_lengths_are_refused() {
        let bytes = update_to_bytes(&[i64::MAX, i64::MIN]);
        let mut sum = vec![0; 2];
        add_update(&mut sum, &bytes).expect("length");
        assert_eq!(sum, [i64::from(i32::MAX), i64::from(i32::MIN)]);
        assert!(add_update(&mut sum, &bytes[..7]).is_err());
    }
}
