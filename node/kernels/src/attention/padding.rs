//! The share that equal keys beyond the grid have in a softmax, from sums along each axis.
//!
//! Their scores differ by their places alone: `exp(d + h + w)` is a product, and so its sum over a box of places is a product
//! of three sums. What lies beyond the grid is three boxes: beyond it along d; within along d and beyond along h; within
//! along both and beyond along w. All terms are positive, so nothing is lost by subtraction.

use crate::{exponential::exp, simd::Vector};

/// A sum of exponentials: the largest exponent, and the sum divided by its exponential.
#[derive(Clone, Copy)]
struct Sum {
    largest: f32,
    total: f32,
}

impl Sum {
    /// The product of two sums.
    #[inline(always)]
    fn and(self, other: Self) -> Self {
        Self { largest: self.largest + other.largest, total: self.total * other.total }
    }

    /// The sum of two sums.
    #[inline(always)]
    fn or(self, other: Self) -> Self {
        let (more, less) = if self.largest >= other.largest { (self, other) } else { (other, self) };
        if less.total == 0.0 {
            return more;
        }
        Self { total: more.total + less.total * (less.largest - more.largest).exp(), ..more }
    }
}

/// Where exponentials are kept meanwhile.
#[derive(Default)]
pub(super) struct Weights(Vec<f32>);

impl Weights {
    /// What the places beyond `grid` amount to: the largest addend, and the sum of `exp(addend - largest)`.
    ///
    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn of<V: Vector>(&mut self, tables: [&[f32]; 3], grid: [usize; 3]) -> (f32, f32) {
        let mut sums = [[Sum { largest: f32::NEG_INFINITY, total: 0.0 }; 2]; 3];
        self.0.clear();
        for ((sums, table), near) in sums.iter_mut().zip(tables).zip(grid) {
            let (near, far) = table.split_at(near);
            for (sum, exponents) in sums.iter_mut().zip([near, far]) {
                for exponent in exponents {
                    sum.largest = if *exponent > sum.largest { *exponent } else { sum.largest };
                }
                self.0.extend(exponents.iter().map(|exponent| exponent - sum.largest));
            }
        }
        self.0.resize(self.0.len().next_multiple_of(V::LANES), 0.0);
        for exponents in self.0.chunks_exact_mut(V::LANES) {
            // SAFETY: the caller has the instructions; a chunk is as long as a vector
            unsafe { exp(V::load(exponents.as_ptr())).store(exponents.as_mut_ptr()) };
        }
        let mut rest = self.0.as_slice();
        for ((sums, table), near) in sums.iter_mut().zip(tables).zip(grid) {
            for (sum, count) in sums.iter_mut().zip([near, table.len() - near]) {
                sum.total = rest[..count].iter().sum();
                rest = &rest[count..];
            }
        }
        let [[near_d, far_d], [near_h, far_h], [near_w, far_w]] = sums;
        let (all_h, all_w) = (near_h.or(far_h), near_w.or(far_w));
        let sum = far_d.and(all_h).and(all_w).or(near_d.and(far_h).and(all_w)).or(near_d.and(near_h).and(far_w));
        (sum.largest, sum.total)
    }
}
