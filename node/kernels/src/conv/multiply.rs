//! The product of weights with runs of the input: values of a convolution, and gradients of its input.
//!
//! A block of sums, a few outputs by a few vectors of columns, stays in registers while all weights of its outputs pass by;
//! for each weight and vector there is one multiplication with addition and a fraction of a load. A task is a range of
//! planes and of outputs of one sample. Each sum runs over channel, row and column of the taps, one depth after another, in an order
//! that no task changes; depths are summed apart, which rounds less.

use rayon::prelude::*;

use super::{
    Convolved,
    planes::{Planes, Ring},
};
use crate::{
    norm::{Moments, moments},
    simd::{self, Kernel, Path, Vector},
    source::Source,
};

/// Vectors of columns computed at once, and the numbers of as many of the longest.
const STRIP: usize = 6;
const STRIP_COLUMNS: usize = STRIP * 16;

/// Bytes of weights that stay in a core's cache beside the planes.
const RESIDENT: usize = 256 << 10;

/// Results that are reached by the same taps.
#[derive(Clone, Debug)]
pub(super) struct Phase {
    /// Along each axis, where the taps read relative to the place of the result.
    pub(super) taps: [Vec<isize>; 3],
    /// Where in the image the first result goes.
    pub(super) origin: [usize; 3],
}

/// A weight, given output, input, phase and the taps' numbers along the axes.
pub(super) type Weight<'a> = &'a (dyn Fn(usize, usize, usize, [usize; 3]) -> f32 + Sync);

/// What is to be multiplied.
pub(super) struct Product<'a> {
    /// What is read.
    pub(super) source: &'a Source<'a>,
    /// Voxels of the source from one result to the next.
    pub(super) stride: usize,
    /// One, or one for each remainder of a result's place modulo `spread`.
    pub(super) phases: Vec<Phase>,
    /// Sides of the result.
    pub(super) sides: [usize; 3],
    /// Voxels of the result from one of a phase to the next.
    pub(super) spread: usize,
    /// Of each output.
    pub(super) bias: &'a [f32],
}

impl Product<'_> {
    pub(super) fn compute(&self, path: Path, weight: Weight<'_>) -> Convolved {
        let [batch, ..] = self.source.shape;
        let [d, h, w] = self.sides;
        let outputs = self.bias.len();
        let of_phase = self.sides.map(|side| side.div_ceil(self.spread));
        let taps: Vec<&[Vec<isize>; 3]> = self.phases.iter().map(|phase| &phase.taps).collect();
        let planes = Planes::new(self.source, of_phase, self.stride, &taps);
        let rows = simd::run(path, RowsOfBlock);
        let packed: Vec<Packed> = (0..self.phases.len()).map(|phase| self.pack(phase, &planes, rows, weight)).collect();
        let mut values = vec![0.0; batch * outputs * d * h * w];
        let whole = self.phases.len() == 1;
        let mut found = vec![Moments::default(); if whole { batch * outputs * d } else { 0 }];
        let target = Target { values: values.as_mut_ptr(), moments: whole.then_some(found.as_mut_ptr()) };
        let tasks = self.tasks(of_phase[0], packed[0].panels.len());
        let work =
            |task: &Task| simd::run(path, Compute { product: self, planes: &planes, packed: &packed, target, task });
        tasks.par_iter().for_each(work);
        let moments = if whole { found } else { moments(path, &values, h * w) };
        Convolved { values, moments }
    }

    fn pack(&self, phase: usize, planes: &Planes, rows: usize, weight: Weight<'_>) -> Packed {
        let [_, inputs, ..] = self.source.shape;
        let [depths, heights, widths] = self.phases[phase].taps.each_ref().map(Vec::len);
        let offsets = planes.offsets(&self.phases[phase].taps, planes.size);
        let mut packed = Packed {
            offsets,
            depths: depths * offsets_len(inputs, heights, widths),
            panels: Vec::new(),
            weights: Vec::new(),
        };
        for panel in panels(self.bias.len(), rows) {
            packed.panels.push(Panel { at: packed.weights.len(), ..panel });
            for at in 0..packed.depths {
                let (a, rest) = (at / (inputs * heights * widths), at % (inputs * heights * widths));
                let (input, b, c) = (rest / (heights * widths), rest / widths % heights, rest % widths);
                packed.weights.extend((panel.first..panel.first + panel.rows).map(|output| {
                    if output < self.bias.len() { weight(output, input, phase, [a, b, c]) } else { 0.0 }
                }));
            }
        }
        packed
    }

    /// Enough for all threads, in depth first, because neighbouring planes share what they read.
    fn tasks(&self, depth: usize, panels: usize) -> Vec<Task> {
        let (threads, batch) = (rayon::current_num_threads(), self.source.shape[0]);
        let wanted = if threads == 1 { 1 } else { (2 * threads).div_ceil(batch) };
        let chunks = wanted.min(depth.div_ceil(4)).max(1);
        let groups = (wanted / chunks).clamp(1, panels);
        let mut tasks = Vec::new();
        for sample in 0..batch {
            for chunk in 0..chunks {
                for group in 0..groups {
                    tasks.push(Task {
                        sample,
                        depths: (chunk * depth / chunks, (chunk + 1) * depth / chunks),
                        panels: (group * panels / groups, (group + 1) * panels / groups),
                    });
                }
            }
        }
        tasks
    }
}

