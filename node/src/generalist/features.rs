//! Embeddings as features of places: prototypes of classes, masks that they draw, and how alike two scans are
//! (SemiSAM-O1; spec/semisam.md, section 7.1).
//!
//! Nothing is learnt and nobody is prompted: a voxel belongs to the class whose mean feature, taken from labelled scans, points
//! in the most similar direction.

use semisam_shared::weights::Tensor;

use super::{
    Embedding,
    network::{NetworkError, Promptable},
    view::seen,
};
use crate::data::{
    grid::Grid,
    resample::{ResampleError, labels_onto},
    volume::LabelMap,
};

/// Features of the cells of a view.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    cells: Grid,
    /// [cells, channels], each of length 1.
    values: Vec<f32>,
}

/// A scan's features from all places that are looked at, together showing all of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen(Vec<Features>);

/// The mean direction of the features of each class; none of a class that no labelled scan shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Prototypes(Vec<Option<Vec<f32>>>);

impl Features {
    /// Of what a network says of the places of a view, [1, channels, x, y, z].
    ///
    /// # Panics
    /// If it has another shape.
    fn of(places: &Tensor, view: &Grid) -> Self {
        let [1, channels, x, y, z] = places.shape[..] else { panic!("one row of channels for each place") };
        let count = x * y * z;
        let factor: [f64; 3] = std::array::from_fn(|axis| view.shape[axis] as f64 / [x, y, z][axis] as f64);
        let cells = view.rebased(factor.map(|factor| (factor - 1.0) / 2.0), factor, [x, y, z]);
        let mut values = Vec::with_capacity(count * channels);
        for cell in 0..count {
            let feature = (0..channels).map(|channel| places.values[channel * count + cell]);
            values.extend(direction(feature.collect()));
        }
        Self { cells, values }
    }

    fn cell(&self, cell: usize) -> &[f32] {
        let channels = self.values.len() / self.cells.count();
        &self.values[cell * channels..(cell + 1) * channels]
    }

    /// The cell that a place in scanner millimetres lies in, and how far from the middle of the view, in shares of its sides.
    fn at(&self, world: [f64; 3]) -> Option<(usize, f64)> {
        let (place, [x, y, z]) = (self.cells.voxel(world), self.cells.shape);
        let mut index = [0; 3];
        let mut off_middle = 0.0_f64;
        for axis in 0..3 {
            let side = self.cells.shape[axis] as f64;
            let nearest = place[axis].round();
            if !(0.0..side).contains(&nearest) {
                return None;
            }
            index[axis] = nearest as usize;
            off_middle = off_middle.max(((place[axis] + 0.5) / side - 0.5).abs());
        }
        debug_assert!(index[0] < x && index[1] < y && index[2] < z);
        Some(((index[0] * y + index[1]) * z + index[2], off_middle))
    }
}

impl Seen {
    /// Of a scan's embeddings by `network`.
    ///
    /// # Errors
    /// If they are another network's.
    pub fn of(network: &dyn Promptable, embeddings: &[Embedding]) -> Result<Self, NetworkError> {
        let features = |embedding: &Embedding| Ok(Features::of(&network.places(&embedding.values)?, &embedding.grid));
        Ok(Self(embeddings.iter().map(features).collect::<Result<_, NetworkError>>()?))
    }

    /// The mean direction of all of the scan: what scans are compared by.
    pub fn gist(&self) -> Vec<f32> {
        let channels = self.0.first().map_or(0, |features| features.cell(0).len());
        let mut sum = vec![0.0; channels];
        for features in &self.0 {
            features.values.chunks_exact(channels).for_each(|feature| add(&mut sum, feature));
        }
        direction(sum)
    }

    /// The likeliest class of each voxel of `grid`, a grid of this scan; background where nobody looked.
    pub fn draw(&self, prototypes: &Prototypes, grid: &Grid) -> LabelMap {
        let classes: Vec<Vec<u8>> = self
            .0
            .iter()
            .map(|features| (0..features.cells.count()).map(|cell| prototypes.class_of(features.cell(cell))).collect())
            .collect();
        let [_, ny, nz] = grid.shape;
        let of_voxel = |at: usize| {
            let world = grid.world([at / nz / ny, at / nz % ny, at % nz].map(|index| index as f64));
            let found = self.0.iter().zip(&classes).filter_map(|(features, classes)| {
                let (cell, off_middle) = features.at(world)?;
                Some((off_middle, classes[cell]))
            });
            found.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(0, |(_, class)| class)
        };
        LabelMap { shape: grid.shape, affine: grid.affine, values: (0..grid.count()).map(of_voxel).collect() }
    }
}

