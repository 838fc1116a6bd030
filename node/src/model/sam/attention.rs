//! Attention between rows of queries and rows of keys: the one function that a fused operator would replace.

use burn::tensor::{Tensor, backend::Backend};

use super::{
    config::DECODER_HEADS,
    linear::{Linear, Parts},
    operator::{self, TransformerBackend},
};

/// `softmax(q k^T + s) v`, head by head; the scale is already in `queries`.
///
/// # Shapes
/// `queries` [heads, queries, width], `keys` [heads, keys, width], `values` [heads, keys, out], `shared` [heads, groups, keys],
/// of which each row is added to the logits of queries / groups neighbours -> [queries, heads * out].
pub fn attend<B: TransformerBackend>(
    queries: Tensor<B, 3>,
    keys: Tensor<B, 3>,
    values: Tensor<B, 3>,
    shared: Option<Tensor<B, 3>>,
) -> Tensor<B, 2> {
    operator::attend([queries, keys, values], shared)
}

/// Attention with a projection of each of its inputs, as the mask decoder uses it.
#[derive(Debug)]
pub(super) struct Attention<B: Backend> {
    queries: Linear<B>,
    keys: Linear<B>,
    values: Linear<B>,
    out: Linear<B>,
}

impl<B: TransformerBackend> Attention<B> {
    pub(super) fn take(parts: &mut Parts<'_, B>, path: &str) -> Self {
        let [queries, keys, values, out] =
            ["q_proj", "k_proj", "v_proj", "out_proj"].map(|part| Linear::take(parts, &format!("{path}.{part}")));
        Self { queries, keys, values, out }
    }

    /// `queries` [n, channels], `keys` and `values` [m, channels] -> [n, channels].
    pub(super) fn forward(&self, queries: Tensor<B, 2>, keys: Tensor<B, 2>, values: Tensor<B, 2>) -> Tensor<B, 2> {
        let queries = self.queries.forward(queries);
        let scale = ((queries.dims()[1] / DECODER_HEADS) as f32).sqrt().recip();
        let queries = heads(queries.mul_scalar(scale));
        self.out.forward(attend(queries, heads(self.keys.forward(keys)), heads(self.values.forward(values)), None))
    }
}

/// [rows, heads * width] -> [heads, rows, width].
fn heads<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 3> {
    let [rows, width] = x.dims();
    x.reshape([rows, DECODER_HEADS, width / DECODER_HEADS]).swap_dims(0, 1)
}
