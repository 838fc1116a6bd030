//! Registers of 16 numbers.

use std::arch::x86_64::*;

use super::{Kernel, Vector};

/// Does `kernel` with AVX-512.
///
/// # Safety
/// The processor has AVX-512F and FMA.
#[target_feature(enable = "avx512f,fma")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller has the instructions
    unsafe { kernel.run::<Lanes>() }
}

/// Sixteen numbers.
#[derive(Clone, Copy)]
pub(super) struct Lanes(__m512);

impl Vector for Lanes {
    const LANES: usize = 16;
    const ROWS: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller has the instructions
        unsafe { Self(_mm512_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has the instructions and may read the numbers
        unsafe { Self(_mm512_loadu_ps(from)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller has the instructions and may write the numbers
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the caller has the instructions
        unsafe { Self(_mm512_fmadd_ps(self.0, factor.0, addend.0)) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller has the instructions
        unsafe { Self(_mm512_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: the caller has the instructions
        unsafe { Self(_mm512_sub_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: the caller has the instructions
        unsafe { Self(_mm512_mul_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: the caller has the instructions
        unsafe { Self(_mm512_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn positive_or_zero(self, value: Self) -> Self {
        // SAFETY: the caller has the instructions
        unsafe {
            let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, _mm512_setzero_ps());
            Self(_mm512_maskz_mov_ps(above, value.0))
        }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the caller has the instructions
        unsafe { _mm512_reduce_add_ps(self.0) }
    }

    #[inline(always)]
    unsafe fn power_of_two(self) -> Self {
        // SAFETY: the caller has the instructions
        unsafe { Self(_mm512_scalef_ps(_mm512_set1_ps(1.0), self.0)) }
    }
    #[inline(always)]
    unsafe fn transpose_eight(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
        // SAFETY: AVX-512 includes AVX; the caller's word for the rows
        unsafe { super::avx2::transpose_eight(from, from_step, to, to_step) }
    }
}
