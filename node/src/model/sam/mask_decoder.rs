//! The mask decoder: tokens ask the image, and become masks and their scores (spec/semisam.md, section 7.5).

use burn::tensor::{Tensor, backend::Backend};

use super::{
    config::SamConfig,
    image_encoder::EPSILON,
    linear::{Activation, LayerNorm, Parts, Perceptron},
    operator::{TransformerBackend, gelu},
    transformer::TwoWayTransformer,
};
use crate::model::conv;

/// From an embedding and prompts to masks.
#[derive(Debug)]
pub(super) struct MaskDecoder<B: Backend> {
    config: SamConfig,
    score_token: Tensor<B, 2>,
    mask_tokens: Tensor<B, 2>,
    transformer: TwoWayTransformer<B>,
    upscaling: [(Tensor<B, 5>, Tensor<B, 1>); 2],
    norm: LayerNorm<B>,
    masks: Vec<Perceptron<B>>,
    scores: Perceptron<B>,
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
        let upscaling = [0, 3].map(|stage| {
            let [weight, bias] = ["weight", "bias"].map(|part| format!("{path}.output_upscaling.{stage}.{part}"));
            (parts.tensor(&weight), parts.tensor(&bias))
        });
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
        let features = self.upscale(image.swap_dims(0, 1).reshape([1, self.config.channels, d, h, w]));
        let [_, channels, d, h, w] = features.dims();
        let of_mask = |mask: usize| self.masks[mask].forward(tokens.clone().narrow(0, mask + 1, 1));
        let weights = Tensor::cat((0..masks).map(of_mask).collect(), 0); // [masks, channels]
        let logits = weights.matmul(features.reshape([channels, d * h * w])).reshape([1, masks, d, h, w]);
        (logits, self.scores.forward(tokens.narrow(0, 0, 1)))
    }

    /// [1, channels, d, h, w] -> [1, fewer channels, 4d, 4h, 4w].
    fn upscale(&self, x: Tensor<B, 5>) -> Tensor<B, 5> {
        let [first, second] = self.upscaling.clone();
        let x = gelu(self.norm.forward_channels(conv::double(x, first.0, first.1)));
        gelu(conv::double(x, second.0, second.1))
    }
}
