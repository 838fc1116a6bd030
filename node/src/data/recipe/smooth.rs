//! Smooth random fields: uniform values on a coarse lattice, interpolated to the voxels. For warps and textures.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::space::Point;

/// A field of values from -1 to 1 that varies over a given length.
pub(super) struct Smooth {
    shape: [usize; 3],
    values: Vec<f32>,
    /// Per axis and voxel: the cell, and the weight of the next lattice point.
    cells: [Vec<(usize, f32)>; 3],
}

impl Smooth {
    /// At least two voxels long, whatever is asked for, so that a lattice never is larger than the volume.
    pub(super) fn draw(voxels: [usize; 3], spacing: Point, length_mm: f64, random: &mut ChaCha8Rng) -> Self {
        let step = spacing.map(|spacing| (spacing / length_mm).min(0.5));
        let offset: Point = std::array::from_fn(|_| random.random::<f64>());
        let cells: [Vec<(usize, f32)>; 3] = std::array::from_fn(|axis| {
            let cell = |index: usize| {
                let position = offset[axis] + step[axis] * index as f64;
                let part = position - position.floor();
                // Smoothstep: no creases at lattice points.
                (position as usize, (part * part * (3.0 - 2.0 * part)) as f32)
            };
            (0..voxels[axis]).map(cell).collect()
        });
        let shape: [usize; 3] = std::array::from_fn(|axis| cells[axis].last().map_or(2, |(cell, _)| cell + 2));
        let values = (0..shape.iter().product()).map(|_| random.random_range(-1.0..=1.0)).collect();
        Self { shape, values, cells }
    }

    /// The field along z at voxel (i, j).
    pub(super) fn row(&self, i: usize, j: usize, out: &mut [f32]) {
        let ((x, wx), (y, wy)) = (self.cells[0][i], self.cells[1][j]);
        let [_, ny, nz] = self.shape;
        let line = |x: usize, y: usize| &self.values[(x * ny + y) * nz..][..nz];
        let (a, b, c, d) = (line(x, y), line(x, y + 1), line(x + 1, y), line(x + 1, y + 1));
        let mix = |z: usize| (1.0 - wx) * ((1.0 - wy) * a[z] + wy * b[z]) + wx * ((1.0 - wy) * c[z] + wy * d[z]);
        let (mut cell, mut near, mut far) = (usize::MAX, 0.0, 0.0);
        for (out, &(z, weight)) in out.iter_mut().zip(&self.cells[2]) {
            if z != cell {
                (cell, near, far) = (z, mix(z), mix(z + 1));
            }
            *out = near + weight * (far - near);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn fields_are_smooth_and_fill_their_range() {
        let field = Smooth::draw([40, 40, 40], [1.0; 3], 8.0, &mut ChaCha8Rng::seed_from_u64(1));
        let (mut row, mut beside) = (vec![0.0; 40], vec![0.0; 40]);
        let (mut least, mut most) = (f32::MAX, f32::MIN);
        for i in 0..39 {
            field.row(i, 7, &mut row);
            field.row(i + 1, 7, &mut beside);
            for k in 0..39 {
                // A smoothstep rises by at most 1.5 per cell, and neighbours on the lattice differ by at most 2.
                assert!((row[k] - row[k + 1]).abs() <= 0.376 && (row[k] - beside[k]).abs() <= 0.376);
                (least, most) = (least.min(row[k]), most.max(row[k]));
            }
        }
        assert!((-1.0..-0.6).contains(&least) && most > 0.6 && most <= 1.0, "{least} {most}");
    }
}
