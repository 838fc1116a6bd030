//! The losses of [`super::super::losses`] and their gradient as operations on tensors, so that logits never leave the device.
//!
//! It is the same closed form, not autodiff of the terms: it costs a third of the passes over the logits, keeps none of
//! them for a way back, and is what the host's finite differences have verified. Sums are in the device's f32, folded
//! ([`folded`]), so that they do not lose digits and every unit of the device has work.

use burn::tensor::{Int, Tensor, TensorData, activation, backend::Backend};

use crate::{
    model::{norm::folded, vnet::to_host},
    train::losses::{IGNORED, Losses, Opinion, SMOOTHING, Targets, TermWeights, UNCERTAIN_OF},
};

/// [`Targets`] on the device.
///
/// Classes are tensors [samples, 1, voxels] of class numbers, [`IGNORED`] where nothing counts.
#[derive(Debug)]
pub(super) struct DeviceTargets<B: Backend> {
    labels: Option<Tensor<B, 3>>,
    pseudo_labels: Option<Tensor<B, 3>>,
    /// [samples, classes, voxels].
    teacher: Option<Tensor<B, 3>>,
    /// 1 where the teacher is certain, [samples, 1, voxels], if only that counts.
    certain: Option<Tensor<B, 3>>,
    /// What the generalist thinks, and how much that counts, [samples, classes - 1, voxels]; nothing counts of samples
    /// without an opinion.
    opinions: Option<[Tensor<B, 3>; 2]>,
    /// 1 or 0 [samples, 1, 1] for samples without and with labels.
    unlabelled: Tensor<B, 3>,
}

impl<B: Backend> DeviceTargets<B> {
    /// Copies `targets` for `samples` images of `voxels` voxels.
    pub(super) fn upload(targets: &Targets, samples: usize, voxels: usize, device: &B::Device) -> Self {
        let flags = |of: &dyn Fn(usize) -> bool| {
            let values: Vec<f32> = (0..samples).map(|sample| f32::from(u8::from(of(sample)))).collect();
            Tensor::from_data(TensorData::new(values, [samples, 1, 1]), device)
        };
        let has = |list: &[Option<Vec<u8>>], sample: usize| list.get(sample).is_some_and(Option::is_some);
        let classes = |list: &[Option<Vec<u8>>]| upload_classes(list, samples, voxels, device);
        let certain = targets
            .certain
            .as_ref()
            .map(|certain| Tensor::from_data(TensorData::new(certain.clone(), [samples, 1, voxels]), device));
        let teacher = targets.teacher.as_ref().map(|teacher| {
            let shape = [samples, teacher.len() / (samples * voxels), voxels];
            Tensor::from_data(TensorData::new(teacher.clone(), shape), device)
        });
        Self {
            labels: classes(&targets.labels),
            pseudo_labels: classes(&targets.pseudo_labels),
            teacher,
            certain,
            opinions: upload_opinions(&targets.opinions, samples, voxels, device),
            unlabelled: flags(&|sample| !has(&targets.labels, sample)),
        }
    }

    /// Takes the teacher's probabilities as a target; with a threshold, what it is more confident of becomes pseudo-labels of
    /// the samples without labels.
    pub(super) fn answer(&mut self, opinion: Tensor<B, 3>, confidence: Option<f32>) {
        if let Some(threshold) = confidence {
            self.pseudo_labels = Some(confident(&opinion, threshold, &self.unlabelled));
        }
        self.teacher = Some(opinion);
    }

    /// Counts the teacher only where the mean of `looks`, several opinions of it, has an entropy below `most` nats, and only
    /// on samples without labels.
    pub(super) fn doubt(&mut self, looks: Vec<Tensor<B, 3>>, most: f64) {
        let count = looks.len() as f32;
        let Some(mean) = looks.into_iter().reduce(|sum, look| sum + look) else { return };
        let mean = mean.div_scalar(count);
        let entropy = (mean.clone() * mean.add_scalar(UNCERTAIN_OF as f32).log()).sum_dim(1).neg();
        let [samples, _, voxels] = entropy.dims();
        let certain = entropy.lower_elem(most as f32).float();
        self.certain = Some(certain * self.unlabelled.clone().expand([samples, 1, voxels]));
    }
}

