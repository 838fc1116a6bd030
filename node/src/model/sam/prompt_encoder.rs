//! The prompt encoder: points to tokens, a mask to one vector per token of the image (spec/semisam.md, section 7.4).
//!
//! Two habits of the published network are kept, because its weights were trained with them: the third part of a positional
//! encoding repeats the sines of the first, and the encoding of the grid has its first two axes exchanged, so that the point
//! (i, j, k) has the encoding of cell (j, i, k).

use std::f64::consts::TAU;

use burn::tensor::{Tensor, TensorData, backend::Backend};

use super::{
    Click, Sign,
    config::SamConfig,
    image_encoder::EPSILON,
    linear::{LayerNorm, Parts},
    operator::{TransformerBackend, gelu},
};
use crate::model::conv::composed;

/// From prompts to what the mask decoder takes.
#[derive(Debug)]
pub(super) struct PromptEncoder<B: Backend> {
    config: SamConfig,
    encoding: Encoding,
    /// Added to the encoding of a background and of a foreground point.
    signs: [Vec<f32>; 2],
    /// Stands for a point that is none.
    no_point: Vec<f32>,
    /// Stands for a mask that is none.
    no_mask: Tensor<B, 2>,
    mask: [Stage<B>; 2],
    last: (Tensor<B, 5>, Tensor<B, 1>),
    grid: Tensor<B, 2>,
}

/// A convolution that halves each side, and its norm; GELU follows.
#[derive(Debug)]
struct Stage<B: Backend> {
    weight: Tensor<B, 5>,
    bias: Tensor<B, 1>,
    norm: LayerNorm<B>,
}

impl<B: TransformerBackend> PromptEncoder<B> {
    pub(super) fn take(parts: &mut Parts<'_, B>, config: &SamConfig) -> Self {
        let name = |name: &str| format!("prompt_encoder.{name}");
        let frequencies = parts.host(&name("pe_layer.positional_encoding_gaussian_matrix")).values;
        let encoding = Encoding(frequencies);
        let grid = encoding.of_grid(config.grid);
        let grid = TensorData::new(grid, [config.tokens(), config.channels]);
        let signs = [0, 1].map(|sign| parts.host(&name(&format!("point_embeddings.{sign}.weight"))).values);
        let mask = [(0, 1), (3, 4)].map(|(convolution, norm)| Stage {
            weight: parts.tensor(&name(&format!("mask_downscaling.{convolution}.weight"))),
            bias: parts.tensor(&name(&format!("mask_downscaling.{convolution}.bias"))),
            norm: LayerNorm::take(parts, &name(&format!("mask_downscaling.{norm}")), EPSILON),
        });
        let [weight, bias] = ["weight", "bias"].map(|part| name(&format!("mask_downscaling.6.{part}")));
        Self {
            config: config.clone(),
            encoding,
            signs,
            no_point: parts.host(&name("not_a_point_embed.weight")).values,
            no_mask: parts.tensor(&name("no_mask_embed.weight")),
            mask,
            last: (parts.tensor(&weight), parts.tensor(&bias)),
            grid: Tensor::from_data(grid, parts.device()),
        }
    }

    /// The encoding of each token of the image: [tokens, channels].
    pub(super) fn grid(&self) -> Tensor<B, 2> {
        self.grid.clone()
    }

    /// One token for each point, and one that is none behind them; nothing at all where there is no point.
    pub(super) fn points(&self, clicks: &[Click]) -> Option<Tensor<B, 2>> {
        let mut values = Vec::with_capacity((clicks.len() + 1) * self.config.channels);
        for click in clicks {
            let image = self.config.image();
            let share = std::array::from_fn(|axis| (f64::from(click.at[axis]) + 0.5) / image[axis] as f64);
            match click.sign {
                Sign::NoPoint => values.extend(&self.no_point),
                Sign::Background => values.extend(add(self.encoding.of(share), &self.signs[0])),
                Sign::Foreground => values.extend(add(self.encoding.of(share), &self.signs[1])),
            }
        }
        values.extend(&self.no_point);
        let data = TensorData::new(values, [clicks.len() + 1, self.config.channels]);
        (!clicks.is_empty()).then(|| Tensor::from_data(data, &self.grid.device()))
    }

    /// The token of a point that is none, alone: [1, channels].
    pub(super) fn padding(&self) -> Tensor<B, 2> {
        let data = TensorData::new(self.no_point.clone(), [1, self.config.channels]);
        Tensor::from_data(data, &self.grid.device())
    }

    /// One vector for each token of the image: [tokens, channels].
    pub(super) fn mask(&self, mask: Option<Tensor<B, 5>>) -> Tensor<B, 2> {
        let (tokens, channels) = (self.config.tokens(), self.config.channels);
        let Some(mut x) = mask else { return self.no_mask.clone().expand([tokens, channels]) };
        for stage in &self.mask {
            x = composed::halve(x, stage.weight.clone(), stage.bias.clone());
            x = gelu(stage.norm.forward_channels(x));
        }
        let (weight, bias) = self.last.clone();
        composed::pointwise(x, weight, bias).reshape([channels, tokens]).swap_dims(0, 1)
    }
}

fn add(mut a: Vec<f32>, b: &[f32]) -> Vec<f32> {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
    a
}

/// Random frequencies, [3, frequencies].
#[derive(Debug)]
struct Encoding(Vec<f32>);

impl Encoding {
    /// [sin, cos, sin] of a place, given as shares of the image's sides.
    fn of(&self, share: [f64; 3]) -> Vec<f32> {
        let count = self.0.len() / 3;
        let angle = |frequency: usize| {
            let terms = (0..3).map(|axis| (2.0 * share[axis] - 1.0) * f64::from(self.0[axis * count + frequency]));
            TAU * terms.sum::<f64>()
        };
        let angles: Vec<f64> = (0..count).map(angle).collect();
        let sines = angles.iter().map(|angle| angle.sin() as f32);
        sines.clone().chain(angles.iter().map(|angle| angle.cos() as f32)).chain(sines).collect()
    }

    /// Of the centres of the grid's cells, the first two axes exchanged.
    fn of_grid(&self, [d, h, w]: [usize; 3]) -> Vec<f32> {
        let centre = |cell: usize, cells: usize| (cell as f64 + 0.5) / cells as f64;
        let cells = (0..d * h * w).map(|cell| [cell / (h * w), cell / w % h, cell % w]);
        cells.flat_map(|[i, j, k]| self.of([centre(j, h), centre(i, d), centre(k, w)])).collect()
    }
}
