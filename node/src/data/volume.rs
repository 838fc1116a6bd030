//! A scan in memory: RAS+ voxels on a regular grid, with the affine that places them in the scanner's space.

use std::fmt;

/// Voxels `[x, y, z]`, z fastest: voxel (i, j, k) is `values[(i * ny + j) * nz + k]`.
///
/// Axes are the closest canonical ones (x towards Right, y Anterior, z Superior). Prints its shape, never its voxels.
#[derive(Clone, PartialEq)]
pub struct Volume<T> {
    /// Extents along x, y, z.
    pub shape: [usize; 3],
    /// Voxel index to scanner millimetres, homogeneous, row-major.
    pub affine: [[f64; 4]; 4],
    /// `shape[0] * shape[1] * shape[2]` values.
    pub values: Vec<T>,
}

/// An image: true intensities (slope and intercept applied).
pub type Image = Volume<f32>;

/// A segmentation: class of each voxel, 0 is background.
pub type LabelMap = Volume<u8>;

impl<T> fmt::Debug for Volume<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Volume{:?}", self.shape)
    }
}

impl<T> Volume<T> {
    /// How many voxels there are.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Where voxel (i, j, k) lies in `values`.
    pub fn index(&self, i: usize, j: usize, k: usize) -> usize {
        (i * self.shape[1] + j) * self.shape[2] + k
    }

    /// Millimetres between neighbouring voxels along x, y, z: the lengths of the affine's columns.
    pub fn spacing(&self) -> [f64; 3] {
        std::array::from_fn(|axis| (0..3).map(|row| self.affine[row][axis].powi(2)).sum::<f64>().sqrt())
    }
}
