//! The loss terms of SemiSAM and SemiSAM+ and their gradient with respect to the logits (spec/semisam.md, 5.2, 6.2, 6.3).
//!
//! Cross-entropy and Dice on labelled samples, agreement with the teacher on all or where it is certain, agreement with the
//! generalist's opinion where there is one, as far as it is to be trusted. The terms are closed forms of the softmax, so value and gradient are computed here, on the host,
//! in two passes with sums in f64: exact to rounding, and the same bits whatever the backend does with threads. The
//! backend only carries the gradient on through the network.

/// A voxel with this label takes no part in cross-entropy and Dice.
pub const IGNORED: u8 = u8::MAX;

/// Keeps Dice defined where a class is absent.
pub(super) const SMOOTHING: f64 = 1e-5;

/// Keeps the entropy of a class that is impossible defined (spec/semisam.md, 6.2).
pub(super) const UNCERTAIN_OF: f64 = 1e-6;

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
    /// 1 where the teacher is certain and 0 elsewhere, [samples, voxels]: then only that counts, and only on samples
    /// without labels (UA-MT).
    pub certain: Option<Vec<f32>>,
    /// What the generalist thinks.
    pub opinions: Vec<Option<Opinion>>,
}

/// What a generalist thinks of a sample. Nothing here is differentiated.
#[derive(Clone, Debug, PartialEq)]
pub struct Opinion {
    /// How likely each class but the background is, [classes - 1, voxels].
    pub probability: Vec<f32>,
    /// How much each of these counts, at least 0.
    pub confidence: Vec<f32>,
}

impl Opinion {
    /// A mask of classes that is taken as it is.
    pub fn of_mask(mask: &[u8], classes: usize) -> Self {
        let of_class = |class: usize| mask.iter().map(move |drawn| f32::from(u8::from(usize::from(*drawn) == class)));
        let probability: Vec<f32> = (1..classes).flat_map(of_class).collect();
        Self { confidence: vec![1.0; probability.len()], probability }
    }

    /// The class of each voxel that is likelier than `threshold`, [`IGNORED`] where none is.
    pub fn labels(&self, classes: usize, threshold: f32) -> Vec<u8> {
        let voxels = self.probability.len() / (classes - 1).max(1);
        let of_voxel = |voxel: usize| {
            let of_class = |class: usize| self.probability[(class - 1) * voxels + voxel];
            let background = 1.0 - (1..classes).map(of_class).sum::<f32>();
            let start = (0, background);
            let (class, most) =
                (1..classes).map(|class| (class, of_class(class))).fold(start, |a, b| if b.1 > a.1 { b } else { a });
            if most > threshold { class as u8 } else { IGNORED }
        };
        (0..voxels).map(of_voxel).collect()
    }
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
    /// Half the mean squared difference from the teacher; of UA-MT the mean one where it is certain.
    pub teacher: f64,
    /// Squared difference from the generalist's opinion, the mean weighted by its confidence.
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
    let teacher = match (&targets.teacher, &targets.certain) {
        (Some(teacher), None) => batch.agree_with_teacher(teacher, weights.teacher),
        (Some(teacher), Some(certain)) => batch.agree_where_certain(teacher, certain, weights.teacher),
        (None, _) => 0.0,
    };
    let generalist = batch.agree_with_opinions(&targets.opinions, weights.generalist);
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

    fn agree_where_certain(&mut self, teacher: &[f32], certain: &[f32], weight: f64) -> f64 {
        assert_eq!(teacher.len(), self.probabilities.len(), "teacher and student see the same batch");
        assert_eq!(certain.len() * self.classes, teacher.len(), "each voxel is certain or not");
        let counted: f64 = certain.iter().map(|certain| f64::from(*certain)).sum();
        if counted == 0.0 {
            return 0.0;
        }
        let (count, mut sum) = (counted * self.classes as f64, 0.0);
        let factor = (2.0 * weight / count) as f32;
        for at in 0..teacher.len() {
            let sample = at / (self.classes * self.voxels);
            let difference = self.probabilities[at] - teacher[at];
            let certain = certain[sample * self.voxels + at % self.voxels];
            sum += f64::from(certain * difference * difference);
            self.slope[at] += factor * certain * difference;
        }
        sum / count
    }

    fn agree_with_opinions(&mut self, opinions: &[Option<Opinion>], weight: f64) -> f64 {
        let trust: f64 =
            opinions.iter().flatten().flat_map(|opinion| &opinion.confidence).map(|trust| f64::from(*trust)).sum();
        if trust == 0.0 {
            return 0.0;
        }
        let (mut sum, factor) = (0.0, 2.0 * weight / trust);
        for (sample, opinion) in opinions.iter().enumerate() {
            let Some(Opinion { probability, confidence }) = opinion else { continue };
            let foreground = (sample * self.classes + 1) * self.voxels..(sample + 1) * self.classes * self.voxels;
            assert_eq!((probability.len(), confidence.len()), (foreground.len(), foreground.len()), "of this sample");
            let slopes = self.slope[foreground.clone()].iter_mut().zip(&self.probabilities[foreground]);
            for ((slope, p), (q, trust)) in slopes.zip(probability.iter().zip(confidence)) {
                let difference = f64::from(p - q);
                sum += f64::from(*trust) * difference * difference;
                *slope += (factor * f64::from(*trust) * difference) as f32;
            }
        }
        sum / trust
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
mod tests;
