//! What a transformer needs beyond matrix products, as operators of a backend: softmax over a row, and GELU.
//!
//! A backend that has nothing better inherits its stock operators. On the CPU those call a scalar exponential or error
//! function per number, GELU on one thread; [`super::rows`] does both in plain Rust that the compiler vectorises.

use burn::tensor::{Tensor, TensorMetadata, TensorPrimitive, backend::Backend, ops::FloatTensor};

/// A backend with the operators of a transformer's inference.
pub trait TransformerBackend: Backend {
    /// Softmax of `x` [heads, rows, width] along the last axis, after a row of `shared` [heads, groups, width] was added to
    /// each rows / groups neighbours.
    fn softmax_rows(x: FloatTensor<Self>, shared: Option<FloatTensor<Self>>) -> FloatTensor<Self> {
        let shape = x.shape();
        let Some(shared) = shared else { return Self::softmax(x, 2) };
        let ([heads, rows, width], groups) = (shape.dims(), shared.shape().dims::<3>()[1]);
        let x = Self::float_reshape(x, [heads * groups, rows / groups, width].into());
        let shared = Self::float_reshape(shared, [heads * groups, 1, width].into());
        Self::float_reshape(Self::softmax(Self::float_add(x, shared), 2), shape)
    }

    /// GELU with the exact error function.
    fn gelu_exact(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::gelu(x)
    }
}

/// Softmax along the last axis, see [`TransformerBackend::softmax_rows`].
pub(super) fn softmax<B: TransformerBackend>(x: Tensor<B, 3>, shared: Option<Tensor<B, 3>>) -> Tensor<B, 3> {
    let shared = shared.map(|shared| shared.into_primitive().tensor());
    Tensor::from_primitive(TensorPrimitive::Float(B::softmax_rows(x.into_primitive().tensor(), shared)))
}

/// `x` times the Gaussian distribution function of `x`.
pub(super) fn gelu<B: TransformerBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::gelu_exact(x.into_primitive().tensor())))
}
