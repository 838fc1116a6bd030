//! What a promptable network is trained to minimise, with the gradient with respect to the maps that it gives.
//!
//! Cross-entropy and Dice of the mask, and the squared error of the score. Closed forms with sums in f64, on the host, as
//! those of a student ([`crate::train::losses`]). The score's error reaches the quality map alone: which voxels count is
//! taken from the mask as it is, so that the network cannot improve its score by drawing another mask.

use crate::model::prompt_unet::{Pooled, layout::MAPS, sigmoid};

/// Keeps Dice defined for an empty object.
const SMOOTHING: f64 = 1e-5;

/// Factor of the score's squared error.
const SCORE: f64 = 0.5;

/// The value of each term.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MaskLosses {
    /// Mean cross-entropy over voxels.
    pub cross_entropy: f64,
    /// One minus the soft Dice.
    pub dice: f64,
    /// Squared error of the predicted intersection over union.
    pub score: f64,
    /// What is minimised.
    pub total: f64,
    /// Dice of the mask that logits above zero make.
    pub overlap: f64,
}

/// The terms for `maps` [2, voxels] of an image against its object, and the gradient of `weight` times the total.
///
/// # Panics
/// If the object has another size.
pub fn mask_losses(maps: &[f32], object: &[bool], weight: f64) -> (MaskLosses, Vec<f32>) {
    let voxels = object.len();
    assert_eq!(maps.len(), MAPS * voxels, "two maps of the object's size");
    let (logits, _) = maps.split_at(voxels);
    let p: Vec<f64> = logits.iter().map(|logit| sigmoid(f64::from(*logit))).collect();
    let (mut entropy, mut common, mut predicted, mut size) = (0.0, 0.0, 0.0, 0.0);
    let (mut hits, mut drawn) = (0.0, 0.0);
    for ((logit, p), inside) in logits.iter().zip(&p).zip(object) {
        let (logit, truth) = (f64::from(*logit), f64::from(u8::from(*inside)));
        // ln(1 + exp(l)) - t l, without overflow
        entropy += logit.max(0.0) + (-logit.abs()).exp().ln_1p() - truth * logit;
        common += p * truth;
        predicted += p * p;
        size += truth;
        let mask = f64::from(u8::from(logit > 0.0));
        hits += mask * truth;
        drawn += mask;
    }
    let (numerator, denominator) = (2.0 * common + SMOOTHING, predicted + size + SMOOTHING);
    let union = drawn + size - hits;
    let truth = if union > 0.0 { hits / union } else { 1.0 };
    let pooled = Pooled::of(maps);
    let score = sigmoid(pooled.mean);
    let (cross_entropy, dice) = (entropy / voxels as f64, 1.0 - numerator / denominator);
    let error = (score - truth).powi(2);
    let overlap = if drawn + size > 0.0 { 2.0 * hits / (drawn + size) } else { 1.0 };
    let losses = MaskLosses { cross_entropy, dice, score: error, total: cross_entropy + dice + SCORE * error, overlap };
    let slope = SCORE * 2.0 * (score - truth) * score * (1.0 - score) / pooled.total.max(f64::MIN_POSITIVE);
    let mut gradient = Vec::with_capacity(maps.len());
    gradient.extend(p.iter().zip(object).map(|(p, inside)| {
        let truth = f64::from(u8::from(*inside));
        let of_dice = 2.0 * (p * numerator - truth * denominator) / (denominator * denominator);
        (weight * ((p - truth) / voxels as f64 + of_dice * p * (1.0 - p))) as f32
    }));
    gradient.extend(p.iter().map(|p| (weight * slope * p) as f32));
    (losses, gradient)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_gradient_matches_finite_differences(
            maps in prop::collection::vec(-3.0_f32..3.0, 12),
            object in prop::collection::vec(any::<bool>(), 6),
        ) {
            let (losses, gradient) = mask_losses(&maps, &object, 0.7);
            prop_assert!((0.0..=1.0).contains(&losses.overlap) && losses.score <= 1.0);
            for at in 0..maps.len() {
                let moved = |by: f32| {
                    let mut moved = maps.clone();
                    moved[at] += by;
                    let (losses, _) = mask_losses(&moved, &object, 0.7);
                    // the mask does not answer for the score
                    let score = if at < 6 { 0.0 } else { SCORE * losses.score };
                    0.7 * (losses.cross_entropy + losses.dice + score)
                };
                let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                prop_assert!((slope - f64::from(gradient[at])).abs() < 2e-4, "{at}: {slope} {}", gradient[at]);
            }
        }
    }

    #[test]
    fn a_perfect_mask_costs_nothing_and_knows_it() {
        let maps = [40.0, 40.0, -40.0, -40.0, 40.0, 40.0, 0.0, 0.0];
        let (losses, gradient) = mask_losses(&maps, &[true, true, false, false], 1.0);
        assert!(losses.total < 1e-9 && losses.overlap == 1.0, "{losses:?}");
        assert!(gradient.iter().all(|g| g.abs() < 1e-9));
        let (empty, gradient) = mask_losses(&[-1e4; 4], &[false, false], 1.0);
        assert!(empty.total.is_finite() && gradient.iter().all(|g| g.is_finite()), "{empty:?}");
        assert_eq!(empty.overlap, 1.0);
    }
}
