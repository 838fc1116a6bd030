//! The product of weights with runs of the input: values of a convolution, and gradients of its input.
//!
//! A block of sums, a few outputs by a few vectors of columns, stays in registers while all weights of its outputs pass by
//! ([`super::block`]); for each weight and vector there is one multiplication with addition and a fraction of a load. A task
//! is a range of planes and of outputs of one sample. Each sum runs over channel, row and column of the taps, one depth after
//! another, in an order that no task changes; depths are summed apart, which rounds less.

use rayon::prelude::*;

use super::{
    Convolved,
    block::{At, STRIP, STRIP_COLUMNS, SUMS},
    packing::{Panel, Weights, panels},
    planes::{Planes, Ring},
};
use crate::{
    norm::{Moments, moments},
    scratch::Scratch,
    simd::{self, Kernel, Path, Vector},
    source::{Source, copy},
};

/// Bytes of weights that stay in a core's cache beside the planes.
const RESIDENT: usize = 256 << 10;

/// The deepest kernel.
const SEGMENTS: usize = 16;

/// Results that are reached by the same taps.
#[derive(Clone, Debug)]
pub(super) struct Phase {
    /// Along each axis, where the taps read relative to the place of the result.
    pub(super) taps: [Vec<isize>; 3],
    /// Their numbers within the kernel, the last axis fastest.
    pub(super) numbers: Vec<usize>,
    /// Where in the image the first result goes.
    pub(super) origin: [usize; 3],
}

/// What is to be multiplied.
pub(super) struct Product<'a> {
    /// What is read.
    pub(super) source: &'a Source<'a>,
    /// Voxels of the source from one result to the next.
    pub(super) stride: usize,
    /// One, or one for each remainder of a result's place modulo `spread`, that along the last axis fastest.
    pub(super) phases: Vec<Phase>,
    /// Sides of the result.
    pub(super) sides: [usize; 3],
    /// Voxels of the result from one of a phase to the next.
    pub(super) spread: usize,
    pub(super) weights: Weights<'a>,
    /// Of each output.
    pub(super) bias: &'a [f32],
}

impl Product<'_> {
    pub(super) fn compute(&self, path: Path) -> Convolved {
        let [batch, ..] = self.source.shape;
        let [d, h, w] = self.sides;
        let outputs = self.bias.len();
        let of_phase = self.sides.map(|side| side.div_ceil(self.spread));
        let taps: Vec<&[Vec<isize>; 3]> = self.phases.iter().map(|phase| &phase.taps).collect();
        let planes = Planes::new(self.source, of_phase, self.stride, &taps);
        let offsets: Vec<_> = taps.iter().map(|taps| planes.offsets(taps, planes.size)).collect();
        let panels = panels(outputs, simd::run(path, RowsOfBlock));
        let mut values = vec![0.0; batch * outputs * d * h * w];
        let whole = self.phases.len() == 1;
        let mut found = vec![Moments::default(); if whole { batch * outputs * d } else { 0 }];
        let target = Target { values: values.as_mut_ptr(), moments: whole.then_some(found.as_mut_ptr()) };
        let tasks = self.tasks(of_phase[0], panels.len());
        tasks.par_iter().for_each(|task| {
            let panels = &panels[task.panels.0..task.panels.1];
            let (planes, offsets) = (&planes, offsets.as_slice());
            simd::run(path, Compute { product: self, planes, offsets, panels, target, task });
        });
        let moments = if whole { found } else { moments(path, &values, h * w) };
        Convolved { values, moments }
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

/// How many outputs a block of the path has.
pub(super) struct RowsOfBlock;

impl Kernel for RowsOfBlock {
    type Output = usize;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> usize {
        V::ROWS
    }
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
    /// Of each phase, where its taps read within the planes of one depth.
    offsets: &'a [Vec<u32>],
    /// Those of the task.
    panels: &'a [Panel],
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
        let mut work = Work::new(&self);
        let mut z = first;
        while z < end {
            let next = end.min(z + together);
            // SAFETY: the caller has the instructions, and the planes of the task exist
            unsafe {
                ring.advance::<V>(z, next);
                self.planes_together::<V>(&ring, &mut work, (z, next));
            }
            z = next;
        }
    }
}

