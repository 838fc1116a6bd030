//! Gradients of weight and bias: for each output and tap, the sum over all places of the result's gradient times the input.
//!
//! Both images are laid out with their channels side by side ([`super::rows`]), so at one place there is a run of outputs,
//! and for each row of the kernel a run of its columns' channels. Their product is a small matrix: a block of it, a few
//! single numbers of one run by a few vectors of the other, stays in registers over some hundred places. Which run gives the vectors
//! depends on which fills them better. A task is a range of planes of a sample with sums of its own, or, where
//! there are many weights, a range of outputs over everything. Sums of tasks are added in order, and the order within
//! a sum depends on the shapes alone.

use rayon::prelude::*;

use super::{
    multiply::RowsOfBlock,
    packing::panels,
    rows::{Layout, Rows},
};
use crate::{
    scratch::Scratch,
    simd::{self, Kernel, Path, Vector},
    source::Source,
};

/// Places over which sums stay in registers, about.
const PLACES: usize = 256;

/// Planes of which a task has sums of its own, and the most weights with which there are such tasks.
const PLANES: usize = 8;
const MANY: usize = 1 << 16;

/// Bytes of planes that a range of places may need: about what stays in a core's own cache.
const RESIDENT: usize = 768 << 10;

/// What is to be correlated.
pub(super) struct Correlation<'a> {
    /// The image.
    pub(super) x: &'a Source<'a>,
    /// The gradient of the result.
    pub(super) gradient: &'a Source<'a>,
    /// Along each axis, where taps read relative to the place of a result times the stride: neighbours, in order.
    pub(super) taps: [Vec<isize>; 3],
    /// Voxels of the image from one result to the next.
    pub(super) stride: usize,
}

struct Task {
    samples: (usize, usize),
    depths: (usize, usize),
    outputs: (usize, usize),
}

/// Sums of a task: of weights [outputs, inputs, kernel], and of the bias.
struct Partial {
    weights: Vec<f32>,
    bias: Vec<f64>,
}

impl Correlation<'_> {
    /// [outputs, inputs, kernel], and [outputs].
    pub(super) fn compute(&self, path: Path) -> (Vec<f32>, Vec<f32>) {
        let ([batch, ..], [_, outputs, depth, ..]) = (self.x.shape, self.gradient.shape);
        let correlate = |task: &Task| simd::run(path, Correlate { correlation: self, task });
        if outputs * self.of_output() > MANY {
            let ranges = self.ranges(simd::run(path, RowsOfBlock));
            let whole = |outputs| Task { samples: (0, batch), depths: (0, depth), outputs };
            let tasks: Vec<Task> = ranges.into_iter().map(whole).collect();
            let mut partials: Vec<Partial> = tasks.par_iter().map(correlate).collect();
            let bias = partials.iter().flat_map(|partial| partial.bias.iter().map(|sum| *sum as f32)).collect();
            let weights = match partials.as_mut_slice() {
                [one] => std::mem::take(&mut one.weights),
                _ => partials.into_iter().flat_map(|partial| partial.weights).collect(),
            };
            return (weights, bias);
        }
        let of_sample = |sample: usize| {
            let ranges = (0..depth).step_by(PLANES).map(|first| (first, (first + PLANES).min(depth)));
            ranges.map(move |depths| Task { samples: (sample, sample + 1), depths, outputs: (0, outputs) })
        };
        let tasks: Vec<Task> = (0..batch).flat_map(of_sample).collect();
        let partials: Vec<Partial> = tasks.par_iter().map(correlate).collect();
        let sum = |at: usize| partials.iter().map(|partial| f64::from(partial.weights[at])).sum::<f64>() as f32;
        let weights = (0..outputs * self.of_output()).map(sum).collect();
        let bias = (0..outputs).map(|at| partials.iter().map(|partial| partial.bias[at]).sum::<f64>() as f32);
        (weights, bias.collect())
    }

    /// Weights of an output.
    fn of_output(&self) -> usize {
        self.x.shape[1] * self.taps.iter().map(Vec::len).product::<usize>()
    }

    /// Outputs in as many ranges as threads can use; no sum depends on how many that are.
    fn ranges(&self, rows: usize) -> Vec<(usize, usize)> {
        let (outputs, threads) = (self.gradient.shape[1], rayon::current_num_threads());
        let panels = outputs.div_ceil(rows);
        let count = if threads == 1 { 1 } else { (2 * threads).min(panels) };
        let edge = |range: usize| (range * panels / count * rows).min(outputs);
        (0..count).map(|range| (edge(range), edge(range + 1))).collect()
    }

    /// How both images are laid out for some outputs: that of the input, and that of the gradient.
    fn layouts(&self, outputs: (usize, usize)) -> [Layout; 2] {
        let ([_, inputs, ..], [.., rows, columns]) = (self.x.shape, self.gradient.shape);
        let before = |axis: usize| self.taps[axis].first().map_or(0, |tap| -tap) as usize;
        let span = |axis: usize, results: usize| self.stride * (results - 1) + self.taps[axis].len();
        let lead = [before(1), before(2)];
        let x = Layout { channels: (0, inputs), lead, sides: [span(1, rows), span(2, columns)] };
        [x, Layout { channels: outputs, lead: [0; 2], sides: [rows, columns] }]
    }
}

