//! Pooling in three dimensions: the maximum or the mean of blocks that tile an image.
//!
//! The kernel is its own stride, as in every network here, so the blocks are disjoint and a gradient is never added to.
//! What remains behind the last whole block of a side is left out, as PyTorch does by default. Memory bounds the speed;
//! plain loops over rows, compiled for the processor's instructions, keep up with it. A task is a plane of blocks, so
//! the bits do not depend on the number of threads.

use rayon::prelude::*;

use crate::simd::{self, Kernel, Path, Vector};

/// Blocks of a row that are looked at together: as many as the longest vectors have lanes.
const TOGETHER: usize = 16;

/// Extents of an image and of the blocks that tile it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    planes: usize,
    image: [usize; 3],
    kernel: [usize; 3],
}

/// What is taken of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Statistic {
    Max,
    Mean,
}

impl Pool {
    /// Blocks of `kernel` in a batch of `shape` [batch, channels, d, h, w].
    ///
    /// # Panics
    /// If the kernel is empty or larger than the image.
    pub fn new([batch, channels, d, h, w]: [usize; 5], kernel: [usize; 3]) -> Self {
        let image = [d, h, w];
        let fits = kernel.iter().zip(image).all(|(kernel, side)| (1..=side).contains(kernel));
        assert!(fits, "blocks of {kernel:?} do not fit into an image of {image:?}; choose a smaller kernel");
        Self { planes: batch * channels, image, kernel }
    }

    /// Blocks along each side.
    pub fn blocks(&self) -> [usize; 3] {
        std::array::from_fn(|axis| self.image[axis] / self.kernel[axis])
    }

    /// The largest number of each block, [batch, channels, blocks]. One that is not a number counts as the largest.
    pub fn max(&self, x: &[f32]) -> Vec<f32> {
        self.reduce(x, Statistic::Max, simd::path())
    }

    /// The mean of each block, [batch, channels, blocks].
    pub fn mean(&self, x: &[f32]) -> Vec<f32> {
        self.reduce(x, Statistic::Mean, simd::path())
    }

    /// The gradient of [`Pool::max`] with respect to `x`: a block's goes to the first of its maxima (to the last that is
    /// not a number).
    pub fn max_gradient(&self, x: &[f32], gradient: &[f32]) -> Vec<f32> {
        assert_eq!(x.len(), self.planes * volume(self.image), "x has the image's shape");
        self.spread(Some(x), gradient, simd::path())
    }

    /// The gradient of [`Pool::mean`] with respect to its input.
    pub fn mean_gradient(&self, gradient: &[f32]) -> Vec<f32> {
        self.spread(None, gradient, simd::path())
    }

    fn reduce(&self, x: &[f32], statistic: Statistic, path: Path) -> Vec<f32> {
        let ([_, h, w], [kd, ..], [od, oh, ow]) = (self.image, self.kernel, self.blocks());
        assert_eq!(x.len(), self.planes * volume(self.image), "x has the image's shape");
        let mut y = vec![0.0; self.planes * od * oh * ow];
        y.par_chunks_mut(oh * ow).enumerate().for_each(|(at, y)| {
            let (plane, z) = (at / od, at % od);
            let x = &x[plane * volume(self.image) + z * kd * h * w..][..kd * h * w];
            simd::run(path, Reduce { pool: *self, statistic, x, y });
        });
        y
    }

    fn spread(&self, x: Option<&[f32]>, gradient: &[f32], path: Path) -> Vec<f32> {
        let ([_, h, w], [kd, ..], [od, oh, ow]) = (self.image, self.kernel, self.blocks());
        assert_eq!(gradient.len(), self.planes * od * oh * ow, "the gradient has the shape of the blocks");
        let mut of_x = vec![0.0; self.planes * volume(self.image)];
        of_x.par_chunks_mut(volume(self.image)).enumerate().for_each(|(plane, of_x)| {
            // what lies behind the last whole block stays zero
            of_x[..od * kd * h * w].par_chunks_mut(kd * h * w).enumerate().for_each(|(z, of_x)| {
                let gradient = &gradient[(plane * od + z) * oh * ow..][..oh * ow];
                let x = x.map(|x| &x[plane * volume(self.image) + z * kd * h * w..][..kd * h * w]);
                simd::run(path, Spread { pool: *self, x, gradient, of_x });
            });
        });
        of_x
    }

    /// The rows of the blocks in row `y` of blocks, in a slab of `kernel[0]` planes: where each starts.
    #[inline(always)]
    fn rows(self, y: usize) -> impl Iterator<Item = usize> {
        let ([_, h, w], [kd, kh, _]) = (self.image, self.kernel);
        (0..kd).flat_map(move |z| (0..kh).map(move |row| (z * h + y * kh + row) * w))
    }
}

