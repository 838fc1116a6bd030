//! What a promptable network is, seen from outside: host tensors in, host tensors out, the weights on its device.
//!
//! Everything that differs between generalists is behind [`Promptable`]; which network a file holds is told by its tensors.

use std::fmt;

use burn::tensor::{Tensor, TensorData, backend::Backend};
use semisam_shared::weights::{self, Weights};

pub use crate::model::prompt_unet::prompt::Prompts;

use super::{
    unet,
    view::{SPACING_MM, View, ViewError, stations},
};
use crate::{
    data::{grid::Grid, resample::ResampleError, volume::Image},
    device::{Device, TrainBackend, Work},
    model::{
        checkpoint::Description,
        leaves::to_host,
        prompt_unet::{PromptUNetConfig, PromptUNetError, prompt::PromptError},
        sam::{Prompt, Sam, SamError, config::SamConfig, layout, operator::TransformerBackend, resize::trilinear},
    },
};

/// A frozen network that embeds an image and draws masks about it. It keeps nothing between calls, so it can be shared.
pub trait Promptable: Send + Sync + fmt::Debug {
    /// Which one it is, for people.
    fn name(&self) -> &'static str;

    /// What it sees of a scan, about a place in scanner millimetres, or about the middle.
    ///
    /// # Errors
    /// If the scan cannot be resampled, or shows nothing.
    fn view(&self, scan: &Image, centre: Option<[f64; 3]>) -> Result<View, ViewError>;

    /// Centres of views that together show all of a scan.
    ///
    /// # Errors
    /// If the scan is too large to be resampled.
    fn stations(&self, scan: &Grid) -> Result<Vec<[f64; 3]>, ResampleError>;

    /// Sides of a mask prompt and of an answer about a view of these sides, in voxels; both cover the view.
    fn mask(&self, view: [usize; 3]) -> [usize; 3];

    /// What it makes of an image.
    ///
    /// # Errors
    /// If it takes no image of this size.
    fn embed(&self, image: &Image) -> Result<weights::Tensor, NetworkError>;

    /// What an embedding says of each place of its view, without a prompt: [1, channels, x, y, z], each place a block of equal
    /// sides.
    ///
    /// # Errors
    /// If it is another network's.
    fn places(&self, embedding: &weights::Tensor) -> Result<weights::Tensor, NetworkError>;

    /// Logits of the object that is meant, and the network's guess of its own intersection over union.
    ///
    /// # Errors
    /// If embedding or mask have another shape than this network's.
    fn decode(&self, embedding: &weights::Tensor, prompts: &Prompts) -> Result<(Vec<f32>, f32), NetworkError>;

    /// From now on looks at each view twice, as it is and turned by half a turn about its last axis, and gives the mean answer:
    /// for networks that were trained on volumes stored in both ways. Embeddings are then twice as large, and others' do not fit.
    fn look_twice(&mut self) {}

    /// An answer's logits at the resolution of a view of these sides.
    fn enlarge(&self, logits: Vec<f32>, view: [usize; 3]) -> Vec<f32>;
}

/// Why weights are no promptable network, or an input does not fit it.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// SAM-Med3D.
    #[error(transparent)]
    Sam(#[from] SamError),
    /// The small network.
    #[error(transparent)]
    UNet(#[from] PromptUNetError),
    /// What was asked of it.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// The small network without what it must be told about itself.
    #[error(transparent)]
    Description(#[from] unet::DescriptionError),
}

/// Brings the network that `weights` hold to `device`; `description` is what its file says about it.
///
/// # Errors
/// If they are no generalist for scans; names the tensors that are missing, superfluous or of another shape.
pub fn on_device(
    weights: Weights,
    description: &Description,
    device: Device,
) -> Result<Box<dyn Promptable>, NetworkError> {
    if PromptUNetConfig::recognises(&weights) {
        return unet::on_device(&weights, description, device);
    }
    let config = SamConfig::of(&weights)?;
    layout::check(&config, &weights)?;
    if config.image_channels != 1 {
        let channels = config.image_channels;
        return Err(SamError::Sizes(format!("it takes images of {channels} channels, but a scan has one")).into());
    }
    device.run(Open(weights))
}

struct Open(Weights);

impl Work for Open {
    type Output = Result<Box<dyn Promptable>, NetworkError>;

    fn run<B: TrainBackend>(self, device: &B::Device) -> Self::Output {
        let sam = Sam::<B::InnerBackend>::new(self.0, device)?;
        Ok(Box::new(SamMed3d { sam, device: device.clone() }))
    }
}

#[derive(Debug)]
struct SamMed3d<B: Backend> {
    sam: Sam<B>,
    device: B::Device,
}

impl<B: TransformerBackend> SamMed3d<B> {
    /// The shape of this network's embeddings; refuses another.
    fn own(&self, embedding: &weights::Tensor) -> Result<[usize; 5], SamError> {
        let ([d, h, w], channels) = (self.sam.config().grid, self.sam.config().channels);
        let expected = [1, channels, d, h, w];
        if embedding.shape == expected {
            return Ok(expected);
        }
        Err(SamError::Shape { what: "an embedding", expected: expected.to_vec(), found: embedding.shape.clone() })
    }

    fn five(&self, values: &[f32], shape: [usize; 5]) -> Tensor<B, 5> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), &self.device)
    }
}