struct Correlate<'a> {
    correlation: &'a Correlation<'a>,
    task: &'a Task,
}

/// How the product at one place is cut: single numbers of one run by vectors of the other.
struct Plan {
    /// Whether the gradient gives the single numbers, and the image the vectors.
    image: bool,
    /// Where single numbers lie, from their place on.
    single: Vec<usize>,
    /// Where vectors begin, from their place on.
    vectors: Vec<usize>,
    /// From one single number's sums to the next, and from one depth of the kernel's to the next.
    single_step: usize,
    depth_step: usize,
    /// How many sums there are; those of single numbers behind the last, which fill a block, are left behind.
    sums: usize,
}

impl Plan {
    fn new<V: Vector>(correlation: &Correlation<'_>, [x, gradient]: &[Layout; 2]) -> Self {
        let [depths, rows, columns] = correlation.taps.each_ref().map(Vec::len);
        let (run, outputs) = (columns * x.voxel(), gradient.voxel());
        let by_image = rows * run.div_ceil(V::LANES) * outputs.next_multiple_of(2);
        let by_gradient = rows * run.next_multiple_of(2) * outputs.div_ceil(V::LANES);
        let vectors = |run: usize| (0..run).step_by(V::LANES);
        let padded = |count: usize| panels(count, V::ROWS).last().map_or(0, |panel| panel.first + panel.rows);
        if by_image <= by_gradient {
            let all: Vec<usize> = (0..rows).flat_map(|row| vectors(run).map(move |at| row * x.row() + at)).collect();
            let depth_step = all.len() * V::LANES;
            let single_step = depths * depth_step;
            let single = (0..outputs).collect();
            Self { image: true, single, vectors: all, single_step, depth_step, sums: padded(outputs) * single_step }
        } else {
            let single: Vec<usize> = (0..rows).flat_map(|row| (0..run).map(move |at| row * x.row() + at)).collect();
            let vectors: Vec<usize> = vectors(outputs).collect();
            let single_step = vectors.len() * V::LANES;
            let depth_step = padded(single.len()) * single_step;
            Self { image: false, single, vectors, single_step, depth_step, sums: depths * depth_step }
        }
    }

    /// Where the sum of a weight lies.
    fn place<V: Vector>(&self, output: usize, run: usize, [depth, row, at]: [usize; 3]) -> usize {
        let start = depth * self.depth_step;
        if self.image {
            start + output * self.single_step + row * run.div_ceil(V::LANES) * V::LANES + at
        } else {
            start + (row * run + at) * self.single_step + output
        }
    }
}

