//! GELU, in place: plain Rust that the compiler vectorises for each set of instructions, shared out among threads.
//!
//! Each number is computed by itself and nothing is fused, so the bits depend neither on the number of threads nor on the
//! processor.

use rayon::prelude::*;

use crate::simd::{self, Kernel, Vector, path};

/// Numbers that a thread takes at once.
const SHARE: usize = 1 << 14;

/// Replaces each number by its GELU: `x` times the Gaussian distribution function of `x`.
pub fn gelu(values: &mut [f32]) {
    let path = path();
    values.par_chunks_mut(SHARE).for_each(|share| simd::run(path, Each(share)));
}

struct Each<'a>(&'a mut [f32]);

impl Kernel for Each<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        self.0.iter_mut().for_each(|x| *x = gelu_of(*x));
    }
}

/// e^x by a power of two and a polynomial on [-ln 2 / 2, ln 2 / 2]; relative error below 2e-7, 0 below -87.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 * 2^23 rounds to a whole number, which is then also in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.3, 88.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let power = rounded - ROUND;
    let r = (x - power * LN2_HIGH) - power * LN2_LOW;
    let series = 1.0 / 720.0;
    let series = [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0].into_iter().fold(series, |sum, c| sum * r + c);
    series * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23)
}

/// The distribution function below zero is half of e^(-z^2) t p(t) with z = |x| / √2 and t = 1 / (1 + 0.41 z). The polynomial
/// was fitted to the scaled complementary error function on [0, 9]: absolute error below 3e-9 before rounding.
#[inline(always)]
fn gelu_of(x: f32) -> f32 {
    const FIRST: f32 = 0.074_866_42;
    const REST: [f32; 7] =
        [-0.366_181_9, 0.569_594_9, -0.250_079_44, 0.332_955_55, 0.170_783_17, 0.237_081_96, 0.230_979_37];
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.41 * z);
    let series = REST.into_iter().fold(FIRST, |sum, c| sum * t + c);
    let tail = 0.5 * series * t * exp(-z * z);
    if x < 0.0 { x * tail } else { x - x * tail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Path;

    #[test]
    fn the_exponential_is_exact_to_single_precision() {
        let worst = (-8700..=870).map(|x| {
            let x = x as f32 / 100.0;
            (f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs()
        });
        let worst = worst.fold(0.0, f64::max);
        assert!(worst < 3e-7, "{worst}");
        assert!(exp(f32::NEG_INFINITY) < 1.3e-38 && exp(0.0) == 1.0);
    }

    #[test]
    fn gelu_is_that_of_the_error_function() {
        let mut values: Vec<f32> = (-1200..=1200).map(|x| x as f32 / 100.0).collect();
        let expected: Vec<f64> =
            values.iter().map(|x| f64::from(*x)).map(|x| 0.5 * x * libm::erfc(-x / 2_f64.sqrt())).collect();
        gelu(&mut values);
        for (found, expected) in values.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 3e-7 * expected.abs().max(1.0), "{found} {expected}");
        }
    }

    #[test]
    fn every_path_gives_the_same_bits() {
        let values: Vec<f32> = (-1200..=1200).map(|x| x as f32 / 97.0).collect();
        let by = |path| {
            let mut values = values.clone();
            simd::run(path, Each(&mut values));
            values
        };
        for path in Path::ALL.into_iter().filter(|path| path.available()) {
            assert!(by(path) == by(Path::Portable), "{path}");
        }
    }
}
