//! Gradients of weight and bias: inner products of the result's gradient with runs of the input.
//!
//! The gradient is copied into rows of the same pitch as the input's planes, with zeros between rows, so that what lies between
//! counts for nothing. A few outputs by a few taps of sums stay in registers over about a thousand columns, which may
//! span several planes. A task is a range of planes of a sample with sums of its own, or, where there are many weights, a
//! range of outputs over everything. Which, and which range, depends on the shapes alone; partial sums are added in order.

use rayon::prelude::*;

use super::{
    multiply::{Panel, panels},
    planes::{Planes, Ring},
};
use crate::{
    scratch::Scratch,
    simd::{self, Kernel, Path, Vector},
    source::Source,
};

/// Vectors of columns over which sums stay in registers.
const VECTORS: usize = 64;

/// Planes of which a task has sums of its own, and the most weights with which there are such tasks.
const PLANES: usize = 8;
const MANY: usize = 1 << 16;

/// Outputs of a task where there are many weights.
const OUTPUTS: usize = 16;

/// What is to be correlated.
pub(super) struct Correlation<'a> {
    /// The image.
    pub(super) x: &'a Source<'a>,
    /// The gradient of the result.
    pub(super) gradient: &'a Source<'a>,
    /// Along each axis, where taps read relative to the place of a result times the stride.
    pub(super) taps: [Vec<isize>; 3],
    /// Voxels of the image from one result to the next.
    pub(super) stride: usize,
}

struct Task {
    samples: (usize, usize),
    depths: (usize, usize),
    outputs: (usize, usize),
}

/// Sums of a task: of weights [outputs, depths of the kernel, inputs, rows, columns], and of the bias.
struct Partial {
    weights: Vec<f32>,
    bias: Vec<f64>,
}

impl Correlation<'_> {
    /// [outputs, inputs, kernel], and [outputs].
    pub(super) fn compute(&self, path: Path) -> (Vec<f32>, Vec<f32>) {
        let ([_, inputs, ..], [_, outputs, d, h, w]) = (self.x.shape, self.gradient.shape);
        let planes = Planes::new(self.x, [d, h, w], self.stride, &[&self.taps]);
        let tasks = self.tasks();
        let correlate = |task: &Task| simd::run(path, Correlate { correlation: self, planes: &planes, task });
        let partials: Vec<Partial> = tasks.par_iter().map(correlate).collect();
        let [a, b, c] = self.taps.each_ref().map(Vec::len);
        let (of_output, within) = (inputs * a * b * c, b * c);
        let (mut weights, mut biases) = (vec![0.0; outputs * of_output], vec![0.0; outputs]);
        weights.par_chunks_mut(of_output).zip(biases.par_iter_mut()).enumerate().for_each(
            |(output, (weights, bias))| {
                let of_tasks: Vec<(&Partial, usize)> = tasks
                    .iter()
                    .zip(&partials)
                    .filter(|(task, _)| (task.outputs.0..task.outputs.1).contains(&output))
                    .map(|(task, partial)| (partial, output - task.outputs.0))
                    .collect();
                for (at, weight) in weights.iter_mut().enumerate() {
                    let (input, depth, rest) = (at / (a * within), at / within % a, at % within);
                    let from = (depth * inputs + input) * within + rest;
                    let parts =
                        of_tasks.iter().map(|(partial, row)| f64::from(partial.weights[row * of_output + from]));
                    *weight = parts.sum::<f64>() as f32;
                }
                *bias = of_tasks.iter().map(|(partial, row)| partial.bias[*row]).sum::<f64>() as f32;
            },
        );
        (weights, biases)
    }

    fn tasks(&self) -> Vec<Task> {
        let ([batch, inputs, ..], [_, outputs, depth, ..]) = (self.x.shape, self.gradient.shape);
        let weights = outputs * inputs * self.taps.iter().map(Vec::len).product::<usize>();
        if weights > MANY {
            let ranges = (0..outputs).step_by(OUTPUTS).map(|first| (first, (first + OUTPUTS).min(outputs)));
            return ranges.map(|outputs| Task { samples: (0, batch), depths: (0, depth), outputs }).collect();
        }
        let of_sample = |sample: usize| {
            let ranges = (0..depth).step_by(PLANES).map(|first| (first, (first + PLANES).min(depth)));
            ranges.map(move |depths| Task { samples: (sample, sample + 1), depths, outputs: (0, outputs) })
        };
        (0..batch).flat_map(of_sample).collect()
    }
}