fn offsets_len(inputs: usize, heights: usize, widths: usize) -> usize {
    inputs * heights * widths
}

/// How many outputs a block of the path has.
struct RowsOfBlock;

impl Kernel for RowsOfBlock {
    type Output = usize;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> usize {
        V::ROWS
    }
}

/// Outputs that are computed together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panel {
    pub(super) first: usize,
    /// 8, 4 or 2; those behind the last output are computed and left behind.
    pub(super) rows: usize,
    /// Where their weights begin.
    at: usize,
}

/// `count` outputs in panels of at most `rows`.
pub(super) fn panels(count: usize, rows: usize) -> Vec<Panel> {
    let mut panels = Vec::new();
    let mut first = 0;
    while first < count {
        let rows = (count - first).next_power_of_two().clamp(2, rows);
        panels.push(Panel { first, rows, at: 0 });
        first += rows;
    }
    panels
}

/// The weights of a phase in the order in which they are used.
struct Packed {
    /// Of the taps within a depth.
    offsets: Vec<u32>,
    /// Taps of all depths.
    depths: usize,
    panels: Vec<Panel>,
    weights: Vec<f32>,
}

struct Task {
    sample: usize,
    depths: (usize, usize),
    panels: (usize, usize),
}

/// Where results go: tasks write to disjoint parts.
#[derive(Clone, Copy)]
struct Target {
    values: *mut f32,
    moments: Option<*mut Moments>,
}

// SAFETY: no two tasks have a sample, a plane and an output in common, and each writes only what belongs to its own
unsafe impl Send for Target {}
// SAFETY: as above
unsafe impl Sync for Target {}

struct Compute<'a> {
    product: &'a Product<'a>,
    planes: &'a Planes,
    packed: &'a [Packed],
    target: Target,
    task: &'a Task,
}

impl Kernel for Compute<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Task { sample, depths: (first, end), .. } = *self.task;
        let together = self.planes.together(end - first);
        let mut ring = Ring::new(self.planes, self.product.source, sample, together);
        let mut z = first;
        while z < end {
            let next = end.min(z + together);
            // SAFETY: the caller has the instructions, and the planes of the task exist
            unsafe {
                ring.advance::<V>(z, next);
                for (number, packed) in self.packed.iter().enumerate() {
                    self.block_of_planes::<V>(&ring, number, packed, (z, next));
                }
            }
            z = next;
        }
    }
}

