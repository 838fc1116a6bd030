//! A few planes of the input with zeros around them, laid out so that each tap meets one contiguous run.
//!
//! With stride 1 a plane is one run of rows of equal pitch; the zeros behind a row are also those before the next. The
//! result of column `j = y · pitch + x` is at the same `j` in the run that a tap's offset starts; what lies between two rows
//! is computed and left behind. With a larger stride, rows and columns are sorted by their remainder, each
//! combination being a plane of its own.

use crate::{scratch::Scratch, simd::Vector, source::Source};

/// Numbers behind a run that the last vector may read.
const VECTOR: usize = 16;

/// Bytes of planes that one block of results may need: about what stays in a core's own cache.
const RESIDENT: usize = 768 << 10;

/// The layout of planes.
#[derive(Clone, Debug)]
pub(super) struct Planes {
    /// Of the input.
    channels: usize,
    sides: [usize; 3],
    stride: usize,
    /// Zeros before the first voxel of each axis.
    lead: [usize; 3],
    /// Planes behind that the taps of one result span.
    reach: usize,
    /// Rows of a plane of one remainder.
    rows: usize,
    /// Numbers from one row of results to the next.
    pub(super) pitch: usize,
    /// Results of a plane, those between rows included.
    pub(super) columns: usize,
    /// Numbers of one channel's plane.
    pub(super) size: usize,
}

impl Planes {
    /// For results of `sides` that read at `stride` times their place plus any of `taps`.
    pub(super) fn new(source: &Source<'_>, sides: [usize; 3], stride: usize, taps: &[&[Vec<isize>; 3]]) -> Self {
        let [_, channels, d, h, w] = source.shape;
        let bounds = |axis: usize| {
            let all = taps.iter().flat_map(|taps| taps[axis].iter().copied());
            let (low, high) = all.fold((0, 0), |(low, high), tap| (tap.min(low), tap.max(high)));
            (-low as usize, high as usize)
        };
        let [(front, back), (above, below), (left, right)] = [bounds(0), bounds(1), bounds(2)];
        let [_, rows, columns] = sides;
        let height = stride * (rows - 1) + below + above + 1;
        let width = stride * (columns - 1) + right + left + 1;
        let pitch = if stride == 1 { (w + left).max(width - left) } else { width.div_ceil(stride) };
        let rows_of_phase = height.div_ceil(stride);
        let mut planes = Self {
            channels,
            sides: [d, h, w],
            stride,
            lead: [front, above, left],
            reach: front + back + 1,
            rows: rows_of_phase,
            pitch,
            columns: (rows - 1) * pitch + columns,
            size: 0,
        };
        let offsets = taps.iter().flat_map(|taps| planes.offsets(taps, 0));
        let furthest = offsets.max().unwrap_or(0) as usize;
        let needed = planes.columns.next_multiple_of(VECTOR) + furthest;
        let size = needed.max(stride * stride * rows_of_phase * pitch).next_multiple_of(VECTOR);
        // an odd number of cache lines, so that the channels do not all compete for the same places of a cache
        planes.size = size + if (size / VECTOR).is_multiple_of(2) { VECTOR } else { 0 };
        planes
    }

    /// How many planes of results to compute at once, of `count`.
    pub(super) fn together(&self, count: usize) -> usize {
        let fit = RESIDENT / (4 * self.channels * self.size);
        (fit.saturating_sub(self.reach) / self.stride + 1).clamp(1, count)
    }

    /// Offsets, within the planes of all channels at one depth, of `taps`, in the order channel, row, column; each channel
    /// is `step` further.
    pub(super) fn offsets(&self, taps: &[Vec<isize>; 3], step: usize) -> Vec<u32> {
        let [_, above, left] = self.lead;
        let stride = self.stride;
        let mut offsets = Vec::with_capacity(self.channels * taps[1].len() * taps[2].len());
        for channel in 0..self.channels {
            for row in &taps[1] {
                for column in &taps[2] {
                    let (row, column) = ((row + above as isize) as usize, (column + left as isize) as usize);
                    let phase = (row % stride) * stride + column % stride;
                    let within = (phase * self.rows + row / stride) * self.pitch + column / stride;
                    offsets.push((channel * step + within) as u32);
                }
            }
        }
        offsets
    }
}

