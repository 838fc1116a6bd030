//! The four loss terms of SemiSAM and their gradient with respect to the logits (spec/semisam.md, section 5.2).
//!
//! Cross-entropy and Dice on labelled samples, agreement with the teacher on all, agreement with the generalist's mask
//! where there is one. The terms are closed forms of the softmax, so value and gradient are computed here, on the host,
//! in two passes with sums in f64: exact to rounding, and the same bits whatever the backend does with threads. The
//! backend only carries the gradient on through the network.

/// A voxel with this label takes no part in cross-entropy and Dice.
pub const IGNORED: u8 = u8::MAX;

/// Keeps Dice defined where a class is absent.
pub(super) const SMOOTHING: f64 = 1e-5;

/// Logits of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Logits<'a> {
    /// [samples, classes, voxels], voxels fastest.
    pub values: &'a [f32],
    /// Classes, background included.
    pub classes: usize,
    /// Voxels of one sample.
    pub voxels: usize,
}

/// What a batch is compared with. Each list has one entry per sample, or none at all.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// Classes drawn by a person; [`IGNORED`] marks voxels that do not count.
    pub labels: Vec<Option<Vec<u8>>>,
    /// Classes that a model is confident of; [`IGNORED`] elsewhere.
    pub pseudo_labels: Vec<Option<Vec<u8>>>,
    /// The teacher's probabilities, in the logits' order.
    pub teacher: Option<Vec<f32>>,
    /// The generalist's mask, as classes.
    pub masks: Vec<Option<Vec<u8>>>,
}

/// Factors of the terms; the supervised terms have 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TermWeights {
    /// Of cross-entropy and Dice against pseudo-labels.
    pub pseudo: f64,
    /// Of the agreement with the teacher.
    pub teacher: f64,
    /// Of the agreement with the generalist.
    pub generalist: f64,
}

/// The value of each term, and of their weighted sum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// Mean cross-entropy over labelled voxels.
    pub cross_entropy: f64,
    /// One minus the soft Dice of the foreground classes, over all labelled samples together.
    pub dice: f64,
    /// Cross-entropy plus Dice against pseudo-labels.
    pub pseudo: f64,
    /// Half the mean squared difference from the teacher.
    pub teacher: f64,
    /// Mean squared difference from the generalist's mask.
    pub generalist: f64,
    /// What is minimised.
    pub total: f64,
}

/// The softmax of `logits` over classes.
pub fn softmax(logits: Logits<'_>) -> Vec<f32> {
    let Logits { classes, voxels, .. } = logits;
    let mut probabilities = logits.values.to_vec();
    for sample in probabilities.chunks_exact_mut(classes * voxels) {
        for voxel in 0..voxels {
            let at = |class: usize| class * voxels + voxel;
            let largest = (0..classes).map(|class| sample[at(class)]).fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for class in 0..classes {
                sample[at(class)] = (sample[at(class)] - largest).exp();
                sum += sample[at(class)];
            }
            for class in 0..classes {
                sample[at(class)] /= sum;
            }
        }
    }
    probabilities
}

/// The terms and the gradient of their weighted sum with respect to the logits.
///
/// # Panics
/// If a target is of another size than the logits.
pub fn losses(logits: Logits<'_>, targets: &Targets, weights: TermWeights) -> (Losses, Vec<f32>) {
    let probabilities = softmax(logits);
    let mut batch = Batch {
        classes: logits.classes,
        voxels: logits.voxels,
        slope: vec![0.0; probabilities.len()],
        gradient: vec![0.0; probabilities.len()],
        probabilities,
    };
    let (cross_entropy, dice) = batch.supervised(&targets.labels, 1.0);
    let (pseudo_entropy, pseudo_dice) = batch.supervised(&targets.pseudo_labels, weights.pseudo);
    let pseudo = pseudo_entropy + pseudo_dice;
    let teacher = targets.teacher.as_ref().map_or(0.0, |teacher| batch.agree_with_teacher(teacher, weights.teacher));
    let generalist = batch.agree_with_masks(&targets.masks, weights.generalist);
    let total =
        cross_entropy + dice + weights.pseudo * pseudo + weights.teacher * teacher + weights.generalist * generalist;
    (Losses { cross_entropy, dice, pseudo, teacher, generalist, total }, batch.into_gradient())
}