impl Compute<'_> {
    /// # Safety
    /// The processor has the instructions of `V`, and the ring holds what the planes read.
    #[inline(always)]
    unsafe fn block_of_planes<V: Vector>(
        &self,
        ring: &Ring<'_>,
        phase: usize,
        packed: &Packed,
        (first, end): (usize, usize),
    ) {
        let vectors = self.planes.columns.div_ceil(V::LANES);
        let panels = &packed.panels[self.task.panels.0..self.task.panels.1];
        // many weights pass once for all planes; a few are kept, and the planes pass
        let (outer, inner) = if packed.weights.len() * 4 > RESIDENT { (panels.len(), 1) } else { (1, panels.len()) };
        for group in 0..outer {
            let panels = &panels[group * inner..(group + 1) * inner];
            for z in first..end {
                let mut segments = [(std::ptr::null(), 0); SEGMENTS];
                let count = self.segments(ring, phase, packed, z, &mut segments);
                for strip in (0..vectors).step_by(STRIP) {
                    let count_of_strip = STRIP.min(vectors - strip);
                    for panel in panels {
                        // SAFETY: the segments lie in the ring, whose planes are followed by room for the last vector
                        unsafe {
                            let mut sums = [0.0_f32; 8 * STRIP_COLUMNS];
                            let at = At { segments: &segments[..count], packed, panel, column: strip * V::LANES };
                            self.panel::<V>(&at, count_of_strip, &mut sums);
                            self.write(phase, panel, z, (strip * V::LANES, count_of_strip * V::LANES), &sums);
                        }
                    }
                }
                if let Some(moments) = self.target.moments {
                    // SAFETY: the planes of these outputs are complete, and theirs are the moments
                    unsafe { self.moments::<V>(moments, panels, z) };
                }
            }
        }
    }

    /// The planes that the taps of `z` read, and where the weights for each begin.
    #[inline(always)]
    fn segments(
        &self,
        ring: &Ring<'_>,
        phase: usize,
        packed: &Packed,
        z: usize,
        segments: &mut [(*const f32, usize); SEGMENTS],
    ) -> usize {
        let taps = &self.product.phases[phase].taps[0];
        assert!(taps.len() <= SEGMENTS, "a kernel is at most {SEGMENTS} deep");
        let mut count = 0;
        for (number, tap) in taps.iter().enumerate() {
            if let Some(from) = ring.at((z * self.product.stride) as isize + tap) {
                segments[count] = (from, number * packed.offsets.len());
                count += 1;
            }
        }
        count
    }

    /// The sums of a panel's outputs for up to [`STRIP`] vectors of columns.
    ///
    /// # Safety
    /// The processor has the instructions of `V`, and the segments are followed by the vectors that are read.
    #[inline(always)]
    unsafe fn panel<V: Vector>(&self, at: &At<'_>, vectors: usize, sums: &mut [f32; 8 * STRIP_COLUMNS]) {
        let mut bias = [0.0; 8];
        for (row, bias) in bias.iter_mut().take(at.panel.rows).enumerate() {
            *bias = self.product.bias.get(at.panel.first + row).copied().unwrap_or(0.0);
        }
        // SAFETY: the caller's word; a block's rows are those that the panel's weights were packed for
        unsafe {
            match (V::ROWS, at.panel.rows) {
                (8, 8) => blocks::<V, 8, 3>(at, vectors, &bias, sums),
                (8, 4) => blocks::<V, 4, 6>(at, vectors, &bias, sums),
                (4, 4) => blocks::<V, 4, 3>(at, vectors, &bias, sums),
                (8 | 4, _) => blocks::<V, 2, 6>(at, vectors, &bias, sums),
                _ => blocks::<V, 2, 3>(at, vectors, &bias, sums),
            }
        }
    }

    /// Moves the sums of columns that are results to their places.
    ///
    /// # Safety
    /// Plane `z` and the panel belong to this task.
    #[inline(always)]
    unsafe fn write(
        &self,
        phase: usize,
        panel: &Panel,
        z: usize,
        (start, count): (usize, usize),
        sums: &[f32; 8 * STRIP_COLUMNS],
    ) {
        let Product { sides: [d, h, w], spread, bias, .. } = *self.product;
        let [z0, y0, x0] = self.product.phases[phase].origin;
        let (pitch, depth) = (self.planes.pitch, z * spread + z0);
        let width = w.saturating_sub(x0).div_ceil(spread);
        let rows = panel.rows.min(bias.len() - panel.first);
        if depth >= d {
            return;
        }
        let mut at = start;
        while at < (start + count).min(self.planes.columns) {
            let (y, x) = (at / pitch, at % pitch);
            let end = (at + pitch - x).min(start + count);
            let (row, found) = (y * spread + y0, (x + end - at).min(width).saturating_sub(x));
            if row < h && found > 0 {
                for m in 0..rows {
                    let channel = self.task.sample * bias.len() + panel.first + m;
                    let to = ((channel * d + depth) * h + row) * w + x * spread + x0;
                    let from = &sums[m * STRIP_COLUMNS + at - start..][..found];
                    // SAFETY: depth, row and the last column are within the sides, and the plane is this task's own
                    unsafe {
                        let to = self.target.values.add(to);
                        if spread == 1 {
                            std::ptr::copy_nonoverlapping(from.as_ptr(), to, found);
                        } else {
                            from.iter().enumerate().for_each(|(column, sum)| *to.add(column * spread) = *sum);
                        }
                    }
                }
            }
            at = end;
        }
    }

    /// # Safety
    /// The processor has the instructions of `V`; the planes at depth `z` of the panels are complete.
    #[inline(always)]
    unsafe fn moments<V: Vector>(&self, moments: *mut Moments, panels: &[Panel], z: usize) {
        let Product { sides: [d, h, w], bias, .. } = *self.product;
        for panel in panels {
            for output in panel.first..(panel.first + panel.rows).min(bias.len()) {
                let plane = (self.task.sample * bias.len() + output) * d + z;
                // SAFETY: the plane lies within the values, was written by this task, and its moments are this task's own
                unsafe {
                    let values = std::slice::from_raw_parts(self.target.values.add(plane * h * w), h * w);
                    *moments.add(plane) = Moments::of::<V>(values);
                }
            }
        }
    }
}