struct Correlate<'a> {
    correlation: &'a Correlation<'a>,
    planes: &'a Planes,
    task: &'a Task,
}

/// Planes of the gradient in rows of the planes' pitch.
struct Rows {
    buffer: Scratch,
    outputs: usize,
    /// Numbers of one output's plane, as many vectors.
    size: usize,
}

impl Kernel for Correlate<'_> {
    type Output = Partial;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> Partial {
        let Task { samples, depths: (first, end), outputs: (from, to) } = *self.task;
        let taps: usize = self.correlation.taps.iter().map(Vec::len).product();
        let panels = panels(to - from, V::ROWS);
        let rows = panels.last().map_or(0, |panel| panel.first + panel.rows);
        let [_, inputs, ..] = self.correlation.x.shape;
        let mut partial = Partial { weights: vec![0.0; rows * inputs * taps], bias: vec![0.0; rows] };
        let together = self.planes.together(end - first);
        // an odd number of cache lines, so that the outputs do not compete for the same places of a cache
        let size = self.planes.columns.next_multiple_of(16);
        let size = size + if (size / 16).is_multiple_of(2) { 16 } else { 0 };
        let mut gradient = Rows { buffer: Scratch::take(together * rows * size), outputs: rows, size };
        let offsets = self.planes.offsets(&self.correlation.taps, self.planes.size);
        for sample in samples.0..samples.1 {
            let mut ring = Ring::new(self.planes, self.correlation.x, sample, together);
            let mut z = first;
            while z < end {
                let next = end.min(z + together);
                // SAFETY: the caller has the instructions, and the planes of the task exist
                unsafe {
                    ring.advance::<V>(z, next);
                    self.copy::<V>(&mut gradient, sample, (z, next), &mut partial.bias);
                    self.planes_together::<V>(&ring, &gradient, &offsets, (z, next), &panels, &mut partial.weights);
                }
                z = next;
            }
        }
        partial
    }
}

