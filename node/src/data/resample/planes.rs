//! From class probabilities at the spacing of training to the likeliest classes on a scan's own grid, plane by plane.
//!
//! A whole body at 1.5 mm has some hundred million voxels; twenty probabilities of each would take 10 GB, and as many more
//! on the scan's grid. So planes of probabilities come one after the other along one axis, few are held, and what is kept
//! of them is one byte per voxel. The bits are those of resampling whole maps, axis after axis, whichever axis planes come
//! along.

use std::collections::VecDeque;

use super::{ResampleError, Weights, along, lines};
use crate::data::{
    grid::Grid,
    volume::{LabelMap, Volume},
};

/// The likeliest class of each voxel of a grid, from probabilities that come in planes.
pub struct ClassesOnto {
    /// The axis that planes come along.
    axis: usize,
    /// Of the voxels of the new grid, along each axis.
    weights: [Vec<Weights>; 3],
    /// Extents of the planes' grid.
    old: [usize; 3],
    classes: usize,
    labels: LabelMap,
    /// The planes that the next new plane may need, resampled along the axes before `axis`.
    held: VecDeque<Vec<f32>>,
    /// How many planes came, and how many new ones are done.
    came: usize,
    done: usize,
}

impl ClassesOnto {
    /// Awaits the planes of `from` along `axis`, each [classes, the two other axes].
    ///
    /// # Errors
    /// If the grids do not share their axes, or classes do not fit a byte.
    pub fn new(from: &Grid, to: &Grid, classes: usize, axis: usize) -> Result<Self, ResampleError> {
        if classes == 0 || classes > 256 {
            return Err(ResampleError::Classes(classes));
        }
        let lines = lines(from, to)?;
        let weights = std::array::from_fn(|axis| lines[axis].linear(from.shape[axis], to.shape[axis]));
        let labels = Volume { shape: to.shape, affine: to.affine, values: vec![0; to.count()] };
        let held = VecDeque::new();
        Ok(Self { axis, weights, old: from.shape, classes, labels, held, came: 0, done: 0 })
    }

    /// Takes the next plane.
    ///
    /// # Panics
    /// If it is not of the size that was announced.
    pub fn push(&mut self, plane: Vec<f32>) {
        let size: usize = (0..3).filter(|axis| *axis != self.axis).map(|axis| self.old[axis]).product();
        assert_eq!(plane.len(), self.classes * size, "a plane has all classes of its voxels");
        // axes are resampled in their order, as those of a whole map are
        let plane = (0..self.axis).fold(plane, |plane, axis| self.along_axis(&plane, axis));
        self.held.push_back(plane);
        self.came += 1;
        while let Some((first, taps)) = self.weights[self.axis].get(self.done)
            && first + taps.len() <= self.came
        {
            let unneeded = first.saturating_sub(self.came - self.held.len());
            self.held.drain(..unneeded);
            let plane = self.between(taps, first + self.held.len() - self.came);
            let plane = (self.axis + 1..3).fold(plane, |plane, axis| self.along_axis(&plane, axis));
            self.choose(&plane);
            self.done += 1;
        }
    }

    /// The classes, once all planes came.
    ///
    /// # Panics
    /// If planes are missing.
    pub fn finish(self) -> LabelMap {
        assert_eq!(self.came, self.old[self.axis], "all planes came");
        self.labels
    }

    /// A plane resampled along another axis than that of the planes; those before it are resampled already.
    fn along_axis(&self, plane: &[f32], axis: usize) -> Vec<f32> {
        let extents = (0..axis).filter(|before| *before != self.axis).map(|before| self.labels.shape[before]);
        along(plane, self.classes * extents.product::<usize>(), self.old[axis], &self.weights[axis])
    }

    /// The weighted sum of held planes.
    fn between(&self, taps: &[f32], first: usize) -> Vec<f32> {
        let mut sum = vec![0.0; self.held[first].len()];
        for (tap, plane) in taps.iter().zip(self.held.iter().skip(first)) {
            sum.iter_mut().zip(plane).for_each(|(sum, value)| *sum += tap * value);
        }
        sum
    }