impl Prototypes {
    /// Of `classes` classes, the background among them, in labelled scans: a mean over each scan, then over scans.
    ///
    /// # Errors
    /// If labels are on other axes than their scan.
    pub fn of(scans: &[(&Seen, &LabelMap)], classes: usize) -> Result<Self, ResampleError> {
        let mut sums: Vec<Vec<f32>> = vec![Vec::new(); classes];
        for (seen_scan, labels) in scans {
            let mut of_scan: Vec<Vec<f32>> = vec![Vec::new(); classes];
            for features in &seen_scan.0 {
                let drawn = labels_onto(labels, &features.cells)?;
                let inside = seen(&Grid::from(*labels), &features.cells);
                for (cell, class) in drawn.values.iter().enumerate().filter(|(cell, _)| inside[*cell]) {
                    if let Some(sum) = of_scan.get_mut(usize::from(*class)) {
                        add(sum, features.cell(cell));
                    }
                }
            }
            let means = sums.iter_mut().zip(of_scan).filter(|(_, sum)| !sum.is_empty());
            means.for_each(|(sum, of_scan)| add(sum, &direction(of_scan)));
        }
        Ok(Self(sums.into_iter().map(|sum| (!sum.is_empty()).then(|| direction(sum))).collect()))
    }

    /// Whether any class but the background has one.
    pub fn any(&self) -> bool {
        self.0.iter().skip(1).any(Option::is_some)
    }

    fn class_of(&self, feature: &[f32]) -> u8 {
        let likeness = |prototype: &Option<Vec<f32>>| Some(alike(prototype.as_ref()?, feature));
        let known =
            self.0.iter().enumerate().filter_map(|(class, prototype)| Some((class as u8, likeness(prototype)?)));
        known.fold((0, f64::NEG_INFINITY), |best, found| if found.1 > best.1 { found } else { best }).0
    }
}

/// The cosine of two directions.
pub fn alike(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn direction(values: Vec<f32>) -> Vec<f32> {
    let length = alike(&values, &values).sqrt().max(1e-12);
    values.into_iter().map(|value| (f64::from(value) / length) as f32).collect()
}

fn add(sum: &mut Vec<f32>, values: &[f32]) {
    if sum.is_empty() {
        sum.resize(values.len(), 0.0);
    }
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two views of a scan of 16 x 8 x 8 mm, cells of 4 mm; the first channel is high where x is.
    fn features(first_mm: f64, turn: f32) -> Features {
        let grid = Grid {
            shape: [8; 3],
            affine: [[1.0, 0.0, 0.0, first_mm], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]],
        };
        // [1, 2, 2, 2, 2]: cells along x lie at first + 1.5 and first + 5.5
        let bright = |cell: usize| first_mm + [1.5, 5.5][cell / 4] > 8.0;
        let channel = |channel: usize| (0..8).map(move |cell| if bright(cell) == (channel == 0) { 3.0 } else { turn });
        let places = Tensor { shape: vec![1, 2, 2, 2, 2], values: channel(0).chain(channel(1)).collect() };
        Features::of(&places, &grid)
    }

    fn labels(shape: [usize; 3]) -> LabelMap {
        let affine = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
        let [nx, ny, nz] = shape;
        LabelMap { shape, affine, values: (0..nx * ny * nz).map(|at| u8::from(at / ny / nz >= 8)).collect() }
    }

    #[test]
    fn prototypes_of_one_scan_draw_the_object_of_another() {
        let one = Seen(vec![features(0.0, 0.5), features(8.0, 0.5)]);
        let other = Seen(vec![features(0.0, 1.0), features(4.0, 1.0), features(8.0, 1.0)]);
        let truth = labels([16, 8, 8]);
        let prototypes = Prototypes::of(&[(&one, &truth)], 2).expect("the same axes");
        assert!(prototypes.any());
        assert_eq!(other.draw(&prototypes, &Grid::from(&truth)).values, truth.values);
        // beyond what was looked at there is background
        let wide = other.draw(&prototypes, &Grid::from(&labels([32, 8, 8])));
        assert!(wide.values.iter().enumerate().all(|(at, class)| (*class == 1) == (8..16).contains(&(at / 64))));
        let half = Seen(vec![features(0.0, 0.5)]);
        assert!(alike(&one.gist(), &one.gist()) > 0.999_999 && alike(&one.gist(), &half.gist()) < 0.99);
    }

    #[test]
    fn a_class_that_nobody_shows_is_never_drawn() {
        let scan = Seen(vec![features(0.0, 0.5), features(8.0, 0.5)]);
        let mut empty = labels([16, 8, 8]);
        empty.values.fill(0);
        let prototypes = Prototypes::of(&[(&scan, &empty)], 3).expect("the same axes");
        assert!(!prototypes.any());
        assert!(scan.draw(&prototypes, &Grid::from(&empty)).values.iter().all(|class| *class == 0));
    }
}