impl Correlate<'_> {
    /// Copies planes of the gradient and adds their sums to those of the bias.
    ///
    /// # Safety
    /// The processor has the instructions of `V`, and the planes exist.
    #[inline(always)]
    unsafe fn copy<V: Vector>(&self, rows: &mut Rows, sample: usize, (z, end): (usize, usize), bias: &mut [f64]) {
        let [_, _, _, h, w] = self.correlation.gradient.shape;
        let (pitch, (first, last)) = (self.planes.pitch, self.task.outputs);
        rows.buffer.fill(0.0);
        for depth in z..end {
            for output in first..last {
                let start = ((depth - z) * rows.outputs + output - first) * rows.size;
                let plane = &mut rows.buffer[start..start + rows.size];
                for y in 0..h {
                    let row = &mut plane[y * pitch..][..w];
                    // SAFETY: the row has as many numbers as the gradient is wide
                    unsafe {
                        self.correlation.gradient.write_row::<V>([sample, output, depth, y], row.as_mut_ptr());
                    }
                }
                let mut sum = 0.0;
                for part in plane.chunks_exact(V::LANES) {
                    // SAFETY: the part has as many numbers as the vector
                    sum += f64::from(unsafe { V::load(part.as_ptr()).sum() });
                }
                bias[output - first] += sum;
            }
        }
    }

    /// # Safety
    /// The processor has the instructions of `V`; ring and rows hold the planes.
    #[inline(always)]
    unsafe fn planes_together<V: Vector>(
        &self,
        ring: &Ring<'_>,
        gradient: &Rows,
        offsets: &[u32],
        (first, end): (usize, usize),
        panels: &[Panel],
        sums: &mut [f32],
    ) {
        let vectors = self.planes.columns.div_ceil(V::LANES);
        // a part of one plane, or several planes
        let (parts, planes) =
            if vectors > VECTORS { (vectors.div_ceil(VECTORS), 1) } else { (1, (VECTORS / vectors).max(1)) };
        for z in (first..end).step_by(planes) {
            for part in 0..parts {
                let (from, to) = (part * vectors / parts, (part + 1) * vectors / parts);
                for panel in panels {
                    for (depth, tap) in self.correlation.taps[0].iter().enumerate() {
                        let mut runs = Vec::with_capacity(planes);
                        for z in z..end.min(z + planes) {
                            if let Some(x) = ring.at((z * self.correlation.stride) as isize + tap) {
                                let row = ((z - first) * gradient.outputs + panel.first) * gradient.size;
                                // SAFETY: the vectors lie within a plane of the ring, and of the rows
                                unsafe {
                                    let g = gradient.buffer.as_ptr().add(row + from * V::LANES);
                                    runs.push((g, x.add(from * V::LANES)));
                                }
                            }
                        }
                        let place = Place {
                            runs: &runs,
                            vectors: to - from,
                            stride: gradient.size,
                            row: self.correlation.taps[0].len() * offsets.len(),
                            column: panel.first * self.correlation.taps[0].len() * offsets.len()
                                + depth * offsets.len(),
                        };
                        // SAFETY: as above; a panel has as many rows of sums as it has outputs
                        unsafe {
                            match (V::ROWS, panel.rows) {
                                (8, 8) => over_taps::<V, 8, 3>(&place, offsets, sums),
                                (8, 4) => over_taps::<V, 4, 6>(&place, offsets, sums),
                                (4, 4) => over_taps::<V, 4, 3>(&place, offsets, sums),
                                (8 | 4, _) => over_taps::<V, 2, 6>(&place, offsets, sums),
                                _ => over_taps::<V, 2, 3>(&place, offsets, sums),
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Runs of gradient and input that belong together, and where their sums go.
struct Place<'a> {
    runs: &'a [(*const f32, *const f32)],
    vectors: usize,
    /// From one output's gradient to the next.
    stride: usize,
    /// From one output's sums to the next, and where the first begin.
    row: usize,
    column: usize,
}

/// All taps, `N` at a time.
///
/// # Safety
/// As [`inner`].
#[inline(always)]
unsafe fn over_taps<V: Vector, const M: usize, const N: usize>(place: &Place<'_>, offsets: &[u32], sums: &mut [f32]) {
    let mut at = 0;
    // SAFETY: the caller's word
    unsafe {
        while offsets.len() - at >= N {
            inner::<V, M, N>(place, &offsets[at..], at, sums);
            at += N;
        }
        while offsets.len() - at >= 2 {
            inner::<V, M, 2>(place, &offsets[at..], at, sums);
            at += 2;
        }
        if offsets.len() > at {
            inner::<V, M, 1>(place, &offsets[at..], at, sums);
        }
    }
}

/// Adds the inner products of `M` outputs with `N` taps.
///
/// # Safety
/// The processor has the instructions of `V`, and each run, plus each offset for the input, or `M` strides for the gradient,
/// is followed by as many vectors as the place says.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "constant ranges are unrolled, and the block stays in registers")]
unsafe fn inner<V: Vector, const M: usize, const N: usize>(
    place: &Place<'_>,
    offsets: &[u32],
    first: usize,
    sums: &mut [f32],
) {
    let offsets: [usize; N] = std::array::from_fn(|n| offsets[n] as usize);
    // SAFETY: the caller's word
    unsafe {
        let mut block = [[V::splat(0.0); N]; M];
        for (gradient, x) in place.runs {
            let x: [*const f32; N] = std::array::from_fn(|n| x.add(offsets[n]));
            for vector in 0..place.vectors {
                let at = vector * V::LANES;
                let mut values = [V::splat(0.0); N];
                for n in 0..N {
                    values[n] = V::load(x[n].add(at));
                }
                for m in 0..M {
                    let slope = V::load(gradient.add(m * place.stride + at));
                    for n in 0..N {
                        block[m][n] = slope.mul_add(values[n], block[m][n]);
                    }
                }
            }
        }
        for m in 0..M {
            for n in 0..N {
                sums[place.column + m * place.row + first + n] += block[m][n].sum();
            }
        }
    }
}
