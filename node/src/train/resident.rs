//! A training run that lives on the device: student, teacher, velocity, losses and gradients are its tensors from the first
//! step to the last.
//!
//! A step uploads its inputs first (images, labels, masks of dropout); from then on nothing is copied either way, so the
//! host runs ahead and the device never waits for it. Losses are read when somebody asks for them, weights when the run
//! is saved or over. Each of student, teacher, velocity and gradient is one flat tensor in the order of the weights:
//! optimiser and teacher are then nine operations instead of nine for each of 118 tensors; in exchange each tensor is cut
//! out of the flat ones, and its gradient joined to the others, by one small copy on the device.

mod losses;
mod optimiser;

use burn::tensor::{Tensor, TensorData};

use self::losses::{DeviceLosses, DeviceTargets};
use super::{
    TrainError,
    losses::Losses,
    step::{Batch, dropout_masks},
    trainer::{Optimiser, Parameters, Step},
};
use crate::{
    device::TrainBackend,
    model::{
        ModelError, VNetConfig, layout,
        vnet::{DropoutMasks, VNet, to_host},
    },
};

/// The run between two steps.
#[derive(Clone)]
pub struct Resident<B: TrainBackend> {
    config: VNetConfig,
    device: B::Device,
    shapes: Vec<(String, Vec<usize>)>,
    student: Tensor<B::InnerBackend, 1>,
    teacher: Tensor<B::InnerBackend, 1>,
    sgd: optimiser::Sgd<B::InnerBackend>,
    losses: Option<DeviceLosses<B::InnerBackend>>,
}

/// The inputs of a step, on the device.
struct Inputs<B: TrainBackend> {
    images: Tensor<B, 5>,
    dropout: Option<DropoutMasks<B>>,
    targets: DeviceTargets<B::InnerBackend>,
    question: Option<Asked<B>>,
}

/// What the teacher is asked, on the device.
struct Asked<B: TrainBackend> {
    images: Tensor<B::InnerBackend, 5>,
    dropout: Option<DropoutMasks<B::InnerBackend>>,
    confidence: Option<f32>,
    /// Further looks, and the entropy below which it is certain.
    doubt: Option<(Vec<Look<B::InnerBackend>>, f64)>,
}

/// Images, and masks of dropout.
type Look<B> = (Tensor<B, 5>, Option<DropoutMasks<B>>);

impl<B: TrainBackend> Resident<B> {
    pub(super) fn new(
        config: VNetConfig,
        parameters: Parameters,
        optimiser: Optimiser,
        device: &B::Device,
    ) -> Result<Self, TrainError> {
        config.check()?;
        let shapes = layout::shapes(&config);
        let count = shapes.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        let upload = |values: Vec<f32>| {
            if values.len() != count {
                let error = semisam_shared::weights::WeightsError::Length { expected: count, found: values.len() };
                return Err(TrainError::Model(ModelError::Weights(error)));
            }
            Ok(Tensor::from_data(TensorData::new(values, [count]), device))
        };
        let Parameters { student, teacher, velocity } = parameters;
        let (student, teacher) = (upload(student)?, upload(teacher)?);
        let sgd = optimiser::Sgd::resume(upload(velocity)?, optimiser);
        Ok(Self { config, device: device.clone(), shapes, student, teacher, sgd, losses: None })
    }

    pub(super) fn step(&mut self, step: &Step) -> Result<(), TrainError> {
        let Inputs { images, dropout, mut targets, question } = self.upload(step);
        if let Some(question) = question {
            let network = VNet::from_flat(self.config, &self.shapes, &self.teacher);
            let logits = network.forward(question.images, question.dropout.as_ref())?;
            targets.answer(losses::softmax(losses::by_voxel(logits)), question.confidence);
            if let Some((looks, most)) = question.doubt {
                let look = |(images, dropout): (_, Option<DropoutMasks<_>>)| {
                    network.forward(images, dropout.as_ref()).map(|logits| losses::softmax(losses::by_voxel(logits)))
                };
                targets.doubt(looks.into_iter().map(look).collect::<Result<_, _>>()?, most);
            }
        }
        let network = VNet::<B>::tracked(&VNet::from_flat(self.config, &self.shapes, &self.student));
        let logits = network.forward(images, dropout.as_ref())?;
        let (found, slope) = losses::losses(losses::by_voxel(logits.clone().inner()), &targets, step.terms);
        // the derivative of this sum with respect to the logits is exactly the slope
        let slope = Tensor::from_inner(slope.reshape(logits.dims()));
        let gradient = network.flat_gradient(&(logits * slope).sum().backward());
        self.losses = Some(found);
        self.student = self.sgd.step(self.student.clone(), gradient, step.learning_rate);
        if let Some(number) = step.average {
            self.teacher = optimiser::follow(self.teacher.clone(), &self.student, number);
        }
        Ok(())
    }

    /// Brings everything that a step sees to the device.
    fn upload(&self, step: &Step) -> Inputs<B> {
        let (batch, device) = (&step.batch, &self.device);
        let all = || 0..batch.samples;
        let look = |batch: &Batch, dropout: Option<u64>| {
            let dropout = dropout.map(|seed| dropout_masks(&self.config, seed, all(), device));
            (batch.to_device(all(), device), dropout)
        };
        let question = step.question.as_ref().map(|question| {
            let (images, dropout) = look(&question.batch, question.dropout);
            let doubt = question
                .doubt
                .as_ref()
                .map(|doubt| (doubt.looks.iter().map(|(batch, dropout)| look(batch, *dropout)).collect(), doubt.most));
            Asked { images, dropout, confidence: question.confidence, doubt }
        });
        Inputs {
            images: batch.to_device(all(), device),
            dropout: step.dropout.map(|seed| dropout_masks(&self.config, seed, all(), device)),
            targets: DeviceTargets::upload(&step.targets, batch.samples, batch.voxels(), device),
            question,
        }
    }

    pub(super) fn losses(&self) -> Losses {
        self.losses.as_ref().map(DeviceLosses::read).unwrap_or_default()
    }

    pub(super) fn student(&self) -> Vec<f32> {
        to_host(self.student.to_data())
    }

    pub(super) fn teacher(&self) -> Vec<f32> {
        to_host(self.teacher.to_data())
    }

    pub(super) fn parameters(&self) -> Parameters {
        let (teacher, velocity) = (to_host(self.teacher.to_data()), to_host(self.sgd.velocity().to_data()));
        Parameters { student: self.student(), teacher, velocity }
    }
}
