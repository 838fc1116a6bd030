//! The exponential function of a vector.
//!
//! `exp(x) = 2^n exp(r)` with `n` the whole number nearest to `x / ln 2`, so that `r` is within ± ln 2 / 2, where seven
//! terms of the series leave 1.3e-7 (Muller, *Elementary Functions*, chapter 11). Relative error below 4e-7.

use crate::simd::Vector;

/// Adding it rounds to a whole number: 1.5 * 2^23.
const ROUND: f32 = 12_582_912.0;

/// `ln 2` in two parts, the first with so few digits that whole multiples of it are exact.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];

/// 1/6!, 1/5!, ... 1/0!.
const SERIES: [f32; 7] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];

/// `exp(x)` for `x` up to 88; 1e-38 instead of anything smaller.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn exp<V: Vector>(x: V) -> V {
    // SAFETY: the caller has the instructions
    unsafe {
        let x = V::splat(-87.0).max(x); // in this order what is not a number stays one
        let n = x.mul_add(V::splat(std::f32::consts::LOG2_E), V::splat(ROUND)).sub(V::splat(ROUND));
        let r = n.mul_add(V::splat(-LN_2[0]), x);
        let r = n.mul_add(V::splat(-LN_2[1]), r);
        let mut series = V::splat(SERIES[0]);
        for term in &SERIES[1..] {
            series = series.mul_add(r, V::splat(*term));
        }
        series.mul(n.power_of_two())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{self, Kernel, Path};

    struct Each<'a>(&'a mut [f32]);

    impl Kernel for Each<'_> {
        type Output = ();

        #[inline(always)]
        unsafe fn run<V: Vector>(self) {
            for values in self.0.chunks_exact_mut(V::LANES) {
                // SAFETY: a chunk is as long as a vector; the caller has the instructions
                unsafe { exp(V::load(values.as_ptr())).store(values.as_mut_ptr()) };
            }
        }
    }

    #[test]
    fn as_precise_as_single_precision_allows() {
        let x: Vec<f32> = (0..16 * 20_000).map(|i| i as f32 * 175.0 / 320_000.0 - 87.0).collect();
        for path in Path::ALL.into_iter().filter(|path| path.available()) {
            let mut y = x.clone();
            simd::run(path, Each(&mut y));
            for (x, y) in x.iter().zip(&y) {
                let expected = f64::from(*x).exp();
                assert!(((f64::from(*y) - expected) / expected).abs() < 4e-7, "exp({x}) = {y} on {path}");
            }
            let mut rim = [f32::NEG_INFINITY, -1e9, f32::NAN, 0.0].repeat(4);
            simd::run(path, Each(&mut rim));
            assert!(rim[0] < 2e-38 && rim[1] < 2e-38 && rim[2].is_nan() && rim[3] == 1.0, "{rim:?}");
        }
    }
}
