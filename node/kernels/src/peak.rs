//! How many multiplications and additions this processor can do at most: what a kernel's speed is a share of.

use crate::simd::{self, Kernel, Path, Vector};

/// Independent sums: enough to hide the latency of an addition, few enough for 16 registers.
const SUMS: usize = 12;

/// Multiplies and adds in registers alone, in `rounds` rounds, with the instructions of `path`.
///
/// Returns the floating-point operations done and a number that depends on all of them, so that none can be left out.
pub fn multiply_adds(path: Path, rounds: usize) -> (u64, f32) {
    simd::run(path, Rounds(rounds))
}

struct Rounds(usize);

impl Kernel for Rounds {
    type Output = (u64, f32);

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> (u64, f32) {
        // SAFETY: the caller has the instructions
        unsafe {
            let (factor, addend) = (V::splat(0.999), V::splat(0.001));
            let mut sums = [V::splat(0.5); SUMS];
            for _ in 0..self.0 {
                for sum in &mut sums {
                    *sum = sum.mul_add(factor, addend);
                }
            }
            let mut all = V::splat(0.0);
            for sum in sums {
                all = all.add(sum);
            }
            ((self.0 * SUMS * V::LANES * 2) as u64, all.sum())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_is_done() {
        for path in Path::ALL.into_iter().filter(|path| path.available()) {
            let (operations, sum) = multiply_adds(path, 100_000);
            let lanes = operations / (100_000 * 12 * 2);
            assert!((f64::from(sum) / (12 * lanes) as f64 - 1.0).abs() < 1e-3, "{path}: {sum}");
        }
    }
}