/// A task's weights and sums.
struct Work {
    /// Packed, from where each phase has them: those of all panels, or of one panel at a time.
    weights: Scratch,
    starts: Vec<usize>,
    /// Whether all panels are packed.
    all: bool,
    /// Of each phase along the last axis.
    sums: Scratch,
}

impl Work {
    fn new(compute: &Compute<'_>) -> Self {
        let Compute { product, panels, .. } = compute;
        let rows = panels.iter().map(|panel| panel.rows).sum::<usize>();
        let taps: usize = product.phases.iter().map(|phase| compute.count(phase)).sum();
        let all = rows * taps * 4 <= RESIDENT;
        let rows = if all { rows } else { panels.iter().map(|panel| panel.rows).max().unwrap_or(0) };
        let starts = product.phases.iter().scan(0, |sum, phase| {
            let start = *sum;
            *sum += rows * compute.count(phase);
            Some(start)
        });
        let starts: Vec<usize> = starts.collect();
        let mut work =
            Self { weights: Scratch::take(rows * taps), starts, all, sums: Scratch::take(product.spread * SUMS) };
        if all {
            for number in 0..product.phases.len() {
                work.pack(compute, number, panels);
            }
        }
        work
    }

    /// Packs the weights of a phase for some panels.
    fn pack(&mut self, compute: &Compute<'_>, number: usize, panels: &[Panel]) {
        let Product { source, phases, weights, bias, .. } = compute.product;
        let mut start = self.starts[number];
        for panel in panels {
            let count = compute.count(&phases[number]) * panel.rows;
            let to = &mut self.weights[start..start + count];
            weights.pack(&phases[number], (source.shape[1], bias.len()), *panel, to);
            start += count;
        }
    }
}