/// All opinions of a batch, if any sample has one.
fn upload_opinions<B: Backend>(
    list: &[Option<Opinion>],
    samples: usize,
    voxels: usize,
    device: &B::Device,
) -> Option<[Tensor<B, 3>; 2]> {
    let size = list.iter().flatten().next()?.probability.len();
    let upload = |of: &dyn Fn(&Opinion) -> &Vec<f32>| {
        let mut values = vec![0.0; samples * size];
        for (to, opinion) in values.chunks_exact_mut(size).zip(list) {
            opinion.iter().for_each(|opinion| to.copy_from_slice(of(opinion)));
        }
        Tensor::from_data(TensorData::new(values, [samples, size / voxels, voxels]), device)
    };
    Some([upload(&|opinion| &opinion.probability), upload(&|opinion| &opinion.confidence)])
}

/// Class numbers of all samples, if any has some.
fn upload_classes<B: Backend>(
    list: &[Option<Vec<u8>>],
    samples: usize,
    voxels: usize,
    device: &B::Device,
) -> Option<Tensor<B, 3>> {
    list.iter().any(Option::is_some).then(|| {
        let mut values = vec![f32::from(IGNORED); samples * voxels];
        for (sample, classes) in list.iter().enumerate() {
            let to = &mut values[sample * voxels..(sample + 1) * voxels];
            to.iter_mut().zip(classes.iter().flatten()).for_each(|(to, class)| *to = f32::from(*class));
        }
        Tensor::from_data(TensorData::new(values, [samples, 1, voxels]), device)
    })
}

/// The likeliest class of each voxel, the last of equals; [`IGNORED`] where it is not likelier than `threshold` or the sample
/// is labelled.
fn confident<B: Backend>(opinion: &Tensor<B, 3>, threshold: f32, unlabelled: &Tensor<B, 3>) -> Tensor<B, 3> {
    let [samples, classes, voxels] = opinion.dims();
    let mut best = opinion.clone().narrow(1, 0, 1);
    let mut likeliest = best.zeros_like();
    for class in 1..classes {
        let found = opinion.clone().narrow(1, class, 1);
        likeliest = likeliest.mask_fill(found.clone().greater_equal(best.clone()), class as f32);
        best = best.max_pair(found);
    }
    let labelled = unlabelled.clone().equal_elem(0.0).expand([samples, 1, voxels]);
    likeliest.mask_fill(best.lower_equal_elem(threshold).bool_or(labelled), f32::from(IGNORED))
}

/// The terms of a step, on the device until they are read.
#[derive(Clone, Debug)]
pub(super) struct DeviceLosses<B: Backend> {
    /// Cross-entropy, Dice, the same against pseudo-labels, teacher, generalist; none where there was no such target.
    terms: [Option<Tensor<B, 1>>; 6],
    weights: TermWeights,
}

impl<B: Backend> DeviceLosses<B> {
    /// Waits for the step and brings its terms to the host.
    pub(super) fn read(&self) -> Losses {
        let known: Vec<Tensor<B, 1>> = self.terms.iter().flatten().cloned().collect();
        let values = if known.is_empty() { Vec::new() } else { to_host(Tensor::cat(known, 0).into_data()) };
        let mut values = values.into_iter().map(f64::from);
        let mut next = |term: &Option<_>| if term.is_some() { values.next().unwrap_or_default() } else { 0.0 };
        let [cross_entropy, dice, pseudo_entropy, pseudo_dice, teacher, generalist] =
            self.terms.each_ref().map(&mut next);
        let (pseudo, weights) = (pseudo_entropy + pseudo_dice, self.weights);
        let total = cross_entropy
            + dice
            + weights.pseudo * pseudo
            + weights.teacher * teacher
            + weights.generalist * generalist;
        Losses { cross_entropy, dice, pseudo, teacher, generalist, total }
    }
}

