//! Attention of a transformer in inference: `softmax(q kᵀ scale + shared) v`, block by block.
//!
//! The matrix of scores never exists: a block of queries meets the keys a few at a time and keeps a running maximum and
//! sum (Dao et al., FlashAttention, arXiv 2205.14135). A row of addends, one per key, may be shared by neighbouring
//! queries: that, and numbers by which queries and keys are continued, is what relative positions come to, so the numbers of
//! a key and of a value are counted apart.
//!
//! A task is one head and one block of queries; the bits do not depend on the number of threads.

mod block;

use rayon::prelude::*;

use crate::simd::{self, Kernel, Path, Vector};
use block::{BLOCK, Block};

/// One vector per head and token, wherever they lie.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// All numbers.
    pub values: &'a [f32],
    /// From a head's vector to the next head's.
    pub head_stride: usize,
    /// From a token's vector to the next token's.
    pub token_stride: usize,
}

impl<'a> Tokens<'a> {
    /// Of `values` [heads, tokens, width].
    pub fn by_head(values: &'a [f32], tokens: usize, width: usize) -> Self {
        Self { values, head_stride: tokens * width, token_stride: width }
    }

    /// Part `part` of `values` [tokens, parts, heads, width]: of a fused projection to queries, keys and values.
    pub fn by_token(values: &'a [f32], [part, parts]: [usize; 2], heads: usize, width: usize) -> Self {
        let skipped = (part * heads * width).min(values.len());
        Self { values: &values[skipped..], head_stride: width, token_stride: parts * heads * width }
    }

    fn of(&self, head: usize, token: usize, width: usize) -> &'a [f32] {
        &self.values[head * self.head_stride + token * self.token_stride..][..width]
    }
}

/// Numbers that are added to the scores.
#[derive(Clone, Copy, Debug)]
pub struct Shared<'a> {
    /// Rows per head; each is for as many neighbouring queries, queries / groups.
    pub groups: usize,
    /// [heads, groups, keys].
    pub rows: &'a [f32],
}

/// Attention of some extents.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Heads.
    pub heads: usize,
    /// Queries of a head.
    pub queries: usize,
    /// Keys of a head, and values.
    pub keys: usize,
    /// Numbers of a query and of a key.
    pub width: usize,
    /// Numbers of a value.
    pub value_width: usize,
    /// Factor on the product of query and key.
    pub scale: f32,
    /// What is added to it.
    pub shared: Option<Shared<'a>>,
}

impl Attention<'_> {
    /// What each query attends to, [queries, heads, value width]: as the projection that follows wants it.
    ///
    /// # Panics
    /// If the slices are shorter than the extents ask for.
    pub fn attend(&self, queries: Tokens, keys: Tokens, values: Tokens) -> Vec<f32> {
        self.attend_with(queries, keys, values, simd::path())
    }

    fn attend_with(&self, queries: Tokens, keys: Tokens, values: Tokens, path: Path) -> Vec<f32> {
        self.check();
        let Self { heads, queries: count, value_width, .. } = *self;
        let mut out = vec![0.0; count * heads * value_width];
        let mut tasks: Vec<Vec<Vec<&mut [f32]>>> = Vec::new();
        tasks.resize_with(heads, || (0..count.div_ceil(BLOCK)).map(|_| Vec::with_capacity(BLOCK)).collect());
        for (query, out) in out.chunks_exact_mut(heads * value_width).enumerate() {
            for (blocks, out) in tasks.iter_mut().zip(out.chunks_exact_mut(value_width)) {
                blocks[query / BLOCK].push(out);
            }
        }
        tasks.into_par_iter().enumerate().for_each(|(head, blocks)| {
            let packed = simd::run(path, Pack { extents: self, head, keys, values });
            blocks.into_par_iter().enumerate().for_each(|(block, out)| {
                simd::run(path, Block { extents: self, head, first: block * BLOCK, queries, packed: &packed, out });
            });
        });
        out
    }

    fn check(&self) {
        let Self { heads, queries, keys, width, value_width, .. } = *self;
        let extents = [heads, queries, keys, width, value_width];
        assert!(!extents.contains(&0), "attention needs heads, queries, keys and widths, not {extents:?}");
        if let Some(Shared { groups, rows }) = self.shared {
            assert!(groups > 0 && queries.is_multiple_of(groups), "{groups} groups do not divide {queries} queries");
            assert_eq!(rows.len(), heads * groups * keys, "the shared rows are [heads, groups, keys]");
        }
    }
}

/// Keys and values of a head as the kernels read them.
struct Packed {
    /// [panels, width, panel]: the numbers of a panel's keys lie side by side; zeros behind the last key. The last
    /// panel is as many vectors wide as its keys need.
    keys: Vec<f32>,
    /// [keys, padded value width]; zeros behind the width.
    values: Vec<f32>,
}

/// Brings keys and values of a head into the order in which they are read.
struct Pack<'a> {
    extents: &'a Attention<'a>,
    head: usize,
    keys: Tokens<'a>,
    values: Tokens<'a>,
}

impl Kernel for Pack<'_> {
    type Output = Packed;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> Packed {
        let Attention { keys: count, width, value_width, .. } = *self.extents;
        let (full, padded) = (block::panel::<V>(), value_width.next_multiple_of(V::LANES));
        let mut keys = vec![0.0; count.next_multiple_of(V::LANES) * width];
        let mut values = vec![0.0; count * padded];
        for (key, value) in values.chunks_exact_mut(padded).enumerate() {
            value[..value_width].copy_from_slice(self.values.of(self.head, key, value_width));
            let first = key - key % full;
            let panel = full.min((count - first).next_multiple_of(V::LANES));
            let column = keys[first * width + key - first..].iter_mut().step_by(panel);
            column.zip(self.keys.of(self.head, key, width)).for_each(|(to, from)| *to = *from);
        }
        Packed { keys, values }
    }
}

#[cfg(test)]
mod tests;
