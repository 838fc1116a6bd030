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
                    (None, 0) => copy::<V>(from, to, w),
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

/// Copies `count` numbers. Runs are short, and a call to the system's copy takes as long as a few of them.
///
/// # Safety
/// The processor has the instructions of `V`, and `count` numbers may be read from `from` and written to `to`.
#[inline(always)]
pub(crate) unsafe fn copy<V: Vector>(from: *const f32, to: *mut f32, count: usize) {
    let mut at = 0;
    // SAFETY: vectors stay within `count`: the last one ends there
    unsafe {
        if count < V::LANES {
            while at < count {
                // volatile, or the compiler makes the loop a call of the system's copy
                to.add(at).write_volatile(*from.add(at));
                at += 1;
            }
            return;
        }
        while at + V::LANES <= count {
            V::load(from.add(at)).store(to.add(at));
            at += V::LANES;
        }
        if at < count {
            V::load(from.add(count - V::LANES)).store(to.add(count - V::LANES));
        }
    }
}

/// `to = f(from, to)` for `count` numbers; where the last vector would reach beyond them, it ends with the last number.
///
/// # Safety
/// The processor has the instructions of `V`, and `count` numbers may be read from `from` and written to `to`.
#[inline(always)]
pub(crate) unsafe fn each<V: Vector>(from: *const f32, to: *mut f32, count: usize, f: impl Fn(V, V) -> V) {
    let whole = count - count % V::LANES;
    let mut at = 0;
    // SAFETY: `at + LANES` stays within `count`, and the rest is moved through arrays as long as any vector
    unsafe {
        if count < V::LANES {
            let (mut a, mut b) = ([0.0; LANES], [0.0; LANES]);
            for at in 0..count {
                (a[at], b[at]) = (*from.add(at), *to.add(at));
            }
            f(V::load(a.as_ptr()), V::load(b.as_ptr())).store(a.as_mut_ptr());
            for (at, value) in a.iter().enumerate().take(count) {
                *to.add(at) = *value;
            }
            return;
        }
        let last = count - V::LANES;
        // made of what is there before the vectors that it overlaps are written
        let tail = (whole < count).then(|| f(V::load(from.add(last)), V::load(to.add(last))));
        while at < whole {
            f(V::load(from.add(at)), V::load(to.add(at))).store(to.add(at));
            at += V::LANES;
        }
        if let Some(tail) = tail {
            tail.store(to.add(last));
        }
    }
}
