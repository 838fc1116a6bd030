//! The mask decoder's transformer: tokens and image attend to each other (spec/semisam.md, section 7.5).
//!
//! The first layer's self-attention sees no positional encoding and replaces the tokens; every later step adds to them.

use burn::tensor::{Tensor, backend::Backend};

use super::{
    attention::Attention,
    linear::{Activation, LayerNorm, Parts, Perceptron},
    operator::TransformerBackend,
};

/// PyTorch's default, unlike the image encoder's.
const EPSILON: f64 = 1e-5;

/// Layers, and a last look of the tokens at the image.
#[derive(Debug)]
pub(super) struct TwoWayTransformer<B: Backend> {
    layers: Vec<Layer<B>>,
    last: Attention<B>,
    norm: LayerNorm<B>,
}

#[derive(Debug)]
struct Layer<B: Backend> {
    to_self: Attention<B>,
    to_image: Attention<B>,
    from_image: Attention<B>,
    perceptron: Perceptron<B>,
    norms: [LayerNorm<B>; 4],
}

impl<B: TransformerBackend> TwoWayTransformer<B> {
    pub(super) fn take(parts: &mut Parts<'_, B>, layers: usize) -> Self {
        let path = "mask_decoder.transformer";
        Self {
            layers: (0..layers).map(|layer| Layer::take(parts, &format!("{path}.layers.{layer}"))).collect(),
            last: Attention::take(parts, &format!("{path}.final_attn_token_to_image")),
            norm: LayerNorm::take(parts, &format!("{path}.norm_final_attn"), EPSILON),
        }
    }

    /// `tokens` [n, channels]; `image` and the encoding of its `places` [m, channels] -> tokens and image.
    pub(super) fn forward(
        &self,
        tokens: Tensor<B, 2>,
        mut image: Tensor<B, 2>,
        places: Tensor<B, 2>,
    ) -> (Tensor<B, 2>, Tensor<B, 2>) {
        // the tokens as they came in are their own positional encoding
        let names = tokens.clone();
        let mut x = tokens;
        for (number, layer) in self.layers.iter().enumerate() {
            (x, image) = layer.forward(x, image, &names, &places, number == 0);
        }
        let attended = self.last.forward(x.clone() + names, image.clone() + places, image.clone());
        (self.norm.forward(x + attended), image)
    }
}

impl<B: TransformerBackend> Layer<B> {
    fn take(parts: &mut Parts<'_, B>, path: &str) -> Self {
        let perceptron = [1, 2].map(|layer| format!("{path}.mlp.lin{layer}"));
        Self {
            to_self: Attention::take(parts, &format!("{path}.self_attn")),
            to_image: Attention::take(parts, &format!("{path}.cross_attn_token_to_image")),
            from_image: Attention::take(parts, &format!("{path}.cross_attn_image_to_token")),
            perceptron: Perceptron::take(parts, &perceptron, Activation::Relu),
            norms: [1, 2, 3, 4].map(|norm| LayerNorm::take(parts, &format!("{path}.norm{norm}"), EPSILON)),
        }
    }

    fn forward(
        &self,
        x: Tensor<B, 2>,
        image: Tensor<B, 2>,
        names: &Tensor<B, 2>,
        places: &Tensor<B, 2>,
        first: bool,
    ) -> (Tensor<B, 2>, Tensor<B, 2>) {
        let [norm1, norm2, norm3, norm4] = &self.norms;
        let x = if first {
            self.to_self.forward(x.clone(), x.clone(), x)
        } else {
            let named = x.clone() + names.clone();
            x.clone() + self.to_self.forward(named.clone(), named, x)
        };
        let x = norm1.forward(x);
        let placed = image.clone() + places.clone();
        let x = norm2.forward(x.clone() + self.to_image.forward(x + names.clone(), placed.clone(), image.clone()));
        let x = norm3.forward(x.clone() + self.perceptron.forward(x));
        let image = image + self.from_image.forward(placed, x.clone() + names.clone(), x.clone());
        (x, norm4.forward(image))
    }
}
