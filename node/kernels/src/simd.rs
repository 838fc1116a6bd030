//! Vectors of f32, and the choice of the processor's instructions at run time.
//!
//! A computation is written once, generic over [`Vector`], as a [`Kernel`]; [`run`] compiles it for each instruction set
//! and calls the one that [`path`] names. The methods of a vector are inlined into a function that enables the
//! instructions, which is what makes them single instructions.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

use std::{fmt, sync::OnceLock};

/// The variable that forces a path: `avx512`, `avx2`, `neon` or `portable`.
pub const VARIABLE: &str = "SEMISAM_KERNELS";

/// A set of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// x86-64 with AVX-512F: 32 registers of 16 numbers.
    Avx512,
    /// x86-64 with AVX2 and FMA: 16 registers of 8 numbers.
    Avx2,
    /// 64-bit Arm: 32 registers of 4 numbers.
    Neon,
    /// Whatever the compiler makes of plain Rust.
    Portable,
}

impl Path {
    /// Every path, the fastest first.
    pub const ALL: [Self; 4] = [Self::Avx512, Self::Avx2, Self::Neon, Self::Portable];

    /// As it is written in [`VARIABLE`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Neon => "neon",
            Self::Portable => "portable",
        }
    }

    /// Whether this processor has the instructions.
    pub fn available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => std::is_x86_feature_detected!("avx512f") && std::is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => true,
            Self::Portable => true,
            _ => false,
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a path that was asked for cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPath {
    asked: String,
}

impl fmt::Display for UnknownPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let here: Vec<&str> = Path::ALL.into_iter().filter(|path| path.available()).map(Path::name).collect();
        write!(f, "{VARIABLE} is `{}`, but this processor has {}; choose one, or unset it", self.asked, here.join(", "))
    }
}

impl std::error::Error for UnknownPath {}

/// The path named by the value of [`VARIABLE`], or the fastest available one where it is unset.
///
/// # Errors
/// If the name is unknown or the processor lacks the instructions.
pub fn choose(asked: Option<&str>) -> Result<Path, UnknownPath> {
    let mut available = Path::ALL.into_iter().filter(|path| path.available());
    match asked {
        None => Ok(available.next().expect("the portable path is always available")),
        Some(name) => available.find(|path| path.name() == name).ok_or_else(|| UnknownPath { asked: name.to_owned() }),
    }
}

/// The path of this process: of [`VARIABLE`] when it was first asked for, so that bits do not change within a run.
///
/// # Panics
/// If the variable names a path that is not to be had. A program that wants to say so by itself calls [`choose`] first.
pub fn path() -> Path {
    static PATH: OnceLock<Path> = OnceLock::new();
    *PATH.get_or_init(|| match choose(std::env::var(VARIABLE).ok().as_deref()) {
        Ok(path) => path,
        Err(error) => panic!("{error}"),
    })
}

/// A computation that is compiled for each set of instructions.
pub(crate) trait Kernel {
    /// What it gives.
    type Output;

    /// Does it. Implementations are `#[inline(always)]`, and so is all that they call with a `V`.
    ///
    /// # Safety
    /// The processor has the instructions of `V`.
    unsafe fn run<V: Vector>(self) -> Self::Output;
}

/// Does `kernel` with the instructions of `path`.
pub(crate) fn run<K: Kernel>(path: Path, kernel: K) -> K::Output {
    assert!(path.available(), "the processor lacks the instructions of {path}");
    match path {
        // SAFETY: the assertion above holds that the processor has the instructions
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => unsafe { avx512::run(kernel) },
        // SAFETY: as above
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => unsafe { avx2::run(kernel) },
        // SAFETY: as above
        #[cfg(target_arch = "aarch64")]
        Path::Neon => unsafe { neon::run(kernel) },
        // SAFETY: plain Rust needs nothing of the processor
        _ => unsafe { kernel.run::<portable::Lanes>() },
    }
}

/// A register of f32.
///
/// # Safety
/// All methods ask that the processor has the instructions of the type, which holds within [`Kernel::run`].
pub(crate) trait Vector: Copy {
    /// Numbers in it.
    const LANES: usize;

