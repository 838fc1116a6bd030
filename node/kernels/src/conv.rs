//! Convolution in three dimensions without rearranging the input: value, and gradients of input, weight and bias.
//!
//! Each plane of the input is copied once, with zeros around it, into a few planes of working memory ([`planes`]). There the
//! numbers that one tap of the kernel meets are a contiguous run, so a convolution is a product of a small matrix of
//! weights with runs at a table of offsets ([`multiply`]), and the gradient of a weight is the inner product of two runs
//! ([`correlate`]). A stride sorts columns and rows by their remainder on the way in, and the runs are contiguous again.
//! Every number is summed in an order that depends on the shapes alone, never on the number of threads.

mod block;
mod correlate;
mod multiply;
mod packing;
mod planes;
mod rows;

use crate::{
    norm::Moments,
    simd::{self, Path},
    source::Source,
};
use packing::Weights;

/// Extents of a kernel and how it moves. Weights are [outputs, inputs, kernel], numbers [batch, channels, d, h, w].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    /// Taps along each side.
    pub kernel: [usize; 3],
    /// Step between two results, in voxels.
    pub stride: usize,
    /// Zeros before and behind each side.
    pub padding: [usize; 3],
}

/// A value with the moments of each of its planes, [batch * outputs, d].
#[derive(Clone, Debug, PartialEq)]
pub struct Convolved {
    /// [batch, outputs, d, h, w]
    pub values: Vec<f32>,
    /// Of each plane.
    pub moments: Vec<Moments>,
}

impl Conv {
    /// An odd kernel that keeps the sides.
    pub fn same(kernel: [usize; 3]) -> Self {
        assert!(kernel.iter().all(|side| side % 2 == 1), "only an odd kernel keeps the sides, not {kernel:?}");
        Self { kernel, stride: 1, padding: kernel.map(|side| side / 2) }
    }

    /// A kernel of 2 that halves the sides; its gradient doubles them.
    pub fn halving() -> Self {
        Self { kernel: [2; 3], stride: 2, padding: [0; 3] }
    }

    /// Sides of the result.
    ///
    /// # Panics
    /// If the kernel does not fit into the padded image.
    pub fn sides(&self, image: [usize; 3]) -> [usize; 3] {
        std::array::from_fn(|axis| {
            let room = (image[axis] + 2 * self.padding[axis]).checked_sub(self.kernel[axis]);
            room.unwrap_or_else(|| panic!("a kernel of {:?} does not fit into {image:?}", self.kernel)) / self.stride
                + 1
        })
    }

    fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// The convolution of `x` with `weight`, plus `bias` per output.
    pub fn forward(&self, x: &Source<'_>, weight: &[f32], bias: &[f32]) -> Convolved {
        self.forward_on(simd::path(), x, weight, bias)
    }

    /// The gradient with respect to an image of `sides`, given that of the result. With the gradient's role taken by an
    /// image, and a `bias` per channel, this is the transposed convolution.
    pub fn input_gradient(&self, gradient: &Source<'_>, weight: &[f32], bias: &[f32], sides: [usize; 3]) -> Vec<f32> {
        self.input_gradient_on(simd::path(), gradient, weight, bias, sides)
    }

    /// The gradients with respect to weight and bias, from the image and the gradient of the result.
    pub fn weight_gradient(&self, x: &Source<'_>, gradient: &Source<'_>) -> (Vec<f32>, Vec<f32>) {
        self.weight_gradient_on(simd::path(), x, gradient)
    }

    pub(crate) fn forward_on(&self, path: Path, x: &Source<'_>, weight: &[f32], bias: &[f32]) -> Convolved {
        let [_, inputs, d, h, w] = x.shape;
        let taps = self.taps();
        assert_eq!(weight.len(), bias.len() * inputs * taps, "a weight for each output, input and tap");
        let phase = multiply::Phase { taps: self.offsets(), numbers: (0..taps).collect(), origin: [0; 3] };
        let product = multiply::Product {
            source: x,
            stride: self.stride,
            phases: vec![phase],
            sides: self.sides([d, h, w]),
            spread: 1,
            weights: Weights { values: weight, of_output: inputs * taps, of_input: taps },
            bias,
        };
        product.compute(path)
    }

    pub(crate) fn input_gradient_on(
        &self,
        path: Path,
        gradient: &Source<'_>,
        weight: &[f32],
        bias: &[f32],
        sides: [usize; 3],
    ) -> Vec<f32> {
        let [_, outputs, d, h, w] = gradient.shape;
        let (taps, inputs) = (self.taps(), bias.len());
        assert_eq!(self.sides(sides), [d, h, w], "the gradient has the shape of the result");
        assert_eq!(weight.len(), outputs * inputs * taps, "a weight for each output, input and tap");
        let product = multiply::Product {
            source: gradient,
            stride: 1,
            phases: self.phases(),
            sides,
            spread: self.stride,
            // the image's channels are what is computed
            weights: Weights { values: weight, of_output: taps, of_input: inputs * taps },
            bias,
        };
        product.compute(path).values
    }

    pub(crate) fn weight_gradient_on(&self, path: Path, x: &Source<'_>, gradient: &Source<'_>) -> (Vec<f32>, Vec<f32>) {
        let [_, _, d, h, w] = x.shape;
        assert_eq!(self.sides([d, h, w])[..], gradient.shape[2..], "the gradient has the shape of the result");
        assert_eq!(x.shape[0], gradient.shape[0], "image and gradient are of one batch");
        correlate::Correlation { x, gradient, taps: self.offsets(), stride: self.stride }.compute(path)
    }

    /// Where the taps of a result lie, relative to its place times the stride.
    fn offsets(&self) -> [Vec<isize>; 3] {
        std::array::from_fn(|axis| {
            (0..self.kernel[axis]).map(|tap| tap as isize - self.padding[axis] as isize).collect()
        })
    }

    /// The taps that reach a voxel whose coordinate leaves the remainder `rest`.
    fn congruent(&self, axis: usize, rest: usize) -> Vec<usize> {
        let meets = |tap: &usize| (rest + self.padding[axis]) % self.stride == tap % self.stride;
        (0..self.kernel[axis]).filter(meets).collect()
    }

    /// The voxels of an image by their remainders; those of a phase are reached by the same taps.
    fn phases(&self) -> Vec<multiply::Phase> {
        let [_, kh, kw] = self.kernel;
        let phase = |number: usize| {
            let origin = [number / self.stride / self.stride, number / self.stride % self.stride, number % self.stride];
            let [depths, rows, columns]: [Vec<usize>; 3] =
                std::array::from_fn(|axis| self.congruent(axis, origin[axis]));
            let mut numbers = Vec::with_capacity(depths.len() * rows.len() * columns.len());
            for a in &depths {
                for b in &rows {
                    numbers.extend(columns.iter().map(|c| (a * kh + b) * kw + c));
                }
            }
            let chosen = [depths, rows, columns];
            let taps = std::array::from_fn(|axis| {
                let reach = |tap: &usize| (origin[axis] + self.padding[axis]) as isize - *tap as isize;
                chosen[axis].iter().map(|tap| reach(tap) / self.stride as isize).collect()
            });
            multiply::Phase { taps, numbers, origin }
        };
        (0..self.stride.pow(3)).map(phase).collect()
    }
}

#[cfg(test)]
mod tests;