/// [batch, classes, d, h, w] -> [batch, classes, voxels].
pub(super) fn by_voxel<B: Backend>(logits: Tensor<B, 5>) -> Tensor<B, 3> {
    let [samples, classes, d, h, w] = logits.dims();
    logits.reshape([samples, classes, d * h * w])
}

/// The softmax over classes of [samples, classes, voxels].
pub(super) fn softmax<B: Backend>(logits: Tensor<B, 3>) -> Tensor<B, 3> {
    activation::softmax(logits, 1)
}

/// The terms, and the gradient of their weighted sum with respect to `logits` [samples, classes, voxels].
pub(super) fn losses<B: Backend>(
    logits: Tensor<B, 3>,
    targets: &DeviceTargets<B>,
    weights: TermWeights,
) -> (DeviceLosses<B>, Tensor<B, 3>) {
    let mut batch = Gathering::new(softmax(logits));
    let [cross_entropy, dice] = batch.supervised(targets.labels.as_ref(), 1.0);
    let [pseudo_entropy, pseudo_dice] = batch.supervised(targets.pseudo_labels.as_ref(), weights.pseudo);
    let teacher = targets.teacher.as_ref().map(|teacher| match &targets.certain {
        None => batch.agree_with_teacher(teacher, weights.teacher),
        Some(certain) => batch.agree_where_certain(teacher, certain, weights.teacher),
    });
    let generalist =
        targets.opinions.as_ref().map(|[thought, trust]| batch.agree_with_opinions(thought, trust, weights.generalist));
    let terms = [cross_entropy, dice, pseudo_entropy, pseudo_dice, teacher, generalist];
    (DeviceLosses { terms, weights }, batch.into_gradient())
}

/// Probabilities of a batch and what has been gathered of the gradient.
struct Gathering<B: Backend> {
    probabilities: Tensor<B, 3>,
    /// With respect to the probabilities.
    slope: Tensor<B, 3>,
    /// With respect to the logits, from terms that are simplest in them.
    gradient: Tensor<B, 3>,
    /// 0, 1, 2, .. [1, classes, 1].
    classes: Tensor<B, 3>,
    /// 0 for the background and 1 for the other classes [1, classes, 1].
    foreground: Tensor<B, 3>,
}

impl<B: Backend> Gathering<B> {
    fn new(probabilities: Tensor<B, 3>) -> Self {
        let ([_, count, _], device) = (probabilities.dims(), probabilities.device());
        let classes = Tensor::<B, 1, Int>::arange(0..count as i64, &device).float().reshape([1, count, 1]);
        Self {
            slope: probabilities.zeros_like(),
            gradient: probabilities.zeros_like(),
            foreground: classes.clone().clamp_max(1.0),
            classes,
            probabilities,
        }
    }

    /// Cross-entropy and Dice over the voxels that count; both are zero, with their gradient, if none does.
    fn supervised(&mut self, labels: Option<&Tensor<B, 3>>, weight: f64) -> [Option<Tensor<B, 1>>; 2] {
        let Some(labels) = labels else { return [None, None] };
        let truth = self.is_class(labels);
        let counted = labels.clone().not_equal_elem(f32::from(IGNORED)).float(); // [samples, 1, voxels]
        [Some(self.cross_entropy(&truth, &counted, weight)), Some(self.dice(truth, counted, weight))]
    }

    /// 1 where a class is the class of its voxel, else 0.
    fn is_class(&self, labels: &Tensor<B, 3>) -> Tensor<B, 3> {
        let shape = self.probabilities.dims();
        labels.clone().expand(shape).equal(self.classes.clone().expand(shape)).float()
    }

    fn cross_entropy(&mut self, truth: &Tensor<B, 3>, counted: &Tensor<B, 3>, weight: f64) -> Tensor<B, 1> {
        let p = &self.probabilities;
        let count = by_class(counted.clone()).clamp_min(1.0); // [1, 1, 1]
        let information = truth.clone() * p.clone().clamp_min(f32::MIN_POSITIVE).log();
        let factor = count.clone().recip().mul_scalar(weight as f32);
        self.gradient = self.gradient.clone() + (p.clone() - truth.clone()) * (counted.clone() * factor);
        (by_class(information).sum_dim(1).neg() / count).reshape([1])
    }