/// Probabilities of a batch and what has been gathered of the gradient.
struct Batch {
    classes: usize,
    voxels: usize,
    probabilities: Vec<f32>,
    /// With respect to the probabilities.
    slope: Vec<f32>,
    /// With respect to the logits, from terms that are simplest in them.
    gradient: Vec<f32>,
}

impl Batch {
    /// Cross-entropy and Dice over the samples that have labels.
    fn supervised(&mut self, labels: &[Option<Vec<u8>>], weight: f64) -> (f64, f64) {
        let labelled: Vec<(usize, &Vec<u8>)> =
            labels.iter().enumerate().filter_map(|(sample, labels)| Some((sample, labels.as_ref()?))).collect();
        let counted: usize =
            labelled.iter().map(|(_, labels)| labels.iter().filter(|label| **label != IGNORED).count()).sum();
        if counted == 0 {
            return (0.0, 0.0);
        }
        (self.cross_entropy(&labelled, counted, weight), self.dice(&labelled, weight))
    }

    fn cross_entropy(&mut self, labelled: &[(usize, &Vec<u8>)], counted: usize, weight: f64) -> f64 {
        let (mut sum, factor) = (0.0, (weight / counted as f64) as f32);
        for (sample, labels) in labelled {
            for (voxel, &label) in labels.iter().enumerate().filter(|(_, label)| **label != IGNORED) {
                for class in 0..self.classes {
                    let at = (sample * self.classes + class) * self.voxels + voxel;
                    let truth = f32::from(u8::from(class == usize::from(label)));
                    self.gradient[at] += factor * (self.probabilities[at] - truth);
                    if class == usize::from(label) {
                        sum -= f64::from(self.probabilities[at].max(f32::MIN_POSITIVE).ln());
                    }
                }
            }
        }
        sum / counted as f64
    }

    fn dice(&mut self, labelled: &[(usize, &Vec<u8>)], weight: f64) -> f64 {
        let foreground = self.classes - 1;
        let mut sum = 0.0;
        for class in 1..self.classes {
            let (mut common, mut predicted, mut true_voxels) = (0.0, 0.0, 0.0);
            for (p, truth, _) in self.counted(labelled, class) {
                common += p * truth;
                predicted += p * p;
                true_voxels += truth;
            }
            let (numerator, denominator) = (2.0 * common + SMOOTHING, predicted + true_voxels + SMOOTHING);
            sum += 1.0 - numerator / denominator;
            let factor = weight / (foreground as f64 * denominator * denominator);
            let slopes: Vec<(usize, f64)> = self
                .counted(labelled, class)
                .map(|(p, truth, at)| (at, factor * (2.0 * p * numerator - 2.0 * truth * denominator)))
                .collect();
            for (at, slope) in slopes {
                self.slope[at] += slope as f32;
            }
        }
        sum / foreground as f64
    }

    /// Probability of `class`, whether it is true, and where, for every voxel that counts.
    fn counted(&self, labelled: &[(usize, &Vec<u8>)], class: usize) -> impl Iterator<Item = (f64, f64, usize)> {
        labelled.iter().flat_map(move |(sample, labels)| {
            let start = (sample * self.classes + class) * self.voxels;
            let voxels = labels.iter().enumerate().filter(|(_, label)| **label != IGNORED);
            voxels.map(move |(voxel, &label)| {
                let truth = f64::from(u8::from(class == usize::from(label)));
                (f64::from(self.probabilities[start + voxel]), truth, start + voxel)
            })
        })
    }