impl Compute<'_> {
    /// Taps of a phase over all channels.
    fn count(&self, phase: &Phase) -> usize {
        phase.numbers.len() * self.product.source.shape[1]
    }

    /// # Safety
    /// The processor has the instructions of `V`, and the ring holds what the planes read.
    #[inline(always)]
    unsafe fn planes_together<V: Vector>(&self, ring: &Ring<'_>, work: &mut Work, planes: (usize, usize)) {
        let along = self.product.spread;
        for first in (0..self.product.phases.len()).step_by(along) {
            // many weights pass once for all planes; a few are kept, and the planes pass
            let group = if work.all { self.panels.len() } else { 1 };
            for panels in self.panels.chunks(group) {
                if !work.all {
                    (first..first + along).for_each(|number| work.pack(self, number, panels));
                }
                // SAFETY: the caller's word
                unsafe { self.panels::<V>(ring, work, first, panels, planes) };
            }
        }
    }

    /// Some panels of the phases that differ along the last axis alone.
    ///
    /// # Safety
    /// As above, and the weights of the panels are packed.
    #[inline(always)]
    unsafe fn panels<V: Vector>(
        &self,
        ring: &Ring<'_>,
        work: &mut Work,
        phase: usize,
        panels: &[Panel],
        (first, end): (usize, usize),
    ) {
        let vectors = self.planes.columns.div_ceil(V::LANES);
        for z in first..end {
            let mut segments = [(std::ptr::null(), 0); SEGMENTS];
            let count = self.segments(ring, phase, z, &mut segments);
            for strip in (0..vectors).step_by(STRIP) {
                let of_strip = STRIP.min(vectors - strip);
                let mut before = 0;
                for panel in panels {
                    for (along, sums) in work.sums.chunks_exact_mut(SUMS).enumerate() {
                        let number = phase + along;
                        let start = work.starts[number] + before * self.count(&self.product.phases[number]);
                        let at = At {
                            segments: &segments[..count],
                            offsets: &self.offsets[number],
                            weights: &work.weights[start..],
                            panel: *panel,
                            bias: self.bias(panel),
                            column: strip * V::LANES,
                        };
                        // SAFETY: the segments lie in the ring, whose planes are followed by room for the last vector
                        unsafe { at.sums::<V>(of_strip, sums) };
                    }
                    // SAFETY: plane and panel are this task's
                    unsafe { self.write::<V>(phase, panel, z, (strip * V::LANES, of_strip * V::LANES), &work.sums) };
                    before += panel.rows;
                }
            }
            if let Some(moments) = self.target.moments {
                // SAFETY: the planes of these outputs are complete, and theirs are the moments
                unsafe { self.moments::<V>(moments, panels, z) };
            }
        }
    }

    /// The planes that the taps of `z` read, and which depth of the kernel reads each. Phases that differ along the last axis
    /// alone read the same.
    #[inline(always)]
    fn segments(
        &self,
        ring: &Ring<'_>,
        phase: usize,
        z: usize,
        segments: &mut [(*const f32, usize); SEGMENTS],
    ) -> usize {
        let taps = &self.product.phases[phase].taps[0];
        assert!(taps.len() <= SEGMENTS, "a kernel is at most {SEGMENTS} deep");
        let mut count = 0;
        for (number, tap) in taps.iter().enumerate() {
            if let Some(from) = ring.at((z * self.product.stride) as isize + tap) {
                segments[count] = (from, number);
                count += 1;
            }
        }
        count
    }

    #[inline(always)]
    fn bias(&self, panel: &Panel) -> [f32; 8] {
        std::array::from_fn(|row| self.product.bias.get(panel.first + row).copied().unwrap_or(0.0))
    }

    /// Moves the sums of columns that are results to their places.
    ///
    /// # Safety
    /// The processor has the instructions of `V`; plane `z` and the panel belong to this task.
    #[inline(always)]
    unsafe fn write<V: Vector>(
        &self,
        phase: usize,
        panel: &Panel,
        z: usize,
        (start, count): (usize, usize),
        sums: &[f32],
    ) {
        let Product { sides: [d, h, w], spread, bias, .. } = *self.product;
        let [z0, y0, _] = self.product.phases[phase].origin;
        let (pitch, depth) = (self.planes.pitch, z * spread + z0);
        let width = w.div_ceil(spread);
        let rows = panel.rows.min(bias.len() - panel.first);
        if depth >= d {
            return;
        }
        let mut at = start;
        while at < (start + count).min(self.planes.columns) {
            let (y, x) = (at / pitch, at % pitch);
            let end = (at + pitch - x).min(start + count);
            let row = y * spread + y0;
            let found = (x + end - at).min(width).saturating_sub(x);
            if row < h && found > 0 {
                for m in 0..rows {
                    let channel = self.task.sample * bias.len() + panel.first + m;
                    let to = ((channel * d + depth) * h + row) * w + x * spread;
                    let room = (w - x * spread).min(found * spread);
                    let from = &sums[m * STRIP_COLUMNS + at - start..];
                    // SAFETY: depth, row and the last column are within the sides, and the plane is this task's own
                    unsafe {
                        let to = std::slice::from_raw_parts_mut(self.target.values.add(to), room);
                        interleave::<V>(from, spread, to);
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

/// Fills `to` with numbers of `spread` phases in turn, each phase's [`SUMS`] behind the one before.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn interleave<V: Vector>(from: &[f32], spread: usize, to: &mut [f32]) {
    match spread {
        // SAFETY: both slices have as many numbers
        1 => unsafe { copy::<V>(from[..to.len()].as_ptr(), to.as_mut_ptr(), to.len()) },
        2 => {
            let (even, odd) = (&from[..to.len().div_ceil(2)], &from[SUMS..SUMS + to.len() / 2]);
            let mut pairs = to.chunks_exact_mut(2);
            for (pair, (even, odd)) in (&mut pairs).zip(even.iter().zip(odd)) {
                pair[0] = *even;
                pair[1] = *odd;
            }
            if let [last] = pairs.into_remainder() {
                *last = even[even.len() - 1];
            }
        }
        _ => to.iter_mut().enumerate().for_each(|(at, to)| *to = from[at % spread * SUMS + at / spread]),
    }
}