impl Kernel for Correlate<'_> {
    type Output = Partial;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> Partial {
        let Task { samples, depths: (first, end), outputs } = *self.task;
        let layouts = self.correlation.layouts(outputs);
        let plan = Plan::new::<V>(self.correlation, &layouts);
        let (stride, taps) = (self.correlation.stride, &self.correlation.taps[0]);
        let mut sums = Scratch::take(plan.sums);
        sums.fill(0.0);
        let mut bias = vec![0.0; outputs.1 - outputs.0];
        let together = self.together(&layouts, end - first);
        for sample in samples.0..samples.1 {
            let [x, gradient] = layouts;
            let mut x = Rows::new(x, self.correlation.x, sample, stride * (together - 1) + taps.len());
            let mut gradient = Rows::new(gradient, self.correlation.gradient, sample, together);
            let mut z = first;
            while z < end {
                let next = end.min(z + together);
                let reads = [(z, taps[0]), (next - 1, taps[taps.len() - 1])];
                let [from, to] = reads.map(|(z, tap)| ((stride * z) as isize + tap).max(-1));
                // SAFETY: the caller has the instructions
                unsafe {
                    x.advance::<V>(from.max(0) as usize, (to + 1) as usize, &mut []);
                    gradient.advance::<V>(z, next, &mut bias);
                    self.planes_together::<V>(&plan, &layouts, (&x, &gradient), (z, next), &mut sums);
                }
                z = next;
            }
        }
        Partial { weights: self.weights::<V>(&plan, &layouts, &sums), bias }
    }
}

impl Correlate<'_> {
    /// Planes of the gradient that are laid out at once.
    fn together(&self, [x, gradient]: &[Layout; 2], count: usize) -> usize {
        let (stride, depths) = (self.correlation.stride, self.correlation.taps[0].len());
        let fixed = 4 * depths.saturating_sub(stride) * x.plane();
        let each = 4 * (stride * x.plane() + gradient.plane());
        (RESIDENT.saturating_sub(fixed) / each).clamp(1, count)
    }

    /// # Safety
    /// The processor has the instructions of `V`; both images hold the planes.
    #[inline(always)]
    unsafe fn planes_together<V: Vector>(
        &self,
        plan: &Plan,
        [of_x, of_gradient]: &[Layout; 2],
        (x, gradient): (&Rows<'_>, &Rows<'_>),
        (first, end): (usize, usize),
        sums: &mut [f32],
    ) {
        let stride = self.correlation.stride;
        let [.., height, width] = self.correlation.gradient.shape;
        let x_steps = [stride * of_x.row(), stride * of_x.voxel()];
        let steps = [x_steps, [of_gradient.row(), of_gradient.voxel()]];
        // whole planes, or some rows of one
        let planes = (PLACES / (height * width)).max(1);
        let rows = if planes > 1 { height } else { (PLACES / width).clamp(1, height) };
        for z in (first..end).step_by(planes) {
            for (depth, tap) in self.correlation.taps[0].iter().enumerate() {
                let mut pairs = Vec::with_capacity(planes);
                for z in z..end.min(z + planes) {
                    let of_image = x.at((z * stride) as isize + tap);
                    pairs.extend(of_image.zip(gradient.at(z as isize)));
                }
                for row in (0..height).step_by(rows) {
                    let count = rows.min(height - row);
                    let places = Places { pairs: &pairs, rows: (row, row + count), width, steps };
                    // SAFETY: the rows lie within the planes, behind which a vector more may be read
                    unsafe { places.over_all::<V>(plan, &mut sums[depth * plan.depth_step..]) };
                }
            }
        }
    }

    /// From the order of the sums to that of weights.
    fn weights<V: Vector>(&self, plan: &Plan, [x, gradient]: &[Layout; 2], sums: &[f32]) -> Vec<f32> {
        let [depths, rows, columns] = self.correlation.taps.each_ref().map(Vec::len);
        let (inputs, run) = (x.voxel(), columns * x.voxel());
        let taps = depths * rows * columns;
        let mut weights = vec![0.0; gradient.voxel() * inputs * taps];
        for (output, weights) in weights.chunks_exact_mut(inputs * taps).enumerate() {
            for (depth, row) in (0..depths).flat_map(|depth| (0..rows).map(move |row| (depth, row))) {
                for column in 0..columns {
                    let tap = (depth * rows + row) * columns + column;
                    let start = plan.place::<V>(output, run, [depth, row, column * inputs]);
                    let step = if plan.image { 1 } else { plan.single_step };
                    let from = sums[start..].iter().step_by(step);
                    weights[tap..].iter_mut().step_by(taps).zip(from).for_each(|(to, from)| *to = *from);
                }
            }
        }
        weights
    }
}

/// Places of the result, and what belongs to them.
struct Places<'a> {
    /// A plane of the image and one of the gradient.
    pairs: &'a [(*const f32, *const f32)],
    rows: (usize, usize),
    width: usize,
    /// Of image and gradient: from one row of places to the next, and from one place to the next.
    steps: [[usize; 2]; 2],
}

