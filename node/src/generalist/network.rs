//! What a promptable network is, seen from outside: host tensors in, host tensors out, the weights on its device.
//!
//! Everything that differs between generalists is behind [`Promptable`]; which network a file holds is told by its tensors.

use std::fmt;

use burn::tensor::{Tensor, TensorData, backend::Backend};
use semisam_shared::weights::{self, Weights};

use crate::{
    data::volume::Image,
    device::{Device, TrainBackend, Work},
    model::{
        sam::{
            Click, Prompt, Sam, SamError, config::SamConfig, layout, operator::TransformerBackend, resize::trilinear,
        },
        vnet::to_host,
    },
};

/// A frozen network that embeds an image and draws masks about it. It keeps nothing between calls, so it can be shared.
pub trait Promptable: Send + Sync + fmt::Debug {
    /// Sides of the image that it takes, in voxels.
    fn image(&self) -> [usize; 3];

    /// Sides of a mask prompt and of an answer, in voxels; both cover the image.
    fn mask(&self) -> [usize; 3];

    /// What it makes of an image.
    ///
    /// # Errors
    /// If the image has another size.
    fn embed(&self, image: &Image) -> Result<weights::Tensor, SamError>;

    /// Logits of the object that is meant, and the network's guess of its own intersection over union.
    ///
    /// # Errors
    /// If embedding or mask have another shape than this network's.
    fn decode(&self, embedding: &weights::Tensor, prompts: &Prompts) -> Result<(Vec<f32>, f32), SamError>;

    /// An answer's logits at the image's resolution.
    fn enlarge(&self, logits: Vec<f32>) -> Vec<f32>;
}

/// What is asked about an embedded image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompts {
    /// Points, in voxels of the image.
    pub clicks: Vec<Click>,
    /// Logits of a mask, never probabilities (spec/semisam.md, E8).
    pub mask: Option<Vec<f32>>,
}

/// Brings the network that `weights` hold to `device`.
///
/// # Errors
/// If they are no generalist for scans; names the tensors that are missing, superfluous or of another shape.
pub fn on_device(weights: Weights, device: Device) -> Result<Box<dyn Promptable>, SamError> {
    let config = SamConfig::of(&weights)?;
    layout::check(&config, &weights)?;
    if config.image_channels != 1 {
        let channels = config.image_channels;
        return Err(SamError::Sizes(format!("it takes images of {channels} channels, but a scan has one")));
    }
    device.run(Open(weights))
}

struct Open(Weights);

impl Work for Open {
    type Output = Result<Box<dyn Promptable>, SamError>;

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
    fn five(&self, values: &[f32], shape: [usize; 5]) -> Tensor<B, 5> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), &self.device)
    }
}

impl<B: TransformerBackend> Promptable for SamMed3d<B> {
    fn image(&self) -> [usize; 3] {
        self.sam.config().image()
    }

    fn mask(&self) -> [usize; 3] {
        self.sam.config().low_resolution()
    }

    fn embed(&self, image: &Image) -> Result<weights::Tensor, SamError> {
        let [x, y, z] = image.shape;
        let embedding = self.sam.encode(self.five(&image.values, [1, 1, x, y, z]))?;
        Ok(weights::Tensor { shape: embedding.dims().to_vec(), values: to_host(embedding.into_data()) })
    }

    fn decode(&self, embedding: &weights::Tensor, prompts: &Prompts) -> Result<(Vec<f32>, f32), SamError> {
        let ([d, h, w], [x, y, z], channels) = (self.sam.config().grid, self.mask(), self.sam.config().channels);
        let expected = [1, channels, d, h, w];
        if embedding.shape != expected {
            let (expected, found) = (expected.to_vec(), embedding.shape.clone());
            return Err(SamError::Shape { what: "an embedding", expected, found });
        }
        if let Some(mask) = prompts.mask.as_ref().filter(|mask| mask.len() != x * y * z) {
            let (expected, found) = (vec![x * y * z], vec![mask.len()]);
            return Err(SamError::Shape { what: "a mask prompt", expected, found });
        }
        let mask = prompts.mask.as_ref().map(|mask| self.five(mask, [1, 1, x, y, z]));
        // never without any token of points (spec/semisam.md, E8)
        let prompt = Prompt { clicks: prompts.clicks.clone(), mask, padded: true };
        let answer = self.sam.decode(self.five(&embedding.values, expected), &prompt)?;
        let score = to_host(answer.scores.clone().narrow(1, 0, 1).into_data())[0];
        Ok((to_host(answer.single().into_data()), score))
    }

    fn enlarge(&self, logits: Vec<f32>) -> Vec<f32> {
        let [x, y, z] = self.mask();
        to_host(trilinear(self.five(&logits, [1, 1, x, y, z]), self.image()).into_data())
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;
    use crate::model::{checkpoint, sam::Sign};

    fn weights() -> Weights {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/sam_med3d/sam_med3d_tiny.pth");
        checkpoint::read(file.as_ref()).expect("a fixture")
    }

    fn tiny() -> Box<dyn Promptable> {
        on_device(weights(), Device::Cpu).expect("a SAM-Med3D")
    }

    /// spec/semisam.md, E8: a mask alone still comes with the token of a point that is none, and only with one.
    #[test]
    fn e08_a_mask_alone_comes_with_a_padding_token() {
        let network = tiny();
        let [x, y, z] = network.image();
        let affine = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
        let values = (0..x * y * z).map(|at| ((at * 37) % 101) as f32 / 50.0 - 1.0).collect();
        let embedding = network.embed(&Image { shape: [x, y, z], affine, values }).expect("its own size");
        let mask: Vec<f32> = (0..network.mask().iter().product()).map(|at| (at % 7) as f32 - 3.0).collect();
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
