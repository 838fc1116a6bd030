//! GroupNorm with ReLU: what it takes from each channel, and its gradient.
//!
//! Mean and variance are gathered plane by plane while a convolution writes its result, and put together in f64 in a fixed
//! order. With them the norm is one factor and one summand per channel ([`crate::source`]).

use rayon::prelude::*;

use crate::{
    simd::{self, Kernel, Path, Vector},
    source::{Affine, each},
};

/// Numbers added up in single precision before their sum goes into a double.
const CHUNK: usize = 256;

/// Mean of some numbers and the sum of their squared distances from it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    /// Mean.
    pub mean: f64,
    /// Sum of squared distances from the mean.
    pub squares: f64,
}

impl Moments {
    /// Of `values`.
    ///
    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    pub(crate) unsafe fn of<V: Vector>(values: &[f32]) -> Self {
        // SAFETY: the caller has the instructions
        unsafe {
            let mean = sum::<V>(values, values, |x, _| x) / values.len() as f64;
            let middle = V::splat(mean as f32);
            let squares = sum::<V>(values, values, |x, _| {
                let distance = x.sub(middle);
                distance.mul(distance)
            });
            Self { mean, squares }
        }
    }

    /// Of the numbers of `parts`, each of `count` numbers (Chan, Golub, LeVeque 1979).
    fn together(parts: impl Iterator<Item = Self> + Clone, count: usize) -> Self {
        let number = parts.clone().count() as f64;
        let mean = parts.clone().map(|part| part.mean).sum::<f64>() / number;
        let between: f64 = parts.clone().map(|part| (part.mean - mean).powi(2)).sum();
        Self { mean, squares: parts.map(|part| part.squares).sum::<f64>() + between * count as f64 }
    }
}

/// The sum of `f(a, b)` over numbers of two slices of one length. What `f` makes of the zeros behind the last
/// whole vector is taken off by counting those separately.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn sum<V: Vector>(a: &[f32], b: &[f32], f: impl Fn(V, V) -> V) -> f64 {
    let mut total = 0.0;
    for (a, b) in a.chunks(CHUNK).zip(b.chunks(CHUNK)) {
        let whole = a.len() - a.len() % (4 * V::LANES);
        // SAFETY: whole groups of four vectors lie within the chunk; the rest is moved through arrays
        unsafe {
            let mut sums = [V::splat(0.0); 4];
            let mut at = 0;
            while at < whole {
                for (lane, sum) in sums.iter_mut().enumerate() {
                    let at = at + lane * V::LANES;
                    *sum = sum.add(f(V::load(a.as_ptr().add(at)), V::load(b.as_ptr().add(at))));
                }
                at += 4 * V::LANES;
            }
            let [p, q, r, s] = sums;
            total += f64::from(p.add(q).add(r.add(s)).sum());
            let mut rest = [0.0_f32; 64];
            for (a, b) in a[whole..].chunks(V::LANES).zip(b[whole..].chunks(V::LANES)) {
                let (mut x, mut y) = ([0.0_f32; 16], [0.0_f32; 16]);
                x[..a.len()].copy_from_slice(a);
                y[..b.len()].copy_from_slice(b);
                f(V::load(x.as_ptr()), V::load(y.as_ptr())).store(rest.as_mut_ptr());
                total += f64::from(rest[..a.len()].iter().sum::<f32>());
            }
        }
    }
    total
}

struct OfPlane<'a>(&'a [f32]);

impl Kernel for OfPlane<'_> {
    type Output = Moments;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> Moments {
        // SAFETY: the caller has the instructions
        unsafe { Moments::of::<V>(self.0) }
    }
}

/// The moments of each `plane` numbers of `values`.
pub(crate) fn moments(path: Path, values: &[f32], plane: usize) -> Vec<Moments> {
    values.par_chunks(plane).map(|plane| simd::run(path, OfPlane(plane))).collect()
}

/// The moments of each plane of `plane` numbers.
pub fn moments_of_planes(values: &[f32], plane: usize) -> Vec<Moments> {
    moments(simd::path(), values, plane)
}

/// A GroupNorm over tensors of one shape.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm<'a> {
    /// [batch, channels, d, h, w]
    pub shape: [usize; 5],
    /// Divides the channels.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f64,
    /// Factor of each channel.
    pub scale: &'a [f32],
    /// Summand of each channel.
    pub shift: &'a [f32],
    /// What the result of each channel of each sample is multiplied with, at least zero: dropout. [batch * channels]
    pub keep: Option<&'a [f32]>,
}

/// Mean and reciprocal deviation of each group of each sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    mean: Vec<f64>,
    inverse: Vec<f64>,
}

/// Gradients with respect to the factors and summands of a norm.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterGradients {
    /// [channels]
    pub scale: Vec<f32>,
    /// [channels]
    pub shift: Vec<f32>,
}

