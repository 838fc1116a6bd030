//! A block of queries of one head against all its keys.

use super::{Attention, Packed, Shared, Tokens};
use crate::{
    exponential::exp,
    simd::{Kernel, Vector},
};

/// Queries of a block: a multiple of the rows of every register block.
pub(super) const BLOCK: usize = 24;

/// Keys whose scores are held at a time: a multiple of every panel.
const CHUNK: usize = 128;

/// Keys of a panel: the columns of a register block.
pub(super) const fn panel<V: Vector>() -> usize {
    columns::<V>() * V::LANES
}

/// Vectors side by side in a register block: six rows by four fill 32 registers, six by two 16.
const fn columns<V: Vector>() -> usize {
    if V::ROWS >= 8 { 4 } else { 2 }
}

/// What each of a block's queries attends to.
pub(super) struct Block<'a> {
    pub(super) extents: &'a Attention<'a>,
    pub(super) head: usize,
    /// The first query.
    pub(super) first: usize,
    pub(super) queries: Tokens<'a>,
    pub(super) packed: &'a Packed,
    /// Of each query of the block, what it attends to.
    pub(super) out: Vec<&'a mut [f32]>,
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the caller has the instructions
        unsafe {
            match V::ROWS {
                8.. => self.attend::<V, 6, 4>(),
                4.. => self.attend::<V, 6, 2>(),
                _ => self.attend::<V, 2, 2>(),
            }
        }
    }
}

/// What is known of the queries of a block after some of the keys.
struct State {
    /// [BLOCK, width], times the scale.
    queries: Vec<f32>,
    /// [BLOCK, CHUNK].
    scores: Vec<f32>,
    /// [BLOCK, padded value width]: the sum of the values so far, by their weights.
    sums: Vec<f32>,
    /// Of each query, the largest score so far.
    largest: [f32; BLOCK],
    /// Of each query, the sum of the weights so far, where the largest score's weight is one.
    total: [f32; BLOCK],
}

impl State {
    /// Before the first key.
    fn new(block: &Block, rows: usize, padded: usize) -> Self {
        let Attention { width, scale, .. } = *block.extents;
        let mut queries = vec![0.0; BLOCK * width];
        for (row, scaled) in queries.chunks_exact_mut(width).take(rows).enumerate() {
            let query = block.queries.of(block.head, block.first + row, width);
            scaled.iter_mut().zip(query).for_each(|(scaled, query)| *scaled = query * scale);
        }
        Self {
            queries,
            scores: vec![0.0; BLOCK * CHUNK],
            sums: vec![0.0; BLOCK * padded],
            largest: [f32::NEG_INFINITY; BLOCK],
            total: [0.0; BLOCK],
        }
    }
}

impl Block<'_> {
    /// With register blocks of `R` rows and `C` vectors.
    ///
    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    unsafe fn attend<V: Vector, const R: usize, const C: usize>(self) {
        let Attention { keys, width, value_width, .. } = *self.extents;
        let (rows, padded) = (self.out.len(), value_width.next_multiple_of(V::LANES));
        let mut state = State::new(&self, rows, padded);
        for chunk in (0..keys).step_by(CHUNK) {
            let here = CHUNK.min(keys - chunk);
            let packed = &self.packed.keys[chunk * width..][..here.next_multiple_of(V::LANES) * width];
            for row in (0..rows).step_by(R) {
                // SAFETY: the caller has the instructions
                unsafe {
                    scores_of::<V, R, C>(&state.queries[row * width..], packed, width, &mut state.scores[row * CHUNK..])
                };
            }
            for row in 0..rows {
                // SAFETY: the caller has the instructions
                unsafe {
                    if let Some(shared) = &self.extents.shared {
                        add::<V>(&mut state.scores[row * CHUNK..][..here], &self.shared(shared, row)[chunk..][..here]);
                    }
                    state.weigh::<V>(row, here, padded);
                }
            }
            let values = &self.packed.values[chunk * padded..][..here * padded];
            for row in (0..rows).step_by(R) {
                let (weights, sums) = (&state.scores[row * CHUNK..], &mut state.sums[row * padded..]);
                // SAFETY: the caller has the instructions
                unsafe { add_values::<V, R, C>(weights, values, padded, sums) };
            }
        }
        for (row, out) in self.out.into_iter().enumerate() {
            let share = 1.0 / state.total[row];
            out.iter_mut().zip(&state.sums[row * padded..]).for_each(|(out, sum)| *out = sum * share);
        }
    }

    /// The addends of a query.
    fn shared<'a>(&self, shared: &Shared<'a>, row: usize) -> &'a [f32] {
        let Attention { queries, keys, .. } = *self.extents;
        let group = (self.first + row) / (queries / shared.groups);
        &shared.rows[(self.head * shared.groups + group) * keys..][..keys]
    }
}

