//! The convolutions of a V-Net, together with the norm and ReLU before them.
//!
//! Between two convolutions a network normalises, rectifies, silences channels and adds what a skip connection brings. A
//! convolution here takes its input as an [`Image`]: the raw results of earlier convolutions, and what is still to be done to
//! them. On the CPU that is done while the convolution reads, so only raw results are kept for the gradient
//! (`semisam_kernels::source`); other backends do it beforehand ([`composed`]).

pub mod composed;
pub mod operator;
pub mod pieces;

use std::sync::Arc;

use burn::tensor::{Tensor, backend::Backend};
use semisam_kernels::norm::Moments;

use super::layout::Sampling;
use operator::ConvBackend;

/// What a convolution reads: the sum of terms of one shape.
#[derive(Clone, Debug)]
pub struct Image<B: Backend> {
    pub(crate) terms: Vec<Term<B>>,
}

/// A tensor as it is, or the raw result of a convolution with what is to be done to it.
#[derive(Clone, Debug)]
pub(crate) struct Term<B: Backend> {
    /// [batch, channels, d, h, w]
    pub(crate) values: Tensor<B, 5>,
    pub(crate) norm: Option<Norm<B>>,
}

/// GroupNorm, ReLU, and the silencing of channels.
#[derive(Clone, Debug)]
pub(crate) struct Norm<B: Backend> {
    /// [channels]
    pub(crate) scale: Tensor<B, 1>,
    /// [channels]
    pub(crate) shift: Tensor<B, 1>,
    pub(crate) groups: usize,
    /// [batch, channels, 1, 1, 1], constants of at least zero.
    pub(crate) keep: Option<Tensor<B, 5>>,
    /// Of the raw result's planes, where the convolution has gathered them.
    pub(crate) moments: Option<Arc<Vec<Moments>>>,
}

/// The raw result of a convolution.
#[derive(Clone, Debug)]
pub struct Convolved<B: Backend> {
    /// [batch, outputs, d, h, w]
    pub values: Tensor<B, 5>,
    pub(crate) moments: Option<Arc<Vec<Moments>>>,
}

impl<B: Backend> Image<B> {
    /// A tensor as it is.
    pub fn plain(values: Tensor<B, 5>) -> Self {
        Self { terms: vec![Term { values, norm: None }] }
    }

    /// `relu(group_norm(raw))`; `scale` and `shift` are [channels], and `groups` divides the channels.
    pub fn normalised(raw: Convolved<B>, scale: Tensor<B, 1>, shift: Tensor<B, 1>, groups: usize) -> Self {
        let norm = Norm { scale, shift, groups, keep: None, moments: raw.moments };
        Self { terms: vec![Term { values: raw.values, norm: Some(norm) }] }
    }

    /// The sum of both.
    pub fn plus(mut self, other: Self) -> Self {
        self.terms.extend(other.terms);
        self
    }

    /// Each channel of each sample times its factor; `keep` is [batch, channels, 1, 1, 1], at least zero, and not learned.
    ///
    /// # Panics
    /// If the image is not one normalised term.
    pub fn silenced(mut self, keep: Tensor<B, 5>) -> Self {
        match self.terms.as_mut_slice() {
            [Term { norm: Some(norm), .. }] => norm.keep = Some(keep),
            _ => panic!("dropout follows a norm"),
        }
        self
    }
}

/// A convolution: 3x3x3, or another odd kernel, that keeps the sides; 2x2x2 with stride 2; or the transpose of the latter.
///
/// # Shapes
/// `image` [batch, inputs, d, h, w], `weight` [outputs, inputs, kernel], or [inputs, outputs, 2, 2, 2] on the way up, `bias`
/// [outputs] -> [batch, outputs, sides as they were, halved or doubled].
pub fn convolve<B: ConvBackend>(
    image: Image<B>,
    weight: Tensor<B, 5>,
    bias: Tensor<B, 1>,
    sampling: Sampling,
) -> Convolved<B> {
    B::convolve(image, weight, bias, sampling)
}

#[cfg(test)]
mod tests;
