//! Registers of 4 numbers.

use std::arch::aarch64::*;

use super::{Kernel, Vector};

/// Does `kernel` with NEON.
///
/// # Safety
/// The processor has NEON, as every 64-bit Arm with an operating system has.
#[target_feature(enable = "neon")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller has the instructions
    unsafe { kernel.run::<Lanes>() }
}

/// Four numbers.
#[derive(Clone, Copy)]
pub(super) struct Lanes(float32x4_t);

impl Vector for Lanes {
    const LANES: usize = 4;
    const ROWS: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller has the instructions
        unsafe { Self(vdupq_n_f32(value)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has the instructions and may read the numbers
        unsafe { Self(vld1q_f32(from)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller has the instructions and may write the numbers
        unsafe { vst1q_f32(to, self.0) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the caller has the instructions
        unsafe { Self(vfmaq_f32(addend.0, self.0, factor.0)) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller has the instructions
        unsafe { Self(vaddq_f32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: the caller has the instructions
        unsafe { Self(vsubq_f32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: the caller has the instructions
        unsafe { Self(vmulq_f32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: the caller has the instructions
        unsafe { Self(vbslq_f32(vcgtq_f32(self.0, other.0), self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn positive_or_zero(self, value: Self) -> Self {
        // SAFETY: the caller has the instructions
        unsafe {
            let above = vcgtq_f32(self.0, vdupq_n_f32(0.0));
            Self(vreinterpretq_f32_u32(vandq_u32(above, vreinterpretq_u32_f32(value.0))))
        }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the caller has the instructions
        unsafe { vaddvq_f32(self.0) }
    }

    #[inline(always)]
    unsafe fn power_of_two(self) -> Self {
        // SAFETY: the caller has the instructions
        unsafe {
            let exponent = vaddq_s32(vcvtnq_s32_f32(self.0), vdupq_n_s32(127));
            Self(vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
        }
    }
}
