//! The innermost part of a product: a block of sums, a few outputs by a few vectors of columns, in registers.

use super::packing::Panel;
use crate::simd::Vector;

/// Vectors of columns computed at once, and the numbers of as many of the longest.
pub(super) const STRIP: usize = 6;
pub(super) const STRIP_COLUMNS: usize = STRIP * 16;

/// Sums of a panel's outputs for a strip.
pub(super) const SUMS: usize = 8 * STRIP_COLUMNS;

/// What the sums of a strip are made from.
pub(super) struct At<'a> {
    /// Planes that there are, each with the number of the kernel's depth that reads it.
    pub(super) segments: &'a [(*const f32, usize)],
    /// Where taps read within a plane.
    pub(super) offsets: &'a [u32],
    /// The panel's weights, for each tap of each depth those of all rows.
    pub(super) weights: &'a [f32],
    pub(super) panel: Panel,
    /// Of each row of the panel.
    pub(super) bias: [f32; 8],
    /// The first of the strip.
    pub(super) column: usize,
}

impl At<'_> {
    /// The sums of the panel's outputs for `vectors`, at most [`STRIP`], vectors of columns: each output's in
    /// [`STRIP_COLUMNS`] numbers.
    ///
    /// # Safety
    /// The processor has the instructions of `V`. Each segment plus each offset plus the strip's columns may be read, whole
    /// vectors of them.
    #[inline(always)]
    pub(super) unsafe fn sums<V: Vector>(&self, vectors: usize, sums: &mut [f32]) {
        let taps = self.segments.iter().map(|(_, first)| (first + 1) * self.offsets.len()).max().unwrap_or(0);
        assert!(self.weights.len() >= taps * self.panel.rows && sums.len() >= SUMS && vectors <= STRIP);
        // SAFETY: the caller's word, and the assertion; a panel of M rows has M weights for each tap
        unsafe {
            match (V::ROWS, self.panel.rows) {
                (8, 8) => self.blocks::<V, 8, 3>(vectors, sums),
                (8, 4) => self.blocks::<V, 4, 6>(vectors, sums),
                (8, _) => self.blocks::<V, 2, 6>(vectors, sums),
                (6, 6) => self.blocks::<V, 6, 2>(vectors, sums),
                (6, 4) => self.blocks::<V, 4, 2>(vectors, sums),
                (6, _) => self.blocks::<V, 2, 4>(vectors, sums),
                _ => self.blocks::<V, 2, 3>(vectors, sums),
            }
        }
    }

    /// `vectors` vectors of columns in blocks of at most `N`.
    ///
    /// # Safety
    /// As [`At::block`].
    #[inline(always)]
    unsafe fn blocks<V: Vector, const M: usize, const N: usize>(&self, vectors: usize, sums: &mut [f32]) {
        let mut done = 0;
        // SAFETY: as many vectors are computed as the caller vouches for
        unsafe {
            while vectors - done >= N {
                self.block::<V, M, N>(done, sums);
                done += N;
            }
            if N > 3 && vectors - done >= 3 {
                self.block::<V, M, 3>(done, sums);
                done += 3;
            }
            if vectors - done == 2 {
                self.block::<V, M, 2>(done, sums);
            }
            if vectors - done == 1 {
                self.block::<V, M, 1>(done, sums);
            }
        }
    }

    /// The sums of `M` outputs by `N` vectors, from vector `done` of the strip on. Depths are summed apart.
    ///
    /// # Safety
    /// The processor has the instructions of `V`. Each segment plus each offset plus the strip's columns up to the end of the
    /// block may be read, there are `M` weights for each, and room for the sums.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "constant ranges are unrolled, and the block stays in registers")]
    unsafe fn block<V: Vector, const M: usize, const N: usize>(&self, done: usize, sums: &mut [f32]) {
        assert!(M <= 8 && (done + N) * V::LANES <= STRIP_COLUMNS);
        let sums = sums.as_mut_ptr();
        let place = |m: usize, n: usize| m * STRIP_COLUMNS + (done + n) * V::LANES;
        // SAFETY: the caller's word for what is read and for the room; the assertion holds that each row stays in its own
        unsafe {
            if self.segments.is_empty() {
                for m in 0..M {
                    for n in 0..N {
                        V::splat(self.bias[m]).store(sums.add(place(m, n)));
                    }
                }
            }
            for (number, (from, first)) in self.segments.iter().enumerate() {
                let mut block = [[V::splat(0.0); N]; M];
                let from = from.add(self.column + done * V::LANES);
                let mut weights = self.weights.as_ptr().add(first * self.offsets.len() * M);
                for offset in self.offsets {
                    let run = from.add(*offset as usize);
                    let mut values = [V::splat(0.0); N];
                    for n in 0..N {
                        values[n] = V::load(run.add(n * V::LANES));
                    }
                    for m in 0..M {
                        let weight = V::splat(*weights.add(m));
                        for n in 0..N {
                            block[m][n] = weight.mul_add(values[n], block[m][n]);
                        }
                    }
                    weights = weights.add(M);
                }
                for m in 0..M {
                    for n in 0..N {
                        let sum = sums.add(place(m, n));
                        let before = if number == 0 { V::splat(self.bias[m]) } else { V::load(sum) };
                        before.add(block[m][n]).store(sum);
                    }
                }
            }
        }
    }
}
