//! A training run in the host's memory: the backend computes the network, everything else happens here in closed form, with
//! sums in f64 and in a fixed order. On the CPU the same arguments give the same bits.

use semisam_shared::weights::WeightsError;

use super::{
    TrainError,
    losses::{IGNORED, Losses, UNCERTAIN_OF},
    optimiser::Sgd,
    step::{Batch, gradient, probabilities},
    teacher::follow,
    trainer::{Optimiser, Parameters, Step},
};
use crate::{
    device::TrainBackend,
    model::{ModelError, VNetConfig, layout, vnet::VNet},
};

/// The run between two steps.
#[derive(Clone)]
pub struct Host<B: TrainBackend> {
    config: VNetConfig,
    device: B::Device,
    shapes: Vec<(String, Vec<usize>)>,
    student: Vec<f32>,
    teacher: Vec<f32>,
    /// The teacher as a network, while it does not change.
    asked: Option<VNet<B::InnerBackend>>,
    sgd: Sgd,
    losses: Losses,
}

impl<B: TrainBackend> Host<B> {
    pub(super) fn new(
        config: VNetConfig,
        parameters: Parameters,
        optimiser: Optimiser,
        device: &B::Device,
    ) -> Result<Self, TrainError> {
        config.check()?;
        let Parameters { student, teacher, velocity } = parameters;
        let shapes = layout::shapes(&config);
        let expected = shapes.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        for found in [student.len(), teacher.len(), velocity.len()] {
            if found != expected {
                return Err(TrainError::Model(ModelError::Weights(WeightsError::Length { expected, found })));
            }
        }
        let sgd = Sgd::resume(velocity, optimiser.momentum, optimiser.weight_decay);
        let losses = Losses::default();
        Ok(Self { config, device: device.clone(), shapes, student, teacher, asked: None, sgd, losses })
    }

    pub(super) fn step(&mut self, step: Step) -> Result<(), TrainError> {
        let mut targets = step.targets;
        if let Some(question) = step.question {
            let opinion = self.ask(&question.batch, question.dropout)?;
            if let Some(threshold) = question.confidence {
                targets.pseudo_labels = pseudo_labels(&opinion, &targets.labels, self.config.classes, threshold);
            }
            if let Some(doubt) = &question.doubt {
                let looks = doubt.looks.iter().map(|(batch, dropout)| self.ask(batch, *dropout));
                let looks = looks.collect::<Result<Vec<_>, _>>()?;
                targets.certain = Some(certain(&looks, &targets.labels, self.config.classes, doubt.most));
            }
            targets.teacher = Some(opinion);
        }
        let what = (&targets, step.terms);
        let network = VNet::of_values(self.config, &self.shapes, &self.student, &self.device);
        let (losses, gradient) = gradient::<B>(&network, &step.batch, what, step.dropout, &self.device)?;
        self.losses = losses;
        self.sgd.step(&mut self.student, &gradient, step.learning_rate);
        if let Some(number) = step.average {
            follow(&mut self.teacher, &self.student, number);
            self.asked = None;
        }
        Ok(())
    }

    /// What the teacher thinks of a batch.
    fn ask(&mut self, batch: &Batch, dropout: Option<u64>) -> Result<Vec<f32>, TrainError> {
        let teacher = || VNet::of_values(self.config, &self.shapes, &self.teacher, &self.device);
        let network = self.asked.take().unwrap_or_else(teacher);
        let opinion = probabilities::<B>(&network, batch, dropout, &self.device)?;
        self.asked = Some(network);
        Ok(opinion)
    }

    pub(super) fn losses(&self) -> Losses {
        self.losses
    }

    pub(super) fn student(&self) -> &[f32] {
        &self.student
    }

    pub(super) fn teacher(&self) -> &[f32] {
        &self.teacher
    }

    pub(super) fn parameters(&self) -> Parameters {
        let velocity = self.sgd.velocity().to_vec();
        Parameters { student: self.student.clone(), teacher: self.teacher.clone(), velocity }
    }
}

/// For samples without labels, the classes that the teacher is confident of.
pub(super) fn pseudo_labels(
    opinion: &[f32],
    labels: &[Option<Vec<u8>>],
    classes: usize,
    threshold: f32,
) -> Vec<Option<Vec<u8>>> {
    let samples = opinion.chunks_exact(opinion.len() / labels.len()).zip(labels);
    samples.map(|(opinion, labels)| labels.is_none().then(|| confident(opinion, classes, threshold))).collect()
}

/// The likeliest class of each voxel, or [`IGNORED`] where it is not likelier than `threshold`.
fn confident(probabilities: &[f32], classes: usize, threshold: f32) -> Vec<u8> {
    let voxels = probabilities.len() / classes;
    let of_voxel = |voxel: usize| {
        let at = |class: usize| probabilities[class * voxels + voxel];
        let best = (0..classes).max_by(|a, b| at(*a).total_cmp(&at(*b))).expect("a student has at least two classes");
        if at(best) > threshold { best as u8 } else { IGNORED }
    };
    (0..voxels).map(of_voxel).collect()
}

/// 1 where the mean of several opinions has an entropy below `most` nats, 0 elsewhere and on samples with labels:
/// [samples, voxels].
pub(super) fn certain(looks: &[Vec<f32>], labels: &[Option<Vec<u8>>], classes: usize, most: f64) -> Vec<f32> {
    let voxels = looks[0].len() / (labels.len() * classes);
    let of_voxel = |at: usize| {
        let (sample, voxel) = (at / voxels, at % voxels);
        let surprise = |class: usize| {
            let look = |look: &Vec<f32>| f64::from(look[(sample * classes + class) * voxels + voxel]);
            let p = looks.iter().map(look).sum::<f64>() / looks.len() as f64;
            -p * (p + UNCERTAIN_OF).ln()
        };
        let entropy: f64 = (0..classes).map(surprise).sum();
        f32::from(u8::from(labels[sample].is_none() && entropy < most))
    };
    (0..labels.len() * voxels).map(of_voxel).collect()
}
