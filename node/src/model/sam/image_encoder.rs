//! The image encoder: a vision transformer over cubes of voxels, and a convolutional neck (spec/semisam.md, section 7.3).
//!
//! Tokens are rows [tokens, width] from the first product to the last; only the embedding is turned to channels first.

use burn::tensor::{Tensor, backend::Backend};

use super::{
    config::SamConfig,
    linear::{Activation, LayerNorm, Linear, Parts, Perceptron},
    operator::TransformerBackend,
    window::WindowAttention,
};

/// The published network's, here and in every norm over channels.
pub(super) const EPSILON: f64 = 1e-6;

/// From an image to its embedding.
#[derive(Debug)]
pub(super) struct ImageEncoder<B: Backend> {
    config: SamConfig,
    patches: Linear<B>,
    places: Tensor<B, 2>,
    blocks: Vec<Block<B>>,
    neck: Neck<B>,
}

#[derive(Debug)]
struct Block<B: Backend> {
    norm1: LayerNorm<B>,
    attention: WindowAttention<B>,
    norm2: LayerNorm<B>,
    perceptron: Perceptron<B>,
}

/// 1x1x1 to the embedding's channels, norm, 3x3x3, norm; no biases.
#[derive(Debug)]
struct Neck<B: Backend> {
    narrow: Tensor<B, 2>,
    norm1: LayerNorm<B>,
    /// [outputs, 27 * inputs], the taps outermost.
    mix: Tensor<B, 2>,
    norm2: LayerNorm<B>,
}

impl<B: TransformerBackend> ImageEncoder<B> {
    pub(super) fn take(parts: &mut Parts<'_, B>, config: &SamConfig) -> Self {
        let blocks = config.windows.iter().enumerate().map(|(number, window)| {
            let path = format!("image_encoder.blocks.{number}");
            let perceptron = [1, 2].map(|layer| format!("{path}.mlp.lin{layer}"));
            Block {
                norm1: LayerNorm::take(parts, &format!("{path}.norm1"), EPSILON),
                attention: WindowAttention::take(parts, &format!("{path}.attn"), config.grid, *window),
                norm2: LayerNorm::take(parts, &format!("{path}.norm2"), EPSILON),
                perceptron: Perceptron::take(parts, &perceptron, Activation::Gelu),
            }
        });
        let blocks = blocks.collect();
        Self {
            config: config.clone(),
            patches: Linear::take(parts, "image_encoder.patch_embed.proj"),
            places: parts.tensor::<5>("image_encoder.pos_embed").reshape([config.tokens(), config.width]),
            blocks,
            neck: Neck::take(parts, config),
        }
    }

    /// [1, image channels, d, h, w] -> [1, channels, d / patch, h / patch, w / patch].
    pub(super) fn forward(&self, image: Tensor<B, 5>) -> Tensor<B, 5> {
        let ([d, h, w], [a, b, c]) = (self.config.grid, self.config.patch);
        let cubes: Tensor<B, 7> = image.reshape([self.config.image_channels, d, a, h, b, w, c]);
        let cubes = cubes.permute([1, 3, 5, 0, 2, 4, 6]); // [d, h, w, image channels, a, b, c]
        let rows = cubes.reshape([self.config.tokens(), self.config.image_channels * a * b * c]);
        let mut x = self.patches.forward(rows) + self.places.clone();
        for block in &self.blocks {
            x = x.clone() + block.attention.forward(block.norm1.forward(x));
            x = x.clone() + block.perceptron.forward(block.norm2.forward(x));
        }
        let embedding: Tensor<B, 2> = self.neck.forward(x, self.config.grid).swap_dims(0, 1);
        embedding.reshape([1, self.config.channels, d, h, w])
    }
}

impl<B: TransformerBackend> Neck<B> {
    fn take(parts: &mut Parts<'_, B>, config: &SamConfig) -> Self {
        let channels = config.channels;
        let mix: Tensor<B, 3> = parts.tensor::<5>("image_encoder.neck.2.weight").reshape([channels, channels, 27]);
        let narrow = parts.tensor::<5>("image_encoder.neck.0.weight");
        Self {
            narrow: narrow.reshape([channels, config.width]),
            norm1: LayerNorm::take(parts, "image_encoder.neck.1", EPSILON),
            mix: mix.swap_dims(1, 2).reshape([channels, 27 * channels]),
            norm2: LayerNorm::take(parts, "image_encoder.neck.3", EPSILON),
        }
    }

    /// [tokens, width] -> [tokens, channels].
    fn forward(&self, x: Tensor<B, 2>, [d, h, w]: [usize; 3]) -> Tensor<B, 2> {
        let x = self.norm1.forward(x.matmul(self.narrow.clone().swap_dims(0, 1)));
        let channels = x.dims()[1];
        let mut x: Tensor<B, 4> = x.reshape([d, h, w, channels]);
        for axis in 0..3 {
            let mut border = x.dims();
            border[axis] = 1;
            let border = Tensor::zeros(border, &x.device());
            x = Tensor::cat(vec![border.clone(), x, border], axis);
        }
        let tap = |tap: usize| {
            let [a, b, c] = [tap / 9, tap / 3 % 3, tap % 3];
            x.clone().slice([a..a + d, b..b + h, c..c + w]).reshape([d * h * w, channels])
        };
        // a sum of short products rounds less than one long product, and its columns take less memory
        let slab = |first: usize| {
            let columns = Tensor::cat((first..first + 3).map(tap).collect(), 1); // [tokens, 3 * channels]
            columns.matmul(self.mix.clone().narrow(1, first * channels, 3 * channels).swap_dims(0, 1))
        };
        let mixed = (1..9).fold(slab(0), |sum, row| sum + slab(3 * row));
        self.norm2.forward(mixed)
    }
}