impl<B: TransformerBackend> Promptable for SamMed3d<B> {
    fn name(&self) -> &'static str {
        "SAM-Med3D"
    }

    fn view(&self, scan: &Image, centre: Option<[f64; 3]>) -> Result<View, ViewError> {
        View::of(scan, self.sam.config().image(), centre)
    }

    fn stations(&self, scan: &Grid) -> Result<Vec<[f64; 3]>, ResampleError> {
        stations(scan, SPACING_MM, self.sam.config().image())
    }

    fn mask(&self, _: [usize; 3]) -> [usize; 3] {
        self.sam.config().low_resolution()
    }

    fn embed(&self, image: &Image) -> Result<weights::Tensor, NetworkError> {
        let [x, y, z] = image.shape;
        let embedding = self.sam.encode(self.five(&image.values, [1, 1, x, y, z]))?;
        Ok(weights::Tensor { shape: embedding.dims().to_vec(), values: to_host(embedding.into_data()) })
    }

    fn places(&self, embedding: &weights::Tensor) -> Result<weights::Tensor, NetworkError> {
        self.own(embedding)?;
        Ok(embedding.clone())
    }

    fn decode(&self, embedding: &weights::Tensor, prompts: &Prompts) -> Result<(Vec<f32>, f32), NetworkError> {
        let expected = self.own(embedding)?;
        let [x, y, z] = self.sam.config().low_resolution();
        if let Some(mask) = prompts.mask.as_ref().filter(|mask| mask.len() != x * y * z) {
            let (expected, found) = (vec![x * y * z], vec![mask.len()]);
            return Err(SamError::Shape { what: "a mask prompt", expected, found }.into());
        }
        let mask = prompts.mask.as_ref().map(|mask| self.five(mask, [1, 1, x, y, z]));
        // never without any token of points (spec/semisam.md, E8)
        let prompt = Prompt { clicks: prompts.clicks.clone(), mask, padded: true };
        let answer = self.sam.decode(self.five(&embedding.values, expected), &prompt)?;
        let score = to_host(answer.scores.clone().narrow(1, 0, 1).into_data())[0];
        Ok((to_host(answer.single().into_data()), score))
    }

    fn enlarge(&self, logits: Vec<f32>, view: [usize; 3]) -> Vec<f32> {
        let [x, y, z] = self.sam.config().low_resolution();
        to_host(trilinear(self.five(&logits, [1, 1, x, y, z]), view).into_data())
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;
    use crate::model::{
        checkpoint,
        sam::{Click, Sign},
    };

    fn weights() -> Weights {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/sam_med3d/sam_med3d_tiny.pth");
        checkpoint::read(file.as_ref()).expect("a fixture")
    }

    fn tiny() -> Box<dyn Promptable> {
        on_device(weights(), &Description::default(), Device::Cpu).expect("a SAM-Med3D")
    }

    /// spec/semisam.md, E8: a mask alone still comes with the token of a point that is none, and only with one.
    #[test]
    fn e08_a_mask_alone_comes_with_a_padding_token() {
        let network = tiny();
        let [x, y, z] = [64; 3];
        let affine = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
        let values = (0..x * y * z).map(|at| ((at * 37) % 101) as f32 / 50.0 - 1.0).collect();
        let embedding = network.embed(&Image { shape: [x, y, z], affine, values }).expect("its own size");
        let mask: Vec<f32> = (0..network.mask([64; 3]).iter().product()).map(|at| (at % 7) as f32 - 3.0).collect();
        let ask = |clicks: Vec<Click>| {
            network.decode(&embedding, &Prompts { clicks, mask: Some(mask.clone()) }).expect("it fits")
        };
        let none = Click { at: [3.0, 2.0, 1.0], sign: Sign::NoPoint };
        // one such token and two of them are not the same, and neither is none at all
        assert_ne!(ask(vec![]), ask(vec![none]));
        let sam = Sam::<Flex>::new(weights(), &Default::default()).expect("a SAM-Med3D");
        let tensor = |values: &[f32], shape: [usize; 5]| {
            Tensor::from_data(TensorData::new(values.to_vec(), shape), &Default::default())
        };
        let bare = |padded| {
            let mask = Some(tensor(&mask, [1, 1, 16, 16, 16]));
            let answer =
                sam.decode(tensor(&embedding.values, [1, 48, 4, 4, 4]), &Prompt { clicks: vec![], mask, padded });
            to_host(answer.expect("it fits").single().into_data())
        };
        assert_eq!(ask(vec![]).0, bare(true));
        assert_ne!(bare(true), bare(false));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let network = tiny();
        let good = weights::Tensor { shape: vec![1, 48, 4, 4, 4], values: vec![0.0; 48 * 64] };
        let bad = weights::Tensor { shape: vec![1, 48, 4, 4, 2], values: vec![0.0; 48 * 32] };
        assert!(network.decode(&bad, &Prompts::default()).is_err());
        let prompts = Prompts { mask: Some(vec![0.0; 5]), ..Prompts::default() };
        assert!(network.decode(&good, &prompts).expect_err("five").to_string().contains("mask prompt"));
    }
}
