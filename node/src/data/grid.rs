//! The grid of a volume, and whether two are the same: a mask says something about an image only voxel for voxel.

use thiserror::Error;

use crate::data::volume::Volume;

/// How far, in voxels, corners of equal grids may lie apart: headers hold single precision, and tools round
/// differently.
const SLACK_VOXELS: f64 = 0.01;

/// Extents and place of a RAS+ volume, without its voxels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// Extents along x, y, z.
    pub shape: [usize; 3],
    /// Voxel index to scanner millimetres, homogeneous, row-major.
    pub affine: [[f64; 4]; 4],
}

/// How two grids differ.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum GridMismatch {
    /// Other extents.
    #[error("their RAS+ shapes are {0:?} and {1:?}")]
    Shape([usize; 3], [usize; 3]),
    /// Same extents, another place.
    #[error("their shapes are equal, but their affines place a corner {0:.3} mm apart")]
    Affine(f64),
}

impl<T> From<&Volume<T>> for Grid {
    fn from(volume: &Volume<T>) -> Self {
        Self { shape: volume.shape, affine: volume.affine }
    }
}

impl Grid {
    /// An axis-aligned grid whose centre is the origin.
    pub fn centred(shape: [usize; 3], spacing_mm: [f64; 3]) -> Self {
        let mut affine = [[0.0; 4]; 4];
        for axis in 0..3 {
            affine[axis][axis] = spacing_mm[axis];
            affine[axis][3] = -spacing_mm[axis] * (shape[axis] as f64 - 1.0) / 2.0;
        }
        affine[3][3] = 1.0;
        Self { shape, affine }
    }

    /// How many voxels there are.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Millimetres between neighbouring voxels along x, y, z.
    pub fn spacing(&self) -> [f64; 3] {
        std::array::from_fn(|axis| (0..3).map(|row| self.affine[row][axis].powi(2)).sum::<f64>().sqrt())
    }

    /// Scanner millimetres of a (fractional) voxel index.
    pub fn world(&self, at: [f64; 3]) -> [f64; 3] {
        std::array::from_fn(|row| {
            let m = &self.affine[row];
            m[0] * at[0] + m[1] * at[1] + m[2] * at[2] + m[3]
        })
    }

    /// The (fractional) voxel index of a place in scanner millimetres.
    pub fn voxel(&self, world: [f64; 3]) -> [f64; 3] {
        let m = &self.affine;
        let cofactor = |i: usize, j: usize| {
            let (a, b, c, d) = ((i + 1) % 3, (i + 2) % 3, (j + 1) % 3, (j + 2) % 3);
            m[a][c] * m[b][d] - m[a][d] * m[b][c]
        };
        let determinant: f64 = (0..3).map(|j| m[0][j] * cofactor(0, j)).sum();
        let local: [f64; 3] = std::array::from_fn(|row| world[row] - m[row][3]);
        std::array::from_fn(|i| (0..3).map(|j| cofactor(j, i) / determinant * local[j]).sum())
    }

    /// The grid whose first voxel is the (fractional) voxel `at` of this one, with its axes stretched by `factor`.
    pub fn rebased(&self, at: [f64; 3], factor: [f64; 3], shape: [usize; 3]) -> Self {
        let mut affine = self.affine;
        let origin = self.world(at);
        for row in 0..3 {
            (0..3).for_each(|axis| affine[row][axis] *= factor[axis]);
            affine[row][3] = origin[row];
        }
        Self { shape, affine }
    }

    /// Fails where shape or place differ.
    pub fn must_equal(&self, other: &Self) -> Result<(), GridMismatch> {
        if self.shape != other.shape {
            return Err(GridMismatch::Shape(self.shape, other.shape));
        }
        let slack = SLACK_VOXELS * self.spacing().into_iter().fold(f64::INFINITY, f64::min);
        let apart = self.corners().zip(other.corners()).map(|(a, b)| distance(a, b)).fold(0.0, f64::max);
        if apart <= slack { Ok(()) } else { Err(GridMismatch::Affine(apart)) }
    }

    fn corners(&self) -> impl Iterator<Item = [f64; 3]> {
        (0..8).map(|corner| {
            let last = |axis: usize| if corner >> axis & 1 == 1 { self.shape[axis] as f64 - 1.0 } else { 0.0 };
            self.world([last(0), last(1), last(2)])
        })
    }
}

fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
    (0..3).map(|axis| (a[axis] - b[axis]).powi(2)).sum::<f64>().sqrt()
}
