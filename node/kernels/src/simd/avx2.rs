//! Registers of 8 numbers.

use std::arch::x86_64::*;

use super::{Kernel, Vector};

/// Does `kernel` with AVX2.
///
/// # Safety
/// The processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller has the instructions
    unsafe { kernel.run::<Lanes>() }
}

/// Eight numbers.
#[derive(Clone, Copy)]
pub(super) struct Lanes(__m256);

impl Vector for Lanes {
    const LANES: usize = 8;
    const ROWS: usize = 6;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller has the instructions
        unsafe { Self(_mm256_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has the instructions and may read the numbers
        unsafe { Self(_mm256_loadu_ps(from)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller has the instructions and may write the numbers
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the caller has the instructions
        unsafe { Self(_mm256_fmadd_ps(self.0, factor.0, addend.0)) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller has the instructions
        unsafe { Self(_mm256_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: the caller has the instructions
        unsafe { Self(_mm256_sub_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: the caller has the instructions
        unsafe { Self(_mm256_mul_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: the caller has the instructions
        unsafe { Self(_mm256_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn positive_or_zero(self, value: Self) -> Self {
        // SAFETY: the caller has the instructions
        unsafe { Self(_mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(self.0, _mm256_setzero_ps()), value.0)) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the caller has the instructions
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    unsafe fn power_of_two(self) -> Self {
        // SAFETY: the caller has the instructions
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
            Self(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }
    #[inline(always)]
    unsafe fn transpose_eight(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
        // SAFETY: the caller's word
        unsafe { transpose_eight(from, from_step, to, to_step) }
    }
}

/// See [`Vector::transpose_eight`]: pairs of rows are woven by ones, by twos and by fours.
///
/// # Safety
/// The processor has AVX, and the rows may be read and written.
#[inline(always)]
pub(super) unsafe fn transpose_eight(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
    // SAFETY: the caller's word
    unsafe {
        let row: [__m256; 8] = std::array::from_fn(|r| _mm256_loadu_ps(from.add(r * from_step)));
        let ones: [__m256; 8] = std::array::from_fn(|i| {
            let (a, b) = (row[i / 2 * 2], row[i / 2 * 2 + 1]);
            if i % 2 == 0 { _mm256_unpacklo_ps(a, b) } else { _mm256_unpackhi_ps(a, b) }
        });
        let twos: [__m256; 8] = std::array::from_fn(|i| {
            let (a, b) = (ones[i / 4 * 4 + i % 4 / 2], ones[i / 4 * 4 + i % 4 / 2 + 2]);
            if i % 2 == 0 { _mm256_shuffle_ps::<0x44>(a, b) } else { _mm256_shuffle_ps::<0xee>(a, b) }
        });
        for column in 0..4 {
            let (a, b) = (twos[column], twos[column + 4]);
            _mm256_storeu_ps(to.add(column * to_step), _mm256_permute2f128_ps::<0x20>(a, b));
            _mm256_storeu_ps(to.add((column + 4) * to_step), _mm256_permute2f128_ps::<0x31>(a, b));
        }
    }
}
