//! The mask decoder: tokens ask the image, and become masks and their scores (spec/semisam.md, section 7.5).
//!
//! The image stays rows of channels up to the masks: a transposed convolution with stride 2 is one product for each pair of
//! its eight taps, and what they give is laid between one another in runs, axis by axis.

use burn::tensor::{Tensor, TensorData, backend::Backend};

use super::{
    config::SamConfig,
    image_encoder::EPSILON,
    linear::{Activation, LayerNorm, Parts, Perceptron},
    operator::{TransformerBackend, gelu},
    transformer::TwoWayTransformer,
};

/// From an embedding and prompts to masks.
#[derive(Debug)]
pub(super) struct MaskDecoder<B: Backend> {
    config: SamConfig,
    score_token: Tensor<B, 2>,
    mask_tokens: Tensor<B, 2>,
    transformer: TwoWayTransformer<B>,
    upscaling: [Doubling<B>; 2],
    norm: LayerNorm<B>,
    masks: Vec<Perceptron<B>>,
    scores: Perceptron<B>,
}

/// A transposed convolution 2x2x2 with stride 2.
#[derive(Debug)]
struct Doubling<B: Backend> {
    /// [inputs, 2 * outputs] for each pair of taps that are neighbours along the last axis.
    pairs: Vec<Tensor<B, 2>>,
    /// Twice, one after the other.
    bias: Tensor<B, 2>,
}

impl<B: TransformerBackend> MaskDecoder<B> {
    pub(super) fn take(parts: &mut Parts<'_, B>, config: &SamConfig) -> Self {
        let path = "mask_decoder";
        let layers = |path: &str, count| -> Vec<String> { (0..count).map(|n| format!("{path}.layers.{n}")).collect() };
        let masks = (0..config.masks).map(|mask| {
            let layers = layers(&format!("{path}.output_hypernetworks_mlps.{mask}"), 3);
            Perceptron::take(parts, &layers, Activation::Relu)
        });
        let masks = masks.collect();
        let scores = layers(&format!("{path}.iou_prediction_head"), config.score[0]);
        let upscaling = [0, 3].map(|stage| Doubling::take(parts, &format!("{path}.output_upscaling.{stage}")));
        Self {
            config: config.clone(),
            score_token: parts.tensor(&format!("{path}.iou_token.weight")),
            mask_tokens: parts.tensor(&format!("{path}.mask_tokens.weight")),
            transformer: TwoWayTransformer::take(parts, config.layers),
            upscaling,
            norm: LayerNorm::take(parts, &format!("{path}.output_upscaling.1"), EPSILON),
            masks,
            scores: Perceptron::take(parts, &scores, Activation::Relu),
        }
    }

    /// `image` (embedding and mask prompt) and the encoding of its `places` [tokens, channels], `points` [n, channels] ->
    /// low-resolution logits [1, masks, d, h, w] and scores [1, masks], the single mask first.
    pub(super) fn forward(
        &self,
        image: Tensor<B, 2>,
        places: Tensor<B, 2>,
        points: Option<Tensor<B, 2>>,
    ) -> (Tensor<B, 5>, Tensor<B, 2>) {
        let (masks, [d, h, w]) = (self.config.masks, self.config.grid);
        let mut tokens = vec![self.score_token.clone(), self.mask_tokens.clone()];
        tokens.extend(points);
        let (tokens, image) = self.transformer.forward(Tensor::cat(tokens, 0), image, places);
        let [first, second] = &self.upscaling;
        let features = gelu(self.norm.forward(first.forward(image, [d, h, w])));
        let [d, h, w] = [2 * d, 2 * h, 2 * w];
        let features = gelu(second.forward(features, [d, h, w])); // [8 * voxels, channels]
        let of_mask = |mask: usize| self.masks[mask].forward(tokens.clone().narrow(0, mask + 1, 1));
        let weights = Tensor::cat((0..masks).map(of_mask).collect(), 0); // [masks, channels]
        let logits = weights.matmul(features.swap_dims(0, 1)).reshape([1, masks, 2 * d, 2 * h, 2 * w]);
        (logits, self.scores.forward(tokens.narrow(0, 0, 1)))
    }
}

impl<B: Backend> Doubling<B> {
    fn take(parts: &mut Parts<'_, B>, path: &str) -> Self {
        let weight = parts.host(&format!("{path}.weight"));
        let [inputs, outputs] = [weight.shape[0], weight.shape[1]];
        let pair = |pair: usize| {
            let taps = weight.values.chunks_exact(8 * outputs).flat_map(|of_input| {
                [2 * pair, 2 * pair + 1].into_iter().flat_map(move |tap| of_input.iter().skip(tap).step_by(8).copied())
            });
            Tensor::from_data(TensorData::new(taps.collect::<Vec<f32>>(), [inputs, 2 * outputs]), parts.device())
        };
        let pairs = (0..4).map(pair).collect();
        let bias = parts.tensor::<1>(&format!("{path}.bias"));
        Self { pairs, bias: Tensor::cat(vec![bias.clone(), bias], 0).unsqueeze() }
    }

    /// [d * h * w, inputs] -> [2d * 2h * 2w, outputs].
    fn forward(&self, x: Tensor<B, 2>, [d, h, w]: [usize; 3]) -> Tensor<B, 2> {
        let row = self.bias.dims()[1] * w; // two voxels for each of w, next to one another
        let mut parts: Vec<Tensor<B, 2>> =
            self.pairs.iter().map(|pair| x.clone().matmul(pair.clone()) + self.bias.clone()).collect();
        // rows along h, then planes along d
        for (runs, length) in [(d * h, row), (d, 2 * h * row)] {
            let pair = |pair: &[Tensor<B, 2>]| {
                let pair = pair.iter().map(|part| part.clone().reshape([runs, length]));
                Tensor::cat(pair.collect(), 1)
            };
            parts = parts.chunks_exact(2).map(pair).collect();
        }
        let doubled = parts.pop().expect("four pairs make two, and one");
        doubled.reshape([8 * d * h * w, row / w / 2])
    }
}
