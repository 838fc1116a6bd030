//! Attention on the CPU, a few queries of one head at a time, so that their logits never leave the cache.
//!
//! The logits of all heads at once are megabytes, and most of the time would go into getting them from the system and back.
//! Pieces are independent and of a size that depends on shapes alone, so the bits do not depend on the number of
//! threads.

use std::ops::Range;

use burn::tensor::{Slice, TensorMetadata, backend::Backend, ops::FloatTensor};
use rayon::prelude::*;

/// Queries of a piece, about: with 513 keys their logits take a quarter of a megabyte.
const QUERIES: usize = 128;

/// `softmax(q k^T + s) v`, see [`super::attention::attend`]; `softmax` works on the logits of a piece [1, queries, keys] and
/// on the rows that these share.
pub fn attend<B: Backend>(
    [queries, keys, values]: [FloatTensor<B>; 3],
    shared: Option<FloatTensor<B>>,
    softmax: impl Fn(FloatTensor<B>, Option<FloatTensor<B>>) -> FloatTensor<B> + Sync,
) -> FloatTensor<B> {
    let [heads, rows, _] = queries.shape().dims();
    // queries that share a row stay together
    let group = shared.as_ref().map_or(1, |shared| rows / shared.shape().dims::<3>()[1]);
    let size = (QUERIES / group).max(1) * group;
    let keys = B::float_swap_dims(keys, 1, 2);
    let piece = |head: usize, first: usize| {
        let asked = first..(first + size).min(rows);
        let logits = B::float_matmul(part::<B>(&queries, head, asked.clone()), part::<B>(&keys, head, ..));
        let shared = shared.as_ref().map(|shared| part::<B>(shared, head, asked.start / group..asked.end / group));
        B::float_matmul(softmax(logits, shared), part::<B>(&values, head, ..))
    };
    let starts: Vec<usize> = (0..rows).step_by(size).collect();
    let pieces: Vec<FloatTensor<B>> =
        (0..heads * starts.len()).into_par_iter().map(|number| piece(number % heads, starts[number / heads])).collect();
    let of_rows = pieces.chunks(heads).map(|heads| B::float_cat(heads.to_vec(), 2));
    let attended = B::float_cat(of_rows.collect(), 1);
    let width = attended.shape().dims::<3>()[2];
    B::float_reshape(attended, [rows, width].into())
}

/// Rows of one head.
fn part<B: Backend>(tensor: &FloatTensor<B>, head: usize, rows: impl Into<Slice>) -> FloatTensor<B> {
    let head: Range<usize> = head..head + 1;
    B::float_slice(tensor.clone(), &[head.into(), rows.into()])
}