/// The planes of a sample that are at hand, each at its depth modulo their number.
pub(super) struct Ring<'a> {
    planes: &'a Planes,
    source: &'a Source<'a>,
    sample: usize,
    slots: usize,
    /// The first plane that was never filled.
    next: usize,
    buffer: Scratch,
    row: Scratch,
}

impl<'a> Ring<'a> {
    /// For `together` planes of results at once.
    pub(super) fn new(planes: &'a Planes, source: &'a Source<'a>, sample: usize, together: usize) -> Self {
        let slots = planes.stride * (together - 1) + planes.reach;
        let mut buffer = Scratch::take(slots * planes.channels * planes.size);
        // what lies around an image is the same for all planes, and never written again
        buffer.fill(0.0);
        Self { planes, source, sample, slots, next: 0, buffer, row: Scratch::take(planes.sides[2]) }
    }

    /// Makes ready what the results of planes `first` to before `end` read.
    ///
    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn advance<V: Vector>(&mut self, first: usize, end: usize) {
        let Planes { stride, lead: [front, ..], reach, sides: [depth, ..], .. } = *self.planes;
        let last = (stride * (end - 1) + reach).saturating_sub(front).min(depth);
        self.next = self.next.max((stride * first).saturating_sub(front));
        while self.next < last {
            // SAFETY: the caller has the instructions, and the plane exists
            unsafe { self.fill::<V>(self.next) };
            self.next += 1;
        }
    }

    /// Where the planes of all channels at depth `z` begin, if there is such a depth.
    #[inline(always)]
    pub(super) fn at(&self, z: isize) -> Option<*const f32> {
        let exists = z >= 0 && (z as usize) < self.planes.sides[0];
        exists.then(|| {
            debug_assert!((z as usize) < self.next && z as usize + self.slots >= self.next, "the plane is at hand");
            self.buffer[z as usize % self.slots * self.planes.channels * self.planes.size..].as_ptr()
        })
    }

    /// # Safety
    /// The processor has the instructions of `V`, and plane `z` exists.
    #[inline(always)]
    unsafe fn fill<V: Vector>(&mut self, z: usize) {
        let Planes { channels, sides: [_, height, width], stride, lead: [_, above, left], rows, pitch, size, .. } =
            *self.planes;
        let start = z % self.slots * channels * size;
        for (channel, plane) in self.buffer[start..start + channels * size].chunks_exact_mut(size).enumerate() {
            for y in 0..height.min((rows * stride).saturating_sub(above)) {
                let from = [self.sample, channel, z, y];
                if stride == 1 {
                    let row = &mut plane[(y + above) * pitch + left..][..width];
                    // SAFETY: the row has as many numbers as the image is wide
                    unsafe { self.source.write_row::<V>(from, row.as_mut_ptr()) };
                    continue;
                }
                // SAFETY: the buffer for a row has been made as long
                unsafe { self.source.write_row::<V>(from, self.row.as_mut_ptr()) };
                for phase in 0..stride {
                    let first = ((y + above) % stride * stride + phase) * rows * pitch + (y + above) / stride * pitch;
                    // the first column of the phase that is not before the image
                    let skipped = left.saturating_sub(phase).div_ceil(stride);
                    let from = skipped * stride + phase - left;
                    let to = &mut plane[first + skipped..first + pitch];
                    if from < width {
                        every(&self.row[from..width], stride, to);
                    }
                }
            }
        }
    }
}

/// Copies the first of each `stride` numbers, as far as both go.
#[inline(always)]
fn every(from: &[f32], stride: usize, to: &mut [f32]) {
    if stride == 2 {
        let whole = from.chunks_exact(2);
        let last = whole.remainder().first().copied();
        let count = whole.len();
        to.iter_mut().zip(whole).for_each(|(to, pair)| *to = pair[0]);
        if let (Some(to), Some(last)) = (to.get_mut(count), last) {
            *to = last;
        }
    } else {
        to.iter_mut().zip(from.iter().step_by(stride)).for_each(|(to, from)| *to = *from);
    }
}