/// Adds `addends` to as many `scores`.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn add<V: Vector>(scores: &mut [f32], addends: &[f32]) {
    let (mut scores, addends) = (scores.chunks_exact_mut(V::LANES), addends.chunks_exact(V::LANES));
    let rest = addends.remainder();
    for (scores, addends) in scores.by_ref().zip(addends) {
        // SAFETY: the caller has the instructions; a chunk is as long as a vector
        unsafe { V::load(scores.as_ptr()).add(V::load(addends.as_ptr())).store(scores.as_mut_ptr()) };
    }
    scores.into_remainder().iter_mut().zip(rest).for_each(|(score, addend)| *score += addend);
}

impl State {
    /// Turns the scores of `here` keys into weights, and what was summed before into the same measure.
    ///
    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    unsafe fn weigh<V: Vector>(&mut self, row: usize, here: usize, padded: usize) {
        let scores = &mut self.scores[row * CHUNK..][..here.next_multiple_of(V::LANES)];
        scores[here..].fill(f32::NEG_INFINITY);
        // SAFETY: the caller has the instructions; a chunk is as long as a vector
        unsafe {
            let mut largest = V::splat(self.largest[row]);
            for scores in scores.chunks_exact(V::LANES) {
                largest = V::load(scores.as_ptr()).max(largest);
            }
            let largest = largest_of(largest);
            if largest > self.largest[row] {
                let factor = (self.largest[row] - largest).exp();
                self.total[row] *= factor;
                self.sums[row * padded..][..padded].iter_mut().for_each(|sum| *sum *= factor);
                self.largest[row] = largest;
            }
            let (largest, mut total) = (V::splat(self.largest[row]), V::splat(0.0));
            for scores in scores.chunks_exact_mut(V::LANES) {
                let weight = exp(V::load(scores.as_ptr()).sub(largest));
                weight.store(scores.as_mut_ptr());
                total = total.add(weight);
            }
            self.total[row] += total.sum();
        }
    }
}

/// The largest number of a vector.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn largest_of<V: Vector>(vector: V) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    assert!(V::LANES <= lanes.len());
    // SAFETY: the caller has the instructions; the assertion holds that there is room
    unsafe { vector.store(lanes.as_mut_ptr()) };
    for half in [8, 4, 2, 1] {
        for at in 0..half {
            let (a, b) = (lanes[at], lanes[at + half]);
            lanes[at] = if a > b { a } else { b };
        }
    }
    lanes[0]
}

/// Scores of `R` queries, `width` apart, and panels of keys, into rows that are [`CHUNK`] apart.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn scores_of<V: Vector, const R: usize, const C: usize>(
    queries: &[f32],
    keys: &[f32],
    width: usize,
    scores: &mut [f32],
) {
    let full = C * V::LANES;
    for (panel, keys) in keys.chunks(full * width).enumerate() {
        let scores = &mut scores[panel * full..];
        // SAFETY: the caller has the instructions
        unsafe {
            match keys.len() / (V::LANES * width) {
                1 => scores_of_panel::<V, R, 1>(queries, keys, width, scores),
                2 => scores_of_panel::<V, R, 2>(queries, keys, width, scores),
                3 => scores_of_panel::<V, R, 3>(queries, keys, width, scores),
                _ => scores_of_panel::<V, R, C>(queries, keys, width, scores),
            }
        }
    }
}