/// The deepest kernel.
const SEGMENTS: usize = 16;

/// What a block of sums is made from.
struct At<'a> {
    /// Planes, and where the weights for each begin.
    segments: &'a [(*const f32, usize)],
    packed: &'a Packed,
    panel: &'a Panel,
    column: usize,
}

/// `vectors` vectors of columns in blocks of at most `N`.
///
/// # Safety
/// As [`block`].
#[inline(always)]
unsafe fn blocks<V: Vector, const M: usize, const N: usize>(
    at: &At<'_>,
    vectors: usize,
    bias: &[f32; 8],
    sums: &mut [f32; 8 * STRIP_COLUMNS],
) {
    let mut done = 0;
    // SAFETY: as many vectors are computed as the caller vouches for
    unsafe {
        while vectors - done >= N {
            block::<V, M, N>(at, done, bias, sums);
            done += N;
        }
        if N > 3 && vectors - done >= 3 {
            block::<V, M, 3>(at, done, bias, sums);
            done += 3;
        }
        if vectors - done == 2 {
            block::<V, M, 2>(at, done, bias, sums);
        }
        if vectors - done == 1 {
            block::<V, M, 1>(at, done, bias, sums);
        }
    }
}

/// The sums of `M` outputs by `N` vectors, from vector `done` of the strip on.
///
/// # Safety
/// The processor has the instructions of `V`. Each segment plus each offset plus the strip's columns up to the end of the
/// block may be read, and the panel has `M` rows of weights for each.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "constant ranges are unrolled, and the block stays in registers")]
unsafe fn block<V: Vector, const M: usize, const N: usize>(
    at: &At<'_>,
    done: usize,
    bias: &[f32; 8],
    sums: &mut [f32; 8 * STRIP_COLUMNS],
) {
    assert!(M <= 8 && (done + N) * V::LANES <= STRIP_COLUMNS);
    // SAFETY: the caller's word for what is read; the assertion holds that the sums have room
    unsafe {
        for m in 0..M {
            for n in 0..N {
                V::splat(bias[m]).store(sums.as_mut_ptr().add(m * STRIP_COLUMNS + (done + n) * V::LANES));
            }
        }
        for (from, first) in at.segments {
            let mut block = [[V::splat(0.0); N]; M];
            let from = from.add(at.column + done * V::LANES);
            let mut weights = at.packed.weights.as_ptr().add(at.panel.at + first * M);
            for offset in &at.packed.offsets {
                let run = from.add(*offset as usize);
                let mut values = [V::splat(0.0); N];
                for n in 0..N {
                    values[n] = V::load(run.add(n * V::LANES));
                }
                for m in 0..M {
                    let weight = V::splat(*weights.add(m));
                    for n in 0..N {
                        block[m][n] = weight.mul_add(values[n], block[m][n]);
                    }
                }
                weights = weights.add(M);
            }
            for m in 0..M {
                for n in 0..N {
                    let sum = sums.as_mut_ptr().add(m * STRIP_COLUMNS + (done + n) * V::LANES);
                    V::load(sum).add(block[m][n]).store(sum);
                }
            }
        }
    }
}
