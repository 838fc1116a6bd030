//! Planes of an image with the channels of a voxel side by side, zeros around them.
//!
//! Laid out so, the taps of a kernel's row meet one contiguous run of columns times channels, whatever the stride, and a
//! step to the next result is a step of whole voxels. The gradient of weights reads both of its images like this.

use crate::{scratch::Scratch, simd::Vector, source::Source};

/// Numbers behind the last voxel that a vector may read.
const VECTOR: usize = 16;

/// The layout of planes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// The channels that are read.
    pub(super) channels: (usize, usize),
    /// Zeros before the first row and column.
    pub(super) lead: [usize; 2],
    /// Rows and columns, zeros included.
    pub(super) sides: [usize; 2],
}

impl Layout {
    /// Numbers of a voxel.
    pub(super) fn voxel(&self) -> usize {
        self.channels.1 - self.channels.0
    }

    /// From one row to the next.
    pub(super) fn row(&self) -> usize {
        self.sides[1] * self.voxel()
    }

    /// Numbers of a plane.
    pub(super) fn plane(&self) -> usize {
        self.sides[0] * self.row()
    }
}

/// The planes of a sample that are at hand, each at its depth modulo their number.
pub(super) struct Rows<'a> {
    layout: Layout,
    source: &'a Source<'a>,
    sample: usize,
    slots: usize,
    /// The first plane that was never filled.
    next: usize,
    buffer: Scratch,
    /// A row of each channel.
    lines: Scratch,
}

impl<'a> Rows<'a> {
    /// With room for `slots` planes.
    pub(super) fn new(layout: Layout, source: &'a Source<'a>, sample: usize, slots: usize) -> Self {
        let mut buffer = Scratch::take(slots * layout.plane() + VECTOR);
        // what lies around an image is the same for all planes, and never written again
        buffer.fill(0.0);
        let lines = Scratch::take(layout.voxel() * source.shape[4]);
        Self { layout, source, sample, slots, next: 0, buffer, lines }
    }

    /// Makes ready the planes from `first` to before `end`, those that exist; none before may be asked for again. The sum of
    /// each channel over a plane is added to `sums`, if there are any.
    ///
    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn advance<V: Vector>(&mut self, first: usize, end: usize, sums: &mut [f64]) {
        self.next = self.next.max(first);
        while self.next < end.min(self.source.shape[2]) {
            // SAFETY: the caller has the instructions, and the plane exists
            unsafe { self.fill::<V>(self.next, sums) };
            self.next += 1;
        }
    }

    /// Where the plane at depth `z` begins, if there is such a depth.
    #[inline(always)]
    pub(super) fn at(&self, z: isize) -> Option<*const f32> {
        let exists = z >= 0 && (z as usize) < self.source.shape[2];
        exists.then(|| {
            debug_assert!((z as usize) < self.next && z as usize + self.slots >= self.next, "the plane is at hand");
            self.buffer[z as usize % self.slots * self.layout.plane()..].as_ptr()
        })
    }

    /// # Safety
    /// The processor has the instructions of `V`, and plane `z` exists.
    #[inline(always)]
    unsafe fn fill<V: Vector>(&mut self, z: usize, sums: &mut [f64]) {
        let Layout { channels: (first, _), lead: [above, left], sides: [rows, columns] } = self.layout;
        let [.., height, width] = self.source.shape;
        let voxel = self.layout.voxel();
        let start = z % self.slots * self.layout.plane();
        let plane = &mut self.buffer[start..start + self.layout.plane()];
        // a stride may leave the last rows and columns of an image unread
        let (height, used) = (height.min(rows - above), width.min(columns - left));
        for y in 0..height {
            for (channel, line) in self.lines.chunks_exact_mut(width).enumerate() {
                // SAFETY: the line has as many numbers as the image is wide
                unsafe {
                    self.source.write_row::<V>([self.sample, first + channel, z, y], line.as_mut_ptr());
                    if let Some(sum) = sums.get_mut(channel) {
                        *sum += total::<V>(line);
                    }
                }
            }
            let row = &mut plane[((y + above) * columns + left) * voxel..][..used * voxel];
            match voxel {
                1 => row.copy_from_slice(&self.lines[..used]),
                2 => woven::<2>(&self.lines, width, row),
                4 => woven::<4>(&self.lines, width, row),
                // SAFETY: the caller has the instructions
                _ => unsafe { side_by_side::<V>(&self.lines, width, row, voxel) },
            }
        }
    }
}

/// The sum of a line.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn total<V: Vector>(line: &[f32]) -> f64 {
    let vectors = line.chunks_exact(V::LANES);
    let rest: f32 = vectors.remainder().iter().sum();
    // SAFETY: a chunk has as many numbers as the vector
    unsafe {
        let sum = vectors.fold(V::splat(0.0), |sum, vector| sum.add(V::load(vector.as_ptr())));
        f64::from(sum.sum()) + f64::from(rest)
    }
}

/// From `C` lines of `width` numbers to voxels of `C` channels.
#[inline(always)]
fn woven<const C: usize>(lines: &[f32], width: usize, voxels: &mut [f32]) {
    let (voxels, _) = voxels.as_chunks_mut::<C>();
    let lines: [&[f32]; C] = std::array::from_fn(|channel| &lines[channel * width..][..voxels.len()]);
    for (x, voxel) in voxels.iter_mut().enumerate() {
        for (value, line) in voxel.iter_mut().zip(lines) {
            *value = line[x];
        }
    }
}

/// The same for any number of channels, in squares of eight by eight.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn side_by_side<V: Vector>(lines: &[f32], width: usize, voxels: &mut [f32], channels: usize) {
    let count = voxels.len() / channels;
    let whole = [channels, count].map(|extent| extent - extent % 8);
    for channel in (0..whole[0]).step_by(8) {
        for x in (0..whole[1]).step_by(8) {
            let from = lines[channel * width + x..(channel + 7) * width + x + 8].as_ptr();
            let to = voxels[x * channels + channel..(x + 7) * channels + channel + 8].as_mut_ptr();
            // SAFETY: the ranges above hold the first row and the end of the last
            unsafe { V::transpose_eight(from, width, to, channels) };
        }
    }
    for channel in 0..channels {
        let first = if channel < whole[0] { whole[1] } else { 0 };
        for x in first..count {
            voxels[x * channels + channel] = lines[channel * width + x];
        }
    }
}