/// [`scores_of`] for a panel of `C` vectors.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn scores_of_panel<V: Vector, const R: usize, const C: usize>(
    queries: &[f32],
    keys: &[f32],
    width: usize,
    scores: &mut [f32],
) {
    assert!(queries.len() >= R * width && keys.len() == width * C * V::LANES);
    assert!(scores.len() >= (R - 1) * CHUNK + C * V::LANES);
    // SAFETY: the caller has the instructions. Of the queries, number `r * width + at` is read, with `r < R` and
    // `at < width`; of the keys, `LANES` numbers from `(at * C + c) * LANES` with `c < C`; of the scores, as many from
    // `r * CHUNK + c * LANES` are written. The assertions hold that all these lie in their slices.
    unsafe {
        let mut sums = [[V::splat(0.0); C]; R];
        for at in 0..width {
            let mut vectors = [V::splat(0.0); C];
            for (c, vector) in vectors.iter_mut().enumerate() {
                *vector = V::load(keys.as_ptr().add((at * C + c) * V::LANES));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let query = V::splat(*queries.get_unchecked(r * width + at));
                for (sum, vector) in sums.iter_mut().zip(vectors) {
                    *sum = vector.mul_add(query, *sum);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (c, sum) in sums.into_iter().enumerate() {
                sum.store(scores.as_mut_ptr().add(r * CHUNK + c * V::LANES));
            }
        }
    }
}

/// Adds `values` [keys, padded] by the weights of `R` queries, [`CHUNK`] apart, to `sums` [R, padded].
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn add_values<V: Vector, const R: usize, const C: usize>(
    weights: &[f32],
    values: &[f32],
    padded: usize,
    sums: &mut [f32],
) {
    let mut at = 0;
    while at + C * V::LANES <= padded {
        // SAFETY: the caller has the instructions
        unsafe { add_columns::<V, R, C>(weights, &values[at..], padded, &mut sums[at..]) };
        at += C * V::LANES;
    }
    while at < padded {
        // SAFETY: the caller has the instructions
        unsafe { add_columns::<V, R, 1>(weights, &values[at..], padded, &mut sums[at..]) };
        at += V::LANES;
    }
}

/// [`add_values`] for `C` vectors of the width, where `values` and `sums` start.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn add_columns<V: Vector, const R: usize, const C: usize>(
    weights: &[f32],
    values: &[f32],
    padded: usize,
    sums: &mut [f32],
) {
    let keys = values.len().div_ceil(padded);
    assert!(C * V::LANES <= padded && values.len() >= (keys - 1) * padded + C * V::LANES);
    assert!(keys <= CHUNK && weights.len() >= R * CHUNK && sums.len() >= (R - 1) * padded + C * V::LANES);
    // SAFETY: the caller has the instructions. Of the weights, number `r * CHUNK + key` is read, with `r < R` and
    // `key < keys <= CHUNK`; of the values, `LANES` numbers from `key * padded + c * LANES` with `c < C`; of the sums, as
    // many from `r * padded + c * LANES` are read and written. The assertions hold that all these lie in their slices.
    unsafe {
        let mut found = [[V::splat(0.0); C]; R];
        for key in 0..keys {
            let mut vectors = [V::splat(0.0); C];
            for (c, vector) in vectors.iter_mut().enumerate() {
                *vector = V::load(values.as_ptr().add(key * padded + c * V::LANES));
            }
            for (r, found) in found.iter_mut().enumerate() {
                let weight = V::splat(*weights.get_unchecked(r * CHUNK + key));
                for (found, vector) in found.iter_mut().zip(vectors) {
                    *found = vector.mul_add(weight, *found);
                }
            }
        }
        for (r, found) in found.into_iter().enumerate() {
            for (c, found) in found.into_iter().enumerate() {
                let at = sums.as_mut_ptr().add(r * padded + c * V::LANES);
                V::load(at).add(found).store(at);
            }
        }
    }
}
