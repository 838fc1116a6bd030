//! What an operation reads: images as they are, or normalised and rectified on the way in.
//!
//! A network's convolutions read `relu(norm(z))` of earlier results `z`, or the sum of two such. Kept as it is, that would be
//! a second tensor of the size of `z` for every layer. Norm and ReLU together are one multiplication, addition and
//! maximum per number, so they are done anew each time the numbers are read; only `z` is kept.

use crate::simd::Vector;

/// Longest vector of any path.
const LANES: usize = 16;

/// `max(0, scale · x + shift)`, with a factor and a summand for each channel of each sample.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a> {
    /// [batch * channels]
    pub scale: &'a [f32],
    /// [batch * channels]
    pub shift: &'a [f32],
}

/// Images of a batch, [batch, channels, d, h, w].
#[derive(Clone, Copy, Debug)]
pub struct Term<'a> {
    /// The numbers as they are kept.
    pub values: &'a [f32],
    /// What is made of them on the way in.
    pub affine: Option<Affine<'a>>,
}

/// The sum of terms of one shape.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// [batch, channels, d, h, w]
    pub shape: [usize; 5],
    /// At least one.
    pub terms: &'a [Term<'a>],
}

impl<'a> Source<'a> {
    /// A sum of `terms`.
    ///
    /// # Panics
    /// If there is none, or one is of another shape.
    pub fn new(shape: [usize; 5], terms: &'a [Term<'a>]) -> Self {
        let (count, channels) = (shape.iter().product::<usize>(), shape[0] * shape[1]);
        assert!(!terms.is_empty(), "a source has at least one term");
        for term in terms {
            assert_eq!(term.values.len(), count, "a term has the source's shape {shape:?}");
            if let Some(Affine { scale, shift }) = term.affine {
                assert_eq!((scale.len(), shift.len()), (channels, channels), "a factor and a summand per channel");
            }
        }
        Self { shape, terms }
    }

    /// Writes row `y` of plane `z` of a channel to `to`.
    ///
    /// # Safety
    /// The processor has the instructions of `V`, the row exists, and `w` numbers may be written to `to`.
    #[inline(always)]
    pub(crate) unsafe fn write_row<V: Vector>(&self, [n, c, z, y]: [usize; 4], to: *mut f32) {
        let [_, channels, d, h, w] = self.shape;
        let channel = n * channels + c;
        let start = ((channel * d + z) * h + y) * w;
        for (number, term) in self.terms.iter().enumerate() {
            let from = term.values[start..start + w].as_ptr();
            // SAFETY: `from` was bounded in the line above; the caller vouches for `to` and the instructions
            unsafe {
                match (term.affine, number) {
                    (None, 0) => std::ptr::copy_nonoverlapping(from, to, w),
                    (None, _) => each::<V>(from, to, w, |x, sum| x.add(sum)),
                    (Some(Affine { scale, shift }), _) => {
                        let (scale, shift) = (V::splat(scale[channel]), V::splat(shift[channel]));
                        let zero = V::splat(0.0);
                        if number == 0 {
                            each::<V>(from, to, w, |x, _| x.mul_add(scale, shift).max(zero));
                        } else {
                            each::<V>(from, to, w, |x, sum| x.mul_add(scale, shift).max(zero).add(sum));
                        }
                    }
                }
            }
        }
    }
}

/// `to = f(from, to)` for `count` numbers; those behind the last whole vector go through a vector of their own.
///
/// # Safety
/// The processor has the instructions of `V`, and `count` numbers may be read from `from` and written to `to`.
#[inline(always)]
pub(crate) unsafe fn each<V: Vector>(from: *const f32, to: *mut f32, count: usize, f: impl Fn(V, V) -> V) {
    let whole = count - count % V::LANES;
    let mut at = 0;
    // SAFETY: `at + LANES` stays within `count`, and the rest is moved through arrays as long as any vector
    unsafe {
        while at < whole {
            f(V::load(from.add(at)), V::load(to.add(at))).store(to.add(at));
            at += V::LANES;
        }
        if whole < count {
            let (mut a, mut b) = ([0.0; LANES], [0.0; LANES]);
            std::ptr::copy_nonoverlapping(from.add(whole), a.as_mut_ptr(), count - whole);
            std::ptr::copy_nonoverlapping(to.add(whole), b.as_mut_ptr(), count - whole);
            f(V::load(a.as_ptr()), V::load(b.as_ptr())).store(a.as_mut_ptr());
            std::ptr::copy_nonoverlapping(a.as_ptr(), to.add(whole), count - whole);
        }
    }
}
