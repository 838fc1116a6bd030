//! Attention of a transformer in inference: `softmax(q kᵀ scale + position) v`, block by block.
//!
//! The matrix of scores never exists: a block of queries meets the keys a few at a time and keeps a running maximum and
//! sum (Dao et al., FlashAttention, arXiv 2205.14135). Relative positions are those of SAM-Med3D (spec/semisam.md,
//! section 7.3): the sum of three numbers that depend on the query and on the key's place along d, h and w.
//!
//! A window that is larger than the grid of tokens is padded with keys that are all the same. Their share of the softmax is
//! a product of three sums, so [`Padding`] counts them all without looking at any, which is exact: the 512 tokens of a
//! padded 14³ window cost what they cost without padding, a fifth of 2744 keys.
//!
//! A task is one head and one block of queries; the bits do not depend on the number of threads.

mod block;
mod padding;

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

/// What a key's place in a window adds to the scores.
#[derive(Clone, Copy, Debug)]
pub struct Positions<'a> {
    /// Sides of the window.
    pub window: [usize; 3],
    /// Along d, h and w: [heads, queries, side].
    pub tables: [&'a [f32]; 3],
    /// The keys that are not given one by one. Without, the keys fill the window, d-major.
    pub padding: Option<Padding<'a>>,
}

/// Equal keys that fill a window from the given keys to its far ends.
#[derive(Clone, Copy, Debug)]
pub struct Padding<'a> {
    /// Sides of the grid of the given keys, at the near end of the window, d-major.
    pub grid: [usize; 3],
    /// The key of each head, [heads, width].
    pub key: &'a [f32],
    /// The value of each head, [heads, width].
    pub value: &'a [f32],
}

impl Positions<'_> {
    /// Sides of the grid of the given keys.
    fn grid(&self) -> [usize; 3] {
        self.padding.map_or(self.window, |padding| padding.grid)
    }
}

/// Attention of some extents.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Heads.
    pub heads: usize,
    /// Queries of a head.
    pub queries: usize,
    /// Keys of a head, and values; those of [`Padding`] not counted.
    pub keys: usize,
    /// Numbers of a query, a key, a value.
    pub width: usize,
    /// Factor on the product of query and key.
    pub scale: f32,
    /// What the keys' places add.
    pub positions: Option<Positions<'a>>,
}

impl Attention<'_> {
    /// What each query attends to, [queries, heads, width]: as the projection that follows wants it.
    ///
    /// # Panics
    /// If the slices are shorter than the extents ask for.
    pub fn attend(&self, queries: Tokens, keys: Tokens, values: Tokens) -> Vec<f32> {
        self.attend_with(queries, keys, values, simd::path())
    }

    fn attend_with(&self, queries: Tokens, keys: Tokens, values: Tokens, path: Path) -> Vec<f32> {
        self.check();
        let Self { heads, queries: count, width, .. } = *self;
        let mut by_head = vec![0.0; heads * count * width];
        by_head.par_chunks_mut(count * width).enumerate().for_each(|(head, out)| {
            let packed = simd::run(path, Pack { extents: self, head, keys, values });
            out.par_chunks_mut(BLOCK * width).enumerate().for_each(|(block, out)| {
                simd::run(path, Block { extents: self, head, first: block * BLOCK, queries, packed: &packed, out });
            });
        });
        let mut out = vec![0.0; by_head.len()];
        out.par_chunks_mut(heads * width).enumerate().for_each(|(token, out)| {
            for (head, out) in out.chunks_exact_mut(width).enumerate() {
                out.copy_from_slice(&by_head[(head * count + token) * width..][..width]);
            }
        });
        out
    }

    fn check(&self) {
        let Self { heads, queries, keys, width, .. } = *self;
        assert!(heads > 0 && queries > 0 && keys > 0 && width > 0, "attention needs heads, queries, keys and a width");
        let Some(positions) = self.positions else { return };
        for (table, side) in positions.tables.iter().zip(positions.window) {
            assert_eq!(table.len(), heads * queries * side, "a table of positions is [heads, queries, side]");
        }
        assert_eq!(positions.grid().iter().product::<usize>(), keys, "the given keys fill their grid");
        if let Some(padding) = positions.padding {
            assert!(
                padding.grid.iter().zip(positions.window).all(|(near, side)| *near <= side),
                "the window is larger"
            );
            assert!(padding.key.len() == heads * width && padding.value.len() == heads * width, "a padding per head");
        }
    }
}

/// Keys and values of a head as the kernels read them.
struct Packed {
    /// [panels, width, panel]: the numbers of a panel's keys lie side by side; zeros behind the last key.
    keys: Vec<f32>,
    /// [keys, padded width]; zeros behind the width.
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
        let Attention { keys: count, width, .. } = *self.extents;
        let (panel, padded) = (block::panel::<V>(), width.next_multiple_of(V::LANES));
        let mut keys = vec![0.0; count.next_multiple_of(panel) * width];
        let mut values = vec![0.0; count * padded];
        for (key, value) in values.chunks_exact_mut(padded).enumerate() {
            value[..width].copy_from_slice(self.values.of(self.head, key, width));
            let column = &mut keys[key / panel * panel * width + key % panel..];
            let column = column.iter_mut().step_by(panel);
            column.zip(self.keys.of(self.head, key, width)).for_each(|(to, from)| *to = *from);
        }
        Packed { keys, values }
    }
}

#[cfg(test)]
mod tests;