impl GroupNorm<'_> {
    fn members(&self) -> usize {
        self.shape[1] / self.groups
    }

    fn keep(&self, channel: usize) -> f64 {
        self.keep.map_or(1.0, |keep| f64::from(keep[channel]))
    }

    fn voxels(&self) -> usize {
        self.shape[2..].iter().product()
    }

    /// From the moments of each plane, [batch * channels * d].
    ///
    /// # Panics
    /// If there are not as many.
    pub fn statistics(&self, planes: &[Moments]) -> Statistics {
        let [batch, channels, d, h, w] = self.shape;
        assert_eq!(planes.len(), batch * channels * d, "moments for each plane");
        let of_group = |planes: &[Moments]| Moments::together(planes.iter().copied(), h * w);
        let groups: Vec<Moments> = planes.chunks_exact(self.members() * d).map(of_group).collect();
        let count = (self.members() * self.voxels()) as f64;
        let inverse = |group: &Moments| (group.squares / count + self.epsilon).sqrt().recip();
        Statistics {
            mean: groups.iter().map(|group| group.mean).collect(),
            inverse: groups.iter().map(inverse).collect(),
        }
    }

    /// Factor and summand that make the norm, with dropout, of each channel of each sample; followed by ReLU.
    pub fn affine(&self, statistics: &Statistics) -> (Vec<f32>, Vec<f32>) {
        let [batch, channels, ..] = self.shape;
        let of_channel = |at: usize| {
            let (group, channel) = (at / self.members(), at % channels);
            let scale = f64::from(self.scale[channel]) * statistics.inverse[group];
            let shift = f64::from(self.shift[channel]) - scale * statistics.mean[group];
            ((scale * self.keep(at)) as f32, (shift * self.keep(at)) as f32)
        };
        (0..batch * channels).map(of_channel).unzip()
    }

    /// Turns `gradient`, with respect to `keep · relu(norm(z))`, into that with respect to `z`, and gives those of the norm's
    /// parameters.
    pub fn gradients(&self, z: &[f32], statistics: &Statistics, gradient: &mut [f32]) -> ParameterGradients {
        self.gradients_on(simd::path(), z, statistics, gradient)
    }

    pub(crate) fn gradients_on(
        &self,
        path: Path,
        z: &[f32],
        statistics: &Statistics,
        gradient: &mut [f32],
    ) -> ParameterGradients {
        let [batch, channels, ..] = self.shape;
        let (members, voxels) = (self.members(), self.voxels());
        assert_eq!((z.len(), gradient.len()), (batch * channels * voxels, z.len()), "both have the norm's shape");
        let (scale, shift) = self.affine(statistics);
        let affine = Affine { scale: &scale, shift: &shift };
        let sums: Vec<[f64; 2]> = z
            .par_chunks(voxels)
            .zip(gradient.par_chunks(voxels))
            .enumerate()
            .map(|(at, (z, gradient))| {
                let mean = statistics.mean[at / members];
                let found = simd::run(path, Sums { z, gradient, at, affine, mean: mean as f32 });
                [found[0] * self.keep(at), found[1] * statistics.inverse[at / members] * self.keep(at)]
            })
            .collect();
        let weighted = |group: usize, which: usize| {
            let of_member = |at: usize| f64::from(self.scale[at % channels]) * sums[at][which];
            (group * members..(group + 1) * members).map(of_member).sum::<f64>() / (members * voxels) as f64
        };
        let means: Vec<[f64; 2]> = (0..batch * self.groups).map(|g| [weighted(g, 0), weighted(g, 1)]).collect();
        z.par_chunks(voxels).zip(gradient.par_chunks_mut(voxels)).enumerate().for_each(|(at, (z, gradient))| {
            let (group, channel) = (at / members, at % channels);
            let (inverse, [first, second]) = (statistics.inverse[group], means[group]);
            let slope = -inverse * inverse * second;
            let mean = statistics.mean[group] as f32;
            let coefficients = [
                inverse * f64::from(self.scale[channel]) * self.keep(at),
                slope,
                // what rounding the mean would add to every voxel is taken off
                -inverse * first + slope * (f64::from(mean) - statistics.mean[group]),
            ];
            let coefficients = coefficients.map(|c| c as f32);
            simd::run(path, Apply { z, gradient, at, affine, mean, coefficients });
        });
        let of_channel = |which: usize| {
            let sum = |channel: usize| (0..batch).map(|n| sums[n * channels + channel][which]).sum::<f64>() as f32;
            (0..channels).map(sum).collect()
        };
        ParameterGradients { scale: of_channel(1), shift: of_channel(0) }
    }
}

/// Over a channel, the sums of the gradient where the ReLU let through, alone and times the distance from the mean.
struct Sums<'a> {
    z: &'a [f32],
    gradient: &'a [f32],
    at: usize,
    affine: Affine<'a>,
    mean: f32,
}

impl Kernel for Sums<'_> {
    type Output = [f64; 2];

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> [f64; 2] {
        let Self { z, gradient, at, affine, mean } = self;
        // SAFETY: the caller has the instructions; both slices are of one length
        unsafe {
            let (scale, shift, mean) = (V::splat(affine.scale[at]), V::splat(affine.shift[at]), V::splat(mean));
            let let_through = |z: V, gradient: V| z.mul_add(scale, shift).positive_or_zero(gradient);
            let mut found = [0.0; 2];
            for (z, gradient) in z.chunks(CHUNK).zip(gradient.chunks(CHUNK)) {
                found[0] += sum::<V>(z, gradient, let_through);
                found[1] += sum::<V>(z, gradient, |z, gradient| let_through(z, gradient).mul(z.sub(mean)));
            }
            found
        }
    }
}

/// `a · gradient · [ReLU let through] + b · (z - mean) + c`, in place.
struct Apply<'a> {
    z: &'a [f32],
    gradient: &'a mut [f32],
    at: usize,
    affine: Affine<'a>,
    mean: f32,
    coefficients: [f32; 3],
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { z, gradient, at, affine, mean, coefficients } = self;
        // SAFETY: the caller has the instructions; both slices are of one length
        unsafe {
            let (scale, shift) = (V::splat(affine.scale[at]), V::splat(affine.shift[at]));
            let [a, b, c, mean] = [coefficients[0], coefficients[1], coefficients[2], mean].map(|c| V::splat(c));
            each::<V>(z.as_ptr(), gradient.as_mut_ptr(), z.len(), |z, gradient| {
                let let_through = z.mul_add(scale, shift).positive_or_zero(gradient);
                let_through.mul_add(a, z.sub(mean).mul_add(b, c))
            });
        }
    }
}

#[cfg(test)]
mod tests;
