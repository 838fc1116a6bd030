//! Averages of sliding windows, plane by plane: windows come in the order of one axis, so that planes behind the next
//! window are done. In memory are as many planes as a window is thick, and not the scan times its classes.

use std::collections::VecDeque;

use super::Windows;
use crate::{
    data::{
        flip::{flip, ways},
        patch::{crop, pad_start, window_starts},
        volume::Image,
    },
    device::TrainBackend,
    model::vnet::VNet,
    train::{
        TrainError,
        step::{Batch, probabilities},
    },
};

/// The class probabilities of `image`, plane by plane along `axis` to `each`: [classes, the two other axes].
///
/// Where the image is smaller than a window it is padded with zeros, the smaller half first; where windows do not fit the
/// last one is moved back.
///
/// # Errors
/// If network and windows do not fit each other, or windows leave gaps.
pub(crate) fn by_planes<B: TrainBackend>(
    network: &VNet<B::InnerBackend>,
    image: &Image,
    (windows, axis): (Windows, usize),
    device: &B::Device,
    each: &mut dyn FnMut(Vec<f32>),
) -> Result<(), TrainError> {
    let Windows { size, stride, .. } = windows;
    if (0..3).any(|axis| stride[axis] == 0 || stride[axis] > size[axis]) {
        let must = "from 1 to the sides of a window, so that every voxel is seen";
        return Err(TrainError::Setting { name: "stride", value: format!("{stride:?}"), must });
    }
    let before = pad_start(image.shape, size);
    let padded = std::array::from_fn(|axis| size[axis].max(image.shape[axis]));
    let mut starts = window_starts(padded, size, stride);
    starts.sort_by_key(|start| start[axis]);
    let mut slab = Slab::new(image.shape, before, padded, (size, axis), network.config().classes);
    for start in starts {
        slab.finish(start[axis], each);
        let place = std::array::from_fn(|axis| start[axis] as i64 + before[axis]);
        let window = crop(image, place, size).values;
        slab.add(&shown::<B>(network, &window, windows, device)?, start);
    }
    slab.finish(padded[axis], each);
    Ok(())
}

/// Probabilities of a window, [classes, x, y, z], averaged over the ways to mirror it. One way after the other is shown,
/// so that all of them take the memory of one.
fn shown<B: TrainBackend>(
    network: &VNet<B::InnerBackend>,
    window: &[f32],
    Windows { size, flips, .. }: Windows,
    device: &B::Device,
) -> Result<Vec<f32>, TrainError> {
    let look = |axes| {
        let mut images = window.to_vec();
        flip(&mut images, size, axes);
        let batch = Batch { images, samples: 1, patch: size };
        let mut found = probabilities::<B>(network, &batch, None, device)?;
        found.chunks_exact_mut(window.len()).for_each(|class| flip(class, size, axes));
        Ok::<_, TrainError>(found)
    };
    let (plain, mirrored) = (look([false; 3])?, &ways(flips)[1..]);
    if mirrored.is_empty() {
        return Ok(plain);
    }
    let mut sum = plain;
    for axes in mirrored {
        sum.iter_mut().zip(look(*axes)?).for_each(|(sum, p)| *sum += p);
    }
    let share = 1.0 / (mirrored.len() + 1) as f32;
    sum.iter_mut().for_each(|sum| *sum *= share);
    Ok(sum)
}

/// The planes that windows are being added to.
struct Slab {
    axis: usize,
    /// The two others, in order.
    across: [usize; 2],
    /// The image within what windows cover.
    shape: [usize; 3],
    first: [usize; 3],
    padded: [usize; 3],
    size: [usize; 3],
    classes: usize,
    /// The number of the first of them, and the sums, [classes, across], and counts of each.
    done: usize,
    planes: VecDeque<(Vec<f32>, Vec<f32>)>,
}

impl Slab {
    fn new(
        shape: [usize; 3],
        before: [i64; 3],
        padded: [usize; 3],
        (size, axis): ([usize; 3], usize),
        classes: usize,
    ) -> Self {
        let across = [[1, 2], [0, 2], [0, 1]][axis];
        let first = before.map(|start| start.unsigned_abs() as usize);
        Self { axis, across, shape, first, padded, size, classes, done: 0, planes: VecDeque::new() }
    }

    /// Adds a window's probabilities, [classes, x, y, z]. Planes before it are done.
    fn add(&mut self, window: &[f32], start: [usize; 3]) {
        let [a, b] = self.across;
        let voxels = self.padded[a] * self.padded[b];
        while self.planes.len() < start[self.axis] + self.size[self.axis] - self.done {
            self.planes.push_back((vec![0.0; self.classes * voxels], vec![0.0; voxels]));
        }
        let steps = [self.size[1] * self.size[2], self.size[2], 1];
        let of_window: usize = self.size.iter().product();
        let planes = self.planes.iter_mut().skip(start[self.axis] - self.done);
        for (plane, (sums, visits)) in planes.take(self.size[self.axis]).enumerate() {
            for row in 0..self.size[a] {
                let to = (start[a] + row) * self.padded[b] + start[b];
                let to = to..to + self.size[b];
                visits[to.clone()].iter_mut().for_each(|visits| *visits += 1.0);
                let from = plane * steps[self.axis] + row * steps[a];
                for class in 0..self.classes {
                    let values = window[class * of_window + from..].iter().step_by(steps[b]);
                    let sums = &mut sums[class * voxels..][to.clone()];
                    sums.iter_mut().zip(values).for_each(|(sum, p)| *sum += p);
                }
            }
        }
    }

    /// Gives away the averages of all planes before `plane`, as far as they are of the image.
    fn finish(&mut self, plane: usize, each: &mut dyn FnMut(Vec<f32>)) {
        while self.done < plane {
            let (sums, visits) = self.planes.pop_front().expect("windows leave no gaps");
            let of_image = self.first[self.axis]..self.first[self.axis] + self.shape[self.axis];
            if of_image.contains(&self.done) {
                each(self.averages(&sums, &visits));
            }
            self.done += 1;
        }
    }

    fn averages(&self, sums: &[f32], visits: &[f32]) -> Vec<f32> {
        let [a, b] = self.across;
        let mut averages = Vec::with_capacity(self.classes * self.shape[a] * self.shape[b]);
        for class in sums.chunks_exact(visits.len()) {
            for row in 0..self.shape[a] {
                let from = (self.first[a] + row) * self.padded[b] + self.first[b];
                let from = from..from + self.shape[b];
                averages.extend(class[from.clone()].iter().zip(&visits[from]).map(|(sum, visits)| sum / visits));
            }
        }
        averages
    }
}
