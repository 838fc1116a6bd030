//! The small generalist: a prompted U-Net on its device, behind the interface of SAM-Med3D.
//!
//! It sees a whole scan, resampled and normalised as a student's, at the spacing that its file names; masks have the
//! resolution of the view. Its logits are divided by the temperature that made them honest on synthetic scans
//! ([`crate::train::interactive::calibration`]), which moves no border.

use std::borrow::Cow;

use burn::tensor::{Tensor, TensorData, backend::Backend};
use semisam_shared::weights::{self, Weights};
use serde::{Deserialize, Serialize};

use super::{
    network::{NetworkError, Promptable, Prompts},
    view::{View, ViewError, stations},
};
use crate::{
    data::{grid::Grid, resample::ResampleError, volume::Image},
    device::{Device, TrainBackend, Work},
    model::{
        checkpoint::Description,
        conv::operator::ConvBackend,
        leaves::to_host,
        prompt_unet::{Features, PromptUNet, PromptUNetConfig, SIDES, score},
    },
};

/// No view is longer along an axis, in voxels, so that the features of a large scan fit into memory.
const MOST: usize = 160;

/// The level whose features speak of places: blocks of four voxels, 10 mm at the usual spacing. Finer levels know edges more
/// than organs, and the coarsest has too few blocks.
const PLACES: usize = 2;

/// What the file of a small generalist says about it, beside its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// Voxel size that it was trained at, in millimetres.
    pub spacing_mm: f64,
    /// What its logits are divided by.
    pub temperature: f64,
    /// Optimiser steps that were done, and of how many.
    pub steps: [u64; 2],
    /// What names all draws of its training.
    pub seed: u64,
    /// Sides of its training volumes, in voxels.
    pub patch: [usize; 3],
    /// What it was trained on: name, weight and digest of each recipe.
    pub recipes: Vec<(String, f64, String)>,
}

/// Why a file does not say enough about its network.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    /// Nothing, or something else.
    #[error(
        "it holds a prompted U-Net, but does not say at which spacing it was trained ({0}); give the file as `sam pretrain` wrote it"
    )]
    Absent(String),
    /// Numbers that make no sense.
    #[error("it says that its spacing is {spacing_mm} mm and its temperature {temperature}; both must be positive")]
    Numbers {
        /// The spacing.
        spacing_mm: f64,
        /// The temperature.
        temperature: f64,
    },
}

impl Card {
    /// Reads what a file says.
    ///
    /// # Errors
    /// If that is nothing of the kind.
    pub fn of(description: &Description) -> Result<Self, DescriptionError> {
        let text = description.text.as_deref().ok_or_else(|| DescriptionError::Absent("no description".to_owned()))?;
        let card: Self = serde_json::from_str(text).map_err(|error| DescriptionError::Absent(error.to_string()))?;
        let positive = |number: f64| number.is_finite() && number > 0.0;
        if positive(card.spacing_mm) && positive(card.temperature) {
            return Ok(card);
        }
        Err(DescriptionError::Numbers { spacing_mm: card.spacing_mm, temperature: card.temperature })
    }
}

/// Brings a prompted U-Net to `device`.
///
/// # Errors
/// If weights or description are not those of one.
pub fn on_device(
    weights: &Weights,
    description: &Description,
    device: Device,
) -> Result<Box<dyn Promptable>, NetworkError> {
    let (config, card) = (PromptUNetConfig::of(weights)?, Card::of(description)?);
    device.run(Open { config, weights, card })
}

struct Open<'a> {
    config: PromptUNetConfig,
    weights: &'a Weights,
    card: Card,
}

impl Work for Open<'_> {
    type Output = Result<Box<dyn Promptable>, NetworkError>;

    fn run<B: TrainBackend>(self, device: &B::Device) -> Self::Output {
        let network = PromptUNet::<B::InnerBackend>::new(self.config, self.weights, device)?;
        Ok(Box::new(Small { network, card: self.card, device: device.clone(), twice: false }))
    }
}

#[derive(Debug)]
struct Small<B: Backend> {
    network: PromptUNet<B>,
    card: Card,
    device: B::Device,
    /// Whether it looks at a view a second time, turned.
    twice: bool,
}

impl<B: ConvBackend> Small<B> {
    fn look(&self, values: Vec<f32>, shape: [usize; 3]) -> Result<weights::Tensor, NetworkError> {
        Ok(self.network.embed(self.maps(values, shape))?.to_host())
    }

