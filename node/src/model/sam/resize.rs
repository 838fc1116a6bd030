//! Trilinear interpolation between grids over the same box, as PyTorch does it with `align_corners = false`.

use burn::tensor::Tensor;

use super::operator::TransformerBackend;
use crate::model::resize::{self, Alignment};

/// `x` at another resolution.
///
/// # Shapes
/// [1, channels, d, h, w] -> [1, channels, D, H, W].
pub fn trilinear<B: TransformerBackend>(x: Tensor<B, 5>, to: [usize; 3]) -> Tensor<B, 5> {
    resize::trilinear(x, to, Alignment::Faces)
}
