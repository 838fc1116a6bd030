//! The gradient of one example: prompts, an answer, corrections of that answer, and the answer after them.
//!
//! The image is embedded once. The first and the last answer are differentiated; those between, if there are any, only say
//! where the next click goes, so that the network learns on the prompts that it will meet and not on perfect ones.

use burn::tensor::{Tensor, TensorData};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{
    InteractiveError,
    example::Example,
    losses::{MaskLosses, mask_losses},
};
use crate::{
    device::TrainBackend,
    model::{
        conv::operator::ConvBackend,
        leaves::to_host,
        prompt_unet::{
            Features, PromptUNet,
            layout::{MAPS, PROMPT_MAPS},
            prompt::Prompts,
        },
    },
};

/// Answers between the first and the last one, at most.
const BETWEEN: usize = 3;

/// Losses of the first and of the last answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ExampleLosses {
    /// After the first prompts.
    pub first: MaskLosses,
    /// After corrections.
    pub last: MaskLosses,
}

/// Losses of what the network `plain` answers about an example, and the gradient of the mean of both answers' losses, in the
/// flat order of the weights. All that is drawn comes from `random`.
///
/// # Errors
/// If example and network do not fit.
pub fn gradient<B: TrainBackend>(
    plain: &PromptUNet<B::InnerBackend>,
    example: &Example,
    random: &mut ChaCha8Rng,
    device: &B::Device,
) -> Result<(ExampleLosses, Vec<f32>), InteractiveError> {
    let network = PromptUNet::<B>::tracked(plain);
    let features = network.embed(on_device(example.image.clone(), 1, example.shape, device))?;
    let voxels = example.object.len();
    let mut prompts = example.first_prompts(random);
    let (first, mut values) = answer(&network, &features, &prompts, device)?;
    let (first_losses, first_slope) = mask_losses(&values, &example.object, 0.5);
    let frozen = features.inner();
    for _ in 0..random.random_range(0..=BETWEEN) {
        correct(example, &mut prompts, &values[..voxels], random);
        values = answer(plain, &frozen, &prompts, device)?.1;
    }
    correct(example, &mut prompts, &values[..voxels], random);
    let (last, values) = answer(&network, &features, &prompts, device)?;
    let (last_losses, last_slope) = mask_losses(&values, &example.object, 0.5);
    // the derivative of this sum with respect to the maps is exactly the slopes of the losses
    let slope = |slope: Vec<f32>| on_device::<B>(slope, MAPS, example.shape, device);
    let sum = (first * slope(first_slope)).sum() + (last * slope(last_slope)).sum();
    let losses = ExampleLosses { first: first_losses, last: last_losses };
    Ok((losses, network.gradient(sum.backward())))
}

/// Adds clicks where the answer is wrong, and feeds its mask back.
pub(super) fn correct(example: &Example, prompts: &mut Prompts, logits: &[f32], random: &mut ChaCha8Rng) {
    let mask: Vec<bool> = logits.iter().map(|logit| *logit > 0.0).collect();
    example.correct(&mask, prompts, random);
    prompts.mask = Some(logits.to_vec());
}

/// The maps that `prompts` lead to, and the same in the host's memory.
pub(super) fn answer<B: ConvBackend>(
    network: &PromptUNet<B>,
    features: &Features<B>,
    prompts: &Prompts,
    device: &B::Device,
) -> Result<(Tensor<B, 5>, Vec<f32>), InteractiveError> {
    let shape = features.sides();
    let maps = network.decode(features, on_device(prompts.maps(shape)?, PROMPT_MAPS, shape, device))?;
    let values = to_host(maps.clone().into_data());
    Ok((maps, values))
}

/// Maps of one image.
pub fn on_device<B: ConvBackend>(
    values: Vec<f32>,
    maps: usize,
    [x, y, z]: [usize; 3],
    device: &B::Device,
) -> Tensor<B, 5> {
    Tensor::from_data(TensorData::new(values, [1, maps, x, y, z]), device)
}
