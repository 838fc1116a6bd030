//! One step's computation on a device: probabilities of a batch, or losses and the gradient.
//!
//! GroupNorm keeps samples apart, so on the CPU each sample of a batch is a computation of its own and as many run at once
//! as there are threads; only the losses see the batch together. Gradients are added in the order of the samples.

use std::ops::Range;

use burn::tensor::{Tensor, TensorData, backend::Backend};

use super::{
    TrainError, generator,
    losses::{self, Logits, Losses, Targets, TermWeights},
    parallel,
};
use crate::{
    device::TrainBackend,
    model::{
        VNetConfig,
        vnet::{DropoutMasks, VNet, to_host},
    },
};

/// Images of one size.
#[derive(Clone)]
pub struct Batch {
    /// [samples, x, y, z], z fastest.
    pub images: Vec<f32>,
    /// How many there are.
    pub samples: usize,
    /// Extents of each, multiples of 16.
    pub patch: [usize; 3],
}

impl Batch {
    pub(super) fn voxels(&self) -> usize {
        self.patch.iter().product()
    }

    /// Some of the samples, on the device.
    pub(super) fn to_device<B: Backend>(&self, samples: Range<usize>, device: &B::Device) -> Tensor<B, 5> {
        let ([x, y, z], count) = (self.patch, samples.len());
        let values = self.images[samples.start * self.voxels()..samples.end * self.voxels()].to_vec();
        Tensor::from_data(TensorData::new(values, [count, 1, x, y, z]), device)
    }

    /// The samples that are computed together.
    fn parts<B: TrainBackend>(&self) -> Vec<Range<usize>> {
        let size = if B::PER_SAMPLE { 1 } else { self.samples };
        (0..self.samples).step_by(size.max(1)).map(|first| first..first + size).collect()
    }
}

/// The masks of dropout for some samples of a batch: each sample has a generator of its own.
pub(super) fn dropout_masks<B: Backend>(
    config: &VNetConfig,
    seed: u64,
    samples: Range<usize>,
    device: &B::Device,
) -> DropoutMasks<B> {
    let mut generators: Vec<_> = samples.map(|sample| generator(seed, "dropout", &[sample as u64])).collect();
    DropoutMasks::draw(config, &mut generators, device)
}

/// The softmax of `network` for each image, [samples, classes, voxels]; with a seed, dropout draws from it.
///
/// # Errors
/// If a side is no multiple of 16.
pub fn probabilities<B: TrainBackend>(
    network: &VNet<B::InnerBackend>,
    batch: &Batch,
    dropout: Option<u64>,
    device: &B::Device,
) -> Result<Vec<f32>, TrainError> {
    let of_part = |_, part: Range<usize>| {
        let masks = dropout.map(|seed| dropout_masks(&network.config(), seed, part.clone(), device));
        let logits = network.forward(batch.to_device(part, device), masks.as_ref())?;
        let [_, classes, ..] = logits.dims();
        let values = to_host(logits.into_data());
        Ok(losses::softmax(Logits { values: &values, classes, voxels: batch.voxels() }))
    };
    let parts: Result<Vec<Vec<f32>>, TrainError> = parallel::map(batch.parts::<B>(), of_part).into_iter().collect();
    Ok(parts?.concat())
}

/// The losses of `network` on a batch, and their gradient in the flat order of the weights; with a seed, dropout draws
/// from it.
///
/// # Errors
/// If batch and architecture do not fit.
pub fn gradient<B: TrainBackend>(
    network: &VNet<B::InnerBackend>,
    batch: &Batch,
    (targets, terms): (&Targets, TermWeights),
    dropout: Option<u64>,
    device: &B::Device,
) -> Result<(Losses, Vec<f32>), TrainError> {
    let config = network.config();
    let forward = |_, part: Range<usize>| {
        let network = VNet::<B>::tracked(network);
        let masks = dropout.map(|seed| dropout_masks(&config, seed, part.clone(), device));
        let logits = network.forward(batch.to_device(part, device), masks.as_ref())?;
        let values = to_host(logits.clone().into_data());
        Ok((network, logits, values))
    };
    let parts: Result<Vec<_>, TrainError> = parallel::map(batch.parts::<B>(), forward).into_iter().collect();
    let parts = parts?;
    let values: Vec<f32> = parts.iter().flat_map(|(_, _, values)| values.iter().copied()).collect();
    let of_batch = Logits { values: &values, classes: config.classes, voxels: batch.voxels() };
    let (losses, gradient) = losses::losses(of_batch, targets, terms);
    let size = gradient.len() / parts.len();
    let backward = |part: usize, (network, logits, _): (VNet<B>, Tensor<B, 5>, Vec<f32>)| {
        let slope = TensorData::new(gradient[part * size..(part + 1) * size].to_vec(), logits.dims());
        // the derivative of this sum with respect to the logits is exactly the slope
        let sum = (logits * Tensor::from_data(slope, device)).sum();
        network.gradient(sum.backward())
    };
    Ok((losses, add(parallel::map(parts, backward))))
}

/// The sum of vectors, in their order.
fn add(vectors: Vec<Vec<f32>>) -> Vec<f32> {
    let mut vectors = vectors.into_iter();
    let mut sum = vectors.next().unwrap_or_default();
    for vector in vectors {
        sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value);
    }
    sum
}