    fn dice(&mut self, truth: Tensor<B, 3>, counted: Tensor<B, 3>, weight: f64) -> Tensor<B, 1> {
        let [_, classes, _] = truth.dims();
        let share = 1.0 / (classes - 1) as f64;
        let p = self.probabilities.clone() * counted;
        let common = by_class(p.clone() * truth.clone());
        let predicted = by_class(p.clone() * p.clone());
        let numerator = common.mul_scalar(2.0).add_scalar(SMOOTHING as f32); // [1, classes, 1]
        let denominator = (predicted + by_class(truth.clone())).add_scalar(SMOOTHING as f32);
        let overlap = numerator / denominator.clone();
        let factor = self.foreground.clone().mul_scalar((2.0 * weight * share) as f32) / denominator;
        self.slope = self.slope.clone() + p * (factor.clone() * overlap.clone()) - truth * factor;
        let missed = (overlap.neg().add_scalar(1.0) * self.foreground.clone()).sum();
        missed.mul_scalar(share as f32)
    }

    fn agree_with_teacher(&mut self, teacher: &Tensor<B, 3>, weight: f64) -> Tensor<B, 1> {
        let difference = self.probabilities.clone() - teacher.clone();
        let count = difference.shape().num_elements() as f64;
        self.slope = self.slope.clone() + difference.clone().mul_scalar((weight / count) as f32);
        by_class(difference.clone() * difference).sum().mul_scalar((0.5 / count) as f32)
    }

    fn agree_where_certain(&mut self, teacher: &Tensor<B, 3>, certain: &Tensor<B, 3>, weight: f64) -> Tensor<B, 1> {
        let [samples, classes, voxels] = self.probabilities.dims();
        let difference = self.probabilities.clone() - teacher.clone();
        let counted = difference.clone() * certain.clone().expand([samples, classes, voxels]);
        let share = by_class(certain.clone()).clamp_min(1.0).mul_scalar(classes as f32).recip(); // [1, 1, 1]
        self.slope = self.slope.clone() + counted.clone() * share.clone().mul_scalar((2.0 * weight) as f32);
        (by_class(counted * difference).sum_dim(1) * share).reshape([1])
    }

    fn agree_with_opinions(&mut self, thought: &Tensor<B, 3>, trust: &Tensor<B, 3>, weight: f64) -> Tensor<B, 1> {
        let [samples, classes, voxels] = self.probabilities.dims();
        let difference = self.probabilities.clone().narrow(1, 1, classes - 1) - thought.clone();
        let counted = difference.clone() * trust.clone();
        let all = by_class(trust.clone()).sum_dim(1); // [1, 1, 1]
        let share = all.clone().recip().mask_fill(all.equal_elem(0.0), 0.0);
        let slope = counted.clone() * share.clone().mul_scalar((2.0 * weight) as f32);
        let background = Tensor::zeros([samples, 1, voxels], &slope.device());
        self.slope = self.slope.clone() + Tensor::cat(vec![background, slope], 1);
        (by_class(counted * difference).sum_dim(1) * share).reshape([1])
    }

    /// Carries the slopes through the softmax: `dz_c = p_c (s_c - Σ_k s_k p_k)`.
    fn into_gradient(self) -> Tensor<B, 3> {
        let Self { probabilities: p, slope, gradient, .. } = self;
        let mean = (slope.clone() * p.clone()).sum_dim(1);
        gradient + p * (slope - mean)
    }
}

/// Sums over samples and voxels: [samples, classes, voxels] -> [1, classes, 1].
fn by_class<B: Backend>(values: Tensor<B, 3>) -> Tensor<B, 3> {
    folded(values).sum_dim(0)
}

#[cfg(test)]
mod tests;