fn volume(sides: [usize; 3]) -> usize {
    sides.iter().product()
}

/// A plane of blocks from the slab of the image that holds them.
struct Reduce<'a> {
    pool: Pool,
    statistic: Statistic,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Reduce<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // a width known to the compiler turns strided reads into shuffles
        match self.pool.kernel[2] {
            2 => self.with_width(2),
            3 => self.with_width(3),
            width => self.with_width(width),
        }
    }
}

impl Reduce<'_> {
    #[inline(always)]
    fn with_width(self, width: usize) {
        let [.., blocks] = self.pool.blocks();
        for (y, out) in self.y.chunks_exact_mut(blocks).enumerate() {
            let (whole, rest) = out.as_chunks_mut::<TOGETHER>();
            let done = whole.len() * TOGETHER;
            for (number, out) in whole.iter_mut().enumerate() {
                *out = self.pool.reduced(self.statistic, self.x, [y, number * TOGETHER], width);
            }
            for (number, out) in rest.iter_mut().enumerate() {
                [*out] = self.pool.reduced(self.statistic, self.x, [y, done + number], width);
            }
        }
    }
}

/// The gradient of a slab of the image from that of its plane of blocks; of the mean where there is no `x`.
struct Spread<'a> {
    pool: Pool,
    x: Option<&'a [f32]>,
    gradient: &'a [f32],
    of_x: &'a mut [f32],
}

impl Kernel for Spread<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        match self.pool.kernel[2] {
            2 => self.with_width(2),
            3 => self.with_width(3),
            width => self.with_width(width),
        }
    }
}

impl Spread<'_> {
    #[inline(always)]
    fn with_width(self, width: usize) {
        let [.., blocks] = self.pool.blocks();
        let share = 1.0 / volume(self.pool.kernel) as f32;
        let mut first = vec![0; blocks];
        for (y, gradient) in self.gradient.chunks_exact(blocks).enumerate() {
            if let Some(x) = self.x {
                let (whole, rest) = first.as_chunks_mut::<TOGETHER>();
                let done = whole.len() * TOGETHER;
                for (number, first) in whole.iter_mut().enumerate() {
                    (_, *first) = self.pool.first_maxima(x, [y, number * TOGETHER], width);
                }
                for (number, first) in rest.iter_mut().enumerate() {
                    (_, [*first]) = self.pool.first_maxima(x, [y, done + number], width);
                }
            }
            for (start, number) in self.pool.rows(y).zip(0_u32..) {
                let row = self.of_x[start..start + blocks * width].chunks_exact_mut(width);
                for ((voxels, gradient), first) in row.zip(gradient).zip(&first) {
                    for (voxel, here) in voxels.iter_mut().zip(number * width as u32..) {
                        let of_max = if *first == here { *gradient } else { 0.0 };
                        *voxel = if self.x.is_some() { of_max } else { gradient * share };
                    }
                }
            }
        }
    }
}

impl Pool {
    /// The maximum of each of `N` blocks from block `at` of row `y`, and its first voxel's number within the block.
    #[inline(always)]
    fn first_maxima<const N: usize>(self, x: &[f32], [y, at]: [usize; 2], width: usize) -> ([f32; N], [u32; N]) {
        let (mut best, mut first) = ([f32::NEG_INFINITY; N], [0; N]);
        for (start, number) in self.rows(y).zip(0_u32..) {
            let row = &x[start + at * width..][..N * width];
            for tap in 0..width {
                for block in 0..N {
                    let value = row[block * width + tap];
                    let better = exceeds(value, best[block]);
                    best[block] = if better { value } else { best[block] };
                    first[block] = if better { number * width as u32 + tap as u32 } else { first[block] };
                }
            }
        }
        (best, first)
    }

    /// The statistic of each of `N` blocks from block `at` of row `y`.
    #[inline(always)]
    fn reduced<const N: usize>(self, statistic: Statistic, x: &[f32], place: [usize; 2], width: usize) -> [f32; N] {
        if statistic == Statistic::Max {
            return self.first_maxima(x, place, width).0;
        }
        let ([y, at], mut sums) = (place, [0.0; N]);
        for start in self.rows(y) {
            let row = &x[start + at * width..][..N * width];
            for tap in 0..width {
                for block in 0..N {
                    sums[block] += row[block * width + tap];
                }
            }
        }
        sums.map(|sum| sum * (1.0 / volume(self.kernel) as f32))
    }
}

/// Whether `value` displaces the maximum so far: what is not a number does, and is then displaced by its like alone.
#[inline(always)]
fn exceeds(value: f32, best: f32) -> bool {
    (value > best) | value.is_nan()
}

#[cfg(test)]
mod tests;