    /// Logits and the guess of its own intersection over union, for one look at a view.
    fn answer(
        &self,
        embedding: &weights::Tensor,
        prompts: &Prompts,
        turned: bool,
    ) -> Result<(Vec<f32>, f32), NetworkError> {
        let turn = |maps: Vec<f32>, shape| if turned { half_turn(&maps, shape) } else { maps };
        let features = Features::from_host(&self.network.config(), embedding, &self.device)?;
        let shape = features.sides();
        let maps = self.maps(turn(prompts.maps(shape)?, shape), shape);
        let mut maps = turn(to_host(self.network.decode(&features, maps)?.into_data()), shape);
        let score = score(&maps) as f32;
        maps.truncate(maps.len() / 2);
        Ok((maps, score))
    }

    /// The embedding of each look: of the view as it is, then turned.
    fn looks<'a>(&self, embedding: &'a weights::Tensor) -> Vec<Cow<'a, weights::Tensor>> {
        if !self.twice {
            return vec![Cow::Borrowed(embedding)];
        }
        let mut shape = embedding.shape.clone();
        shape.iter_mut().take(1).for_each(|numbers| *numbers /= 2);
        let halves = embedding.values.split_at(embedding.values.len() / 2);
        let look = |values: &[f32]| Cow::Owned(weights::Tensor { shape: shape.clone(), values: values.to_vec() });
        vec![look(halves.0), look(halves.1)]
    }

    fn maps(&self, values: Vec<f32>, [x, y, z]: [usize; 3]) -> Tensor<B, 5> {
        let maps = values.len() / (x * y * z);
        Tensor::from_data(TensorData::new(values, [1, maps, x, y, z]), &self.device)
    }
}

/// Maps of a view, turned by half a turn about its last axis; so turned again they are the same.
fn half_turn(maps: &[f32], [x, y, z]: [usize; 3]) -> Vec<f32> {
    let of_map = |map: &[f32]| map.chunks_exact(z).rev().flatten().copied().collect::<Vec<f32>>();
    maps.chunks_exact(x * y * z).flat_map(of_map).collect()
}

impl<B: ConvBackend> Promptable for Small<B> {
    fn name(&self) -> &'static str {
        "prompted U-Net"
    }

    fn view(&self, scan: &Image, centre: Option<[f64; 3]>) -> Result<View, ViewError> {
        View::whole(scan, self.card.spacing_mm, (SIDES, MOST), centre)
    }

    fn stations(&self, scan: &Grid) -> Result<Vec<[f64; 3]>, ResampleError> {
        stations(scan, self.card.spacing_mm, [MOST; 3])
    }

    fn mask(&self, view: [usize; 3]) -> [usize; 3] {
        view
    }

    fn embed(&self, image: &Image) -> Result<weights::Tensor, NetworkError> {
        let mut looks = self.look(image.values.clone(), image.shape)?;
        if self.twice {
            looks.values.extend(self.look(half_turn(&image.values, image.shape), image.shape)?.values);
            looks.shape[0] *= 2;
        }
        Ok(looks)
    }

    fn places(&self, embedding: &weights::Tensor) -> Result<weights::Tensor, NetworkError> {
        let looks = self.looks(embedding);
        let features = Features::<B>::from_host(&self.network.config(), &looks[0], &self.device)?;
        Ok(features.level(PLACES))
    }

    fn decode(&self, embedding: &weights::Tensor, prompts: &Prompts) -> Result<(Vec<f32>, f32), NetworkError> {
        let looks = self.looks(embedding);
        let share = 1.0 / looks.len() as f32;
        let (mut mean, mut guess) = (Vec::new(), 0.0);
        for (number, look) in looks.iter().enumerate() {
            let (logits, score) = self.answer(look, prompts, number == 1)?;
            mean.resize(logits.len(), 0.0);
            mean.iter_mut().zip(logits).for_each(|(mean, logit)| *mean += share * logit);
            guess += share * score;
        }
        mean.iter_mut().for_each(|logit| *logit /= self.card.temperature as f32);
        Ok((mean, guess))
    }

    fn look_twice(&mut self) {
        self.twice = true;
    }

    fn enlarge(&self, logits: Vec<f32>, _: [usize; 3]) -> Vec<f32> {
        logits
    }
}

#[cfg(test)]
mod tests;
