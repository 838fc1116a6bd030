//! Smooth random fields: random values on a coarse lattice, interpolated to a grid.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::data::grid::Grid;

/// A field with values of about -1 to 1 that varies over a given length.
pub(super) struct Lattice {
    shape: [usize; 3],
    values: Vec<f64>,
    /// Per axis and voxel: lattice cell, and weight of the next one.
    cells: [Vec<(usize, f64)>; 3],
}

impl Lattice {
    pub(super) fn draw(grid: &Grid, length_mm: f64, rng: &mut ChaCha8Rng) -> Self {
        let spacing = grid.spacing();
        let step: [f64; 3] = std::array::from_fn(|axis| spacing[axis] / length_mm);
        let shape: [usize; 3] = std::array::from_fn(|axis| (step[axis] * grid.shape[axis] as f64).ceil() as usize + 2);
        let values = (0..shape.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect();
        let cells = std::array::from_fn(|axis| {
            (0..grid.shape[axis])
                .map(|i| {
                    let position = step[axis] * (i as f64 + 0.5);
                    let part = position.fract();
                    // Smoothstep: no creases at lattice points.
                    (position as usize, part * part * (3.0 - 2.0 * part))
                })
                .collect()
        });
        Self { shape, values, cells }
    }

    /// The field along z at voxel (i, j).
    pub(super) fn row(&self, i: usize, j: usize) -> Row<'_> {
        let ((x, wx), (y, wy)) = (self.cells[0][i], self.cells[1][j]);
        let [_, ny, nz] = self.shape;
        let line = |x: usize, y: usize| &self.values[(x * ny + y) * nz..][..nz];
        let (a, b, c, d) = (line(x, y), line(x, y + 1), line(x + 1, y), line(x + 1, y + 1));
        let mix = |z: usize| (1.0 - wx) * ((1.0 - wy) * a[z] + wy * b[z]) + wx * ((1.0 - wy) * c[z] + wy * d[z]);
        Row { values: (0..nz).map(mix).collect(), cells: &self.cells[2] }
    }
}

/// One line of a field.
pub(super) struct Row<'a> {
    values: Vec<f64>,
    cells: &'a [(usize, f64)],
}

impl Row<'_> {
    pub(super) fn at(&self, k: usize) -> f64 {
        let (z, weight) = self.cells[k];
        (1.0 - weight) * self.values[z] + weight * self.values[z + 1]
    }
}