    /// Writes down the likeliest classes of the next new plane; of equal ones the lower.
    fn choose(&mut self, plane: &[f32]) {
        let size = plane.len() / self.classes;
        let (mut likeliest, mut best) = (vec![0; size], plane[..size].to_vec());
        for (class, found) in plane.chunks_exact(size).enumerate().skip(1) {
            for ((likeliest, best), &found) in likeliest.iter_mut().zip(&mut best).zip(found) {
                if found > *best {
                    (*likeliest, *best) = (class as u8, found);
                }
            }
        }
        let [_, ny, nz] = self.labels.shape;
        let columns = if self.axis == 2 { ny } else { nz };
        for (at, class) in likeliest.into_iter().enumerate() {
            let (row, column) = (at / columns, at % columns);
            let [x, y, z] = match self.axis {
                0 => [self.done, row, column],
                1 => [row, self.done, column],
                _ => [row, column, self.done],
            };
            self.labels.values[(x * ny + y) * nz + z] = class;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::{resample::image_onto, volume::Image};

    /// The same of whole maps: plainly, with all the memory it takes.
    fn of_whole_maps(maps: &[Image], grid: &Grid) -> Vec<u8> {
        let maps: Vec<Image> = maps.iter().map(|map| image_onto(map, grid).unwrap()).collect();
        let likeliest = |at: usize| {
            let better =
                |best: usize, class: usize| if maps[class].values[at] > maps[best].values[at] { class } else { best };
            (0..maps.len()).fold(0, better) as u8
        };
        (0..grid.count()).map(likeliest).collect()
    }

    fn by_planes(maps: &[Image], grid: &Grid, axis: usize) -> LabelMap {
        let from = Grid::from(&maps[0]);
        let mut onto = ClassesOnto::new(&from, grid, maps.len(), axis).unwrap();
        for at in 0..from.shape[axis] {
            let [_, ny, nz] = from.shape;
            let voxels: Vec<usize> =
                (0..from.count()).filter(|voxel| [voxel / nz / ny, voxel / nz % ny, voxel % nz][axis] == at).collect();
            onto.push(maps.iter().flat_map(|map| voxels.iter().map(|voxel| map.values[*voxel])).collect());
        }
        onto.finish()
    }

    #[test]
    fn other_axes_and_too_many_classes_are_refused() {
        let grid = Grid::centred([4, 4, 4], [1.0; 3]);
        let mut turned = grid;
        turned.affine[0][1] = 0.5;
        assert!(matches!(ClassesOnto::new(&grid, &turned, 2, 0), Err(ResampleError::Axes)));
        for classes in [0, 257] {
            assert!(matches!(ClassesOnto::new(&grid, &grid, classes, 0), Err(ResampleError::Classes(_))));
        }
    }

    proptest! {
        #[test]
        fn planes_along_any_axis_give_the_classes_of_whole_maps(
            old in prop::array::uniform3(1_usize..7),
            new in prop::array::uniform3(1_usize..9),
            spacing in prop::array::uniform3(0.4_f64..3.0),
            values in prop::collection::vec(0_u8..4, 3 * 216),
        ) {
            let grid = Grid::centred(new, spacing);
            let Grid { shape, affine } = Grid::centred(old, [1.0; 3]);
            // few different values, so that equal probabilities are met too
            let maps: Vec<Image> = values
                .chunks_exact(216)
                .map(|values| values[..shape.iter().product()].iter().map(|value| f32::from(*value) / 3.0).collect())
                .map(|values| Image { shape, affine, values })
                .collect();
            let expected = of_whole_maps(&maps, &grid);
            for axis in 0..3 {
                let found = by_planes(&maps, &grid, axis);
                prop_assert_eq!((found.shape, &found.values), (new, &expected));
            }
        }
    }
}
