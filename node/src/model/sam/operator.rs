//! What a transformer is made of beyond linear layers, as operators of a backend: attention, and GELU.
//!
//! A backend that has nothing better inherits its stock operators. On the CPU those hold the logits of all heads at once
//! and call a scalar exponential or error function per number, GELU on one thread. There `semisam_kernels::attention`
//! never holds the logits, and `semisam_kernels::gelu` is vectorised.

use burn::tensor::{Tensor, TensorMetadata, TensorPrimitive, ops::FloatTensor};

use crate::model::{conv::operator::ConvBackend, resize::ResizeBackend};

/// A backend with the operators of a transformer's inference.
pub trait TransformerBackend: ConvBackend + ResizeBackend {
    /// `softmax(q k^T + s) v`, see [`super::attention::attend`].
    fn attend(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        shared: Option<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        let mut logits = Self::float_matmul(queries, Self::float_swap_dims(keys, 1, 2));
        let shape = logits.shape();
        if let Some(shared) = shared {
            let ([heads, rows, width], groups) = (shape.dims(), shared.shape().dims::<3>()[1]);
            logits = Self::float_reshape(logits, [heads * groups, rows / groups, width].into());
            logits = Self::float_add(logits, Self::float_reshape(shared, [heads * groups, 1, width].into()));
        }
        let attended = Self::float_matmul(Self::float_reshape(Self::softmax(logits, 2), shape), values);
        let [heads, rows, width] = attended.shape().dims();
        Self::float_reshape(Self::float_swap_dims(attended, 0, 1), [rows, heads * width].into())
    }

    /// GELU with the exact error function.
    fn gelu_exact(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::gelu(x)
    }
}

/// See [`super::attention::attend`].
pub(super) fn attend<B: TransformerBackend>(
    [queries, keys, values]: [Tensor<B, 3>; 3],
    shared: Option<Tensor<B, 3>>,
) -> Tensor<B, 2> {
    let [queries, keys, values] = [queries, keys, values].map(|tensor| tensor.into_primitive().tensor());
    let shared = shared.map(|shared| shared.into_primitive().tensor());
    Tensor::from_primitive(TensorPrimitive::Float(B::attend(queries, keys, values, shared)))
}

/// `x` times the Gaussian distribution function of `x`.
pub(super) fn gelu<B: TransformerBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::gelu_exact(x.into_primitive().tensor())))
}
