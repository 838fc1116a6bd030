//! Whether two volumes lie on the same grid: a mask says something about an image only voxel for voxel.

use thiserror::Error;

use crate::data::volume::Volume;

/// How far, in voxels, corners of equal grids may lie apart: headers hold single precision, and tools round differently.
const SLACK_VOXELS: f64 = 0.01;

/// How two grids differ.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum GridMismatch {
    /// Other extents.
    #[error("shapes {0:?} and {1:?}")]
    Shape([usize; 3], [usize; 3]),
    /// Same extents, another place.
    #[error("equal shapes, but their affines place a corner {0:.3} mm apart")]
    Affine(f64),
}

/// Fails where shape or affine differ.
pub fn same<A, B>(a: &Volume<A>, b: &Volume<B>) -> Result<(), GridMismatch> {
    if a.shape != b.shape {
        return Err(GridMismatch::Shape(a.shape, b.shape));
    }
    let apart = corners(a).zip(corners(b)).map(|(a, b)| (0..3).map(|i| (a[i] - b[i]).powi(2)).sum::<f64>().sqrt());
    let most = apart.fold(0.0, f64::max);
    let slack = SLACK_VOXELS * a.spacing().into_iter().fold(f64::INFINITY, f64::min);
    if most <= slack { Ok(()) } else { Err(GridMismatch::Affine(most)) }
}

/// Scanner millimetres of the eight corner voxels.
fn corners<T>(volume: &Volume<T>) -> impl Iterator<Item = [f64; 3]> {
    (0..8).map(|corner| {
        let at: [f64; 3] =
            std::array::from_fn(|i| if corner >> i & 1 == 1 { volume.shape[i] as f64 - 1.0 } else { 0.0 });
        std::array::from_fn(|row| {
            let m = &volume.affine[row];
            m[0] * at[0] + m[1] * at[1] + m[2] * at[2] + m[3]
        })
    })
}