    fn agree_with_teacher(&mut self, teacher: &[f32], weight: f64) -> f64 {
        assert_eq!(teacher.len(), self.probabilities.len(), "teacher and student see the same batch");
        let (count, mut sum) = (teacher.len() as f64, 0.0);
        let factor = (weight / count) as f32;
        for ((slope, p), q) in self.slope.iter_mut().zip(&self.probabilities).zip(teacher) {
            let difference = p - q;
            sum += f64::from(difference * difference);
            *slope += factor * difference;
        }
        sum / (2.0 * count)
    }

    fn agree_with_masks(&mut self, masks: &[Option<Vec<u8>>], weight: f64) -> f64 {
        let count = (masks.iter().flatten().count() * self.classes * self.voxels) as f64;
        let (mut sum, factor) = (0.0, (2.0 * weight / count) as f32);
        for (sample, mask) in masks.iter().enumerate().filter_map(|(sample, mask)| Some((sample, mask.as_ref()?))) {
            for class in 0..self.classes {
                let start = (sample * self.classes + class) * self.voxels;
                for (voxel, &drawn) in mask.iter().enumerate() {
                    let truth = f32::from(u8::from(class == usize::from(drawn)));
                    let difference = self.probabilities[start + voxel] - truth;
                    sum += f64::from(difference * difference);
                    self.slope[start + voxel] += factor * difference;
                }
            }
        }
        if count == 0.0 { 0.0 } else { sum / count }
    }

    /// Carries the slopes through the softmax: `dz_c = p_c (s_c - Σ_k s_k p_k)`.
    fn into_gradient(mut self) -> Vec<f32> {
        let (classes, voxels) = (self.classes, self.voxels);
        let size = classes * voxels;
        let samples = self.gradient.chunks_exact_mut(size).zip(self.slope.chunks_exact(size));
        for ((gradient, slope), p) in samples.zip(self.probabilities.chunks_exact(size)) {
            for voxel in 0..voxels {
                let at = |class: usize| class * voxels + voxel;
                let mean: f32 = (0..classes).map(|class| slope[at(class)] * p[at(class)]).sum();
                for class in 0..classes {
                    gradient[at(class)] += p[at(class)] * (slope[at(class)] - mean);
                }
            }
        }
        self.gradient
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn total(values: &[f32], targets: &Targets, weights: TermWeights) -> f64 {
        losses(Logits { values, classes: 3, voxels: 4 }, targets, weights).0.total
    }

    proptest! {
        #[test]
        fn the_gradient_matches_finite_differences(
            values in prop::collection::vec(-2.0_f32..2.0, 24),
            teacher in prop::collection::vec(0.0_f32..1.0, 24),
            labels in prop::collection::vec(prop::sample::select(vec![0_u8, 1, 2, IGNORED]), 4),
            mask in prop::collection::vec(0_u8..3, 4),
        ) {
            let targets = Targets {
                labels: vec![Some(labels.clone()), None],
                pseudo_labels: vec![None, Some(labels)],
                teacher: Some(teacher),
                masks: vec![None, Some(mask)],
            };
            let weights = TermWeights { pseudo: 0.5, teacher: 0.7, generalist: 0.3 };
            let (_, gradient) = losses(Logits { values: &values, classes: 3, voxels: 4 }, &targets, weights);
            for at in 0..values.len() {
                let moved = |by: f32| {
                    let mut moved = values.clone();
                    moved[at] += by;
                    total(&moved, &targets, weights)
                };
                let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                prop_assert!((slope - f64::from(gradient[at])).abs() < 1e-3, "{at}: {slope} {}", gradient[at]);
            }
        }
    }

    #[test]
    fn nothing_to_compare_with_is_no_loss() {
        let values = [0.3; 8];
        let (terms, gradient) =
            losses(Logits { values: &values, classes: 2, voxels: 4 }, &Targets::default(), TermWeights::default());
        assert_eq!(terms, Losses::default());
        assert!(gradient.iter().all(|g| *g == 0.0));
    }
}