impl Places<'_> {
    /// The whole product, in blocks.
    ///
    /// # Safety
    /// As [`Places::block`].
    #[inline(always)]
    unsafe fn over_all<V: Vector>(&self, plan: &Plan, sums: &mut [f32]) {
        for panel in panels(plan.single.len(), V::ROWS) {
            // SAFETY: the caller's word
            unsafe {
                match (V::ROWS, panel.rows) {
                    (8, 8) => self.over_vectors::<V, 8, 3>(plan, panel.first, sums),
                    (8, 4) => self.over_vectors::<V, 4, 6>(plan, panel.first, sums),
                    (8, _) => self.over_vectors::<V, 2, 6>(plan, panel.first, sums),
                    (6, 6) => self.over_vectors::<V, 6, 2>(plan, panel.first, sums),
                    (6, 4) => self.over_vectors::<V, 4, 2>(plan, panel.first, sums),
                    (6, _) => self.over_vectors::<V, 2, 4>(plan, panel.first, sums),
                    _ => self.over_vectors::<V, 2, 3>(plan, panel.first, sums),
                }
            }
        }
    }

    /// All vectors, `N` at a time.
    ///
    /// # Safety
    /// As [`Places::block`].
    #[inline(always)]
    unsafe fn over_vectors<V: Vector, const M: usize, const N: usize>(
        &self,
        plan: &Plan,
        single: usize,
        sums: &mut [f32],
    ) {
        let (count, mut at) = (plan.vectors.len(), 0);
        // SAFETY: the caller's word
        unsafe {
            while count - at >= N {
                self.block::<V, M, N>(plan, (single, at), sums);
                at += N;
            }
            if N > 3 && count - at >= 3 {
                self.block::<V, M, 3>(plan, (single, at), sums);
                at += 3;
            }
            if count - at == 2 {
                self.block::<V, M, 2>(plan, (single, at), sums);
            }
            if count - at == 1 {
                self.block::<V, M, 1>(plan, (single, at), sums);
            }
        }
    }

    /// Adds the products of `M` single numbers with `N` vectors; numbers behind the last are the last again.
    ///
    /// # Safety
    /// The processor has the instructions of `V`; in both planes of each pair there are the rows of places, and behind
    /// their last number there is room for a vector.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "constant ranges are unrolled, and the block stays in registers")]
    unsafe fn block<V: Vector, const M: usize, const N: usize>(
        &self,
        plan: &Plan,
        (single, vector): (usize, usize),
        sums: &mut [f32],
    ) {
        let last = plan.single.len() - 1;
        let singles: [usize; M] = std::array::from_fn(|m| plan.single[(single + m).min(last)]);
        let vectors: [usize; N] = std::array::from_fn(|n| plan.vectors[vector + n]);
        let [of_x, of_gradient] = self.steps;
        let (left, right) = if plan.image { (of_gradient, of_x) } else { (of_x, of_gradient) };
        // SAFETY: the caller's word
        unsafe {
            let mut block = [[V::splat(0.0); N]; M];
            for (x, gradient) in self.pairs {
                let (from_left, from_right) = if plan.image { (gradient, x) } else { (x, gradient) };
                for row in self.rows.0..self.rows.1 {
                    let lefts: [*const f32; M] = std::array::from_fn(|m| from_left.add(row * left[0] + singles[m]));
                    let rights: [*const f32; N] = std::array::from_fn(|n| from_right.add(row * right[0] + vectors[n]));
                    let (mut at_left, mut at_right) = (0, 0);
                    for _ in 0..self.width {
                        let mut values = [V::splat(0.0); N];
                        for n in 0..N {
                            values[n] = V::load(rights[n].add(at_right));
                        }
                        for m in 0..M {
                            let number = V::splat(*lefts[m].add(at_left));
                            for n in 0..N {
                                block[m][n] = number.mul_add(values[n], block[m][n]);
                            }
                        }
                        at_left += left[1];
                        at_right += right[1];
                    }
                }
            }
            for m in 0..M {
                let start = (single + m) * plan.single_step + vector * V::LANES;
                let sums = sums[start..start + N * V::LANES].as_mut_ptr();
                for n in 0..N {
                    let sum = sums.add(n * V::LANES);
                    V::load(sum).add(block[m][n]).store(sum);
                }
            }
        }
    }
}