    /// Rows of a block of sums that fits into the registers: 8 of three vectors, 6 of two (a third would leave no register
    /// to spare), 2 of three.
    const ROWS: usize;

    /// The same number everywhere.
    unsafe fn splat(value: f32) -> Self;

    /// The `LANES` numbers at `from`.
    ///
    /// # Safety
    /// They may be read. No alignment is asked for.
    unsafe fn load(from: *const f32) -> Self;

    /// Writes the `LANES` numbers to `to`.
    ///
    /// # Safety
    /// They may be written. No alignment is asked for.
    unsafe fn store(self, to: *mut f32);

    /// `self * factor + addend`, rounded once where the processor can.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;

    /// Sum.
    unsafe fn add(self, other: Self) -> Self;

    /// Difference.
    unsafe fn sub(self, other: Self) -> Self;

    /// Product.
    unsafe fn mul(self, other: Self) -> Self;

    /// The larger of each two; `other` where one is not a number.
    unsafe fn max(self, other: Self) -> Self;

    /// `value` where `self` is above zero, else zero.
    unsafe fn positive_or_zero(self, value: Self) -> Self;

    /// The sum of the numbers, in an order that is fixed for the type.
    unsafe fn sum(self) -> f32;

    /// Two to the power of whole numbers between -126 and 127.
    unsafe fn power_of_two(self) -> Self;

    /// Writes eight rows of eight numbers, `from_step` apart, as columns: number `c` of row `r` becomes number `r` of the
    /// row `c * to_step` behind `to`.
    ///
    /// # Safety
    /// The rows may be read and written, and do not overlap.
    #[inline(always)]
    unsafe fn transpose_eight(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
        for row in 0..8 {
            for column in 0..8 {
                // SAFETY: the caller's word
                unsafe { *to.add(column * to_step + row) = *from.add(row * from_step + column) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Everything;

    impl Kernel for Everything {
        type Output = ();

        #[inline(always)]
        unsafe fn run<V: Vector>(self) {
            let (a, b): (Vec<f32>, Vec<f32>) = (0..V::LANES).map(|i| (i as f32 - 2.5, 7.0 - 3.0 * i as f32)).unzip();
            let check = |found: V, expected: &dyn Fn(f32, f32) -> f32| {
                let mut values = vec![0.0; V::LANES];
                // SAFETY: the vector has room for as many numbers as it is given
                unsafe { found.store(values.as_mut_ptr()) };
                let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| expected(*a, *b)).collect();
                assert_eq!(values, expected);
            };
            // SAFETY: the caller has the instructions; `a` and `b` hold as many numbers as are read
            unsafe {
                let (x, y) = (V::load(a.as_ptr()), V::load(b.as_ptr()));
                check(x.add(y), &|a, b| a + b);
                check(x.sub(y), &|a, b| a - b);
                check(x.mul(y), &|a, b| a * b);
                check(x.max(y), &f32::max);
                check(x.positive_or_zero(y), &|a, b| if a > 0.0 { b } else { 0.0 });
                check(x.mul_add(y, V::splat(0.5)), &|a, b| a * b + 0.5);
                assert_eq!(x.sum(), a.iter().sum::<f32>());
                check(x.sub(V::splat(0.5)).power_of_two(), &|a, _| (a - 0.5).exp2());
                assert!(V::splat(f32::NAN).max(V::splat(1.0)).sum() == V::LANES as f32);
                let numbers: Vec<f32> = (0..8 * 9).map(|i| i as f32).collect();
                let mut turned = [0.0; 8 * 11];
                V::transpose_eight(numbers.as_ptr(), 9, turned.as_mut_ptr(), 11);
                (0..64).for_each(|i| assert_eq!(turned[i % 8 * 11 + i / 8], numbers[i / 8 * 9 + i % 8]));
            }
        }
    }

    #[test]
    fn every_available_path_computes_alike() {
        for path in Path::ALL.into_iter().filter(|path| path.available()) {
            run(path, Everything);
            assert_eq!(choose(Some(path.name())), Ok(path));
        }
    }

    #[test]
    fn an_unknown_path_is_named_with_what_there_is() {
        let error = choose(Some("sse9")).expect_err("no such path").to_string();
        assert!(error.contains("`sse9`") && error.contains("portable"), "{error}");
    }
}
