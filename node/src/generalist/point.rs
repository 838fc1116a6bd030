//! Point prompts as people give them: voxel indices in a file's own order, to be carried to where a network sees them.

use std::{fmt, str::FromStr};

use thiserror::Error;

use super::view::View;
use crate::{
    data::{grid::Grid, nifti::StoredGrid},
    model::sam::{Click, Sign},
};

/// A voxel of a scan as it is stored, and whether the object is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Index along the stored axes, the first voxel being 0.
    pub at: [i64; 3],
    /// Whether it lies in the object, or outside.
    pub inside: bool,
}

/// Why a point cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PointError {
    /// Not written as a point.
    #[error(
        "`{0}` is no point: write three voxel indices, `i,j,k` for the object and `i,j,k:-` for what is outside it"
    )]
    Text(String),
    /// Beyond the scan.
    #[error(
        "point `{point}` lies outside the scan, whose {axes} axes have {} x {} x {} voxels: indices run from 0, in the file's own order", .shape[0], .shape[1], .shape[2]
    )]
    Outside {
        /// The point.
        point: Point,
        /// Where the stored axes point to.
        axes: String,
        /// Extents along the stored axes.
        shape: [usize; 3],
    },
    /// Within the scan, but beyond the cube that the network sees.
    #[error(
        "point `{point}` lies outside the {side_mm} mm cube about the object's points, which is all that the network sees: segment distant objects one by one"
    )]
    Unseen {
        /// The point.
        point: Point,
        /// Side of the cube.
        side_mm: u64,
    },
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [i, j, k] = self.at;
        write!(f, "{i},{j},{k}{}", if self.inside { "" } else { ":-" })
    }
}

impl FromStr for Point {
    type Err = PointError;

    fn from_str(text: &str) -> Result<Self, PointError> {
        let (indices, inside) = match text.trim().rsplit_once(':') {
            None => (text.trim(), true),
            Some((indices, "+")) => (indices, true),
            Some((indices, "-")) => (indices, false),
            Some(_) => return Err(PointError::Text(text.to_owned())),
        };
        let at: Option<Vec<i64>> = indices.split(',').map(|index| index.trim().parse().ok()).collect();
        let at = at.and_then(|at| <[i64; 3]>::try_from(at).ok());
        Ok(Self { at: at.ok_or_else(|| PointError::Text(text.to_owned()))?, inside })
    }
}

impl Point {
    /// Its place in scanner millimetres.
    ///
    /// # Errors
    /// If it lies outside the scan.
    pub fn world(self, scan: &StoredGrid) -> Result<[f64; 3], PointError> {
        if (0..3).any(|axis| self.at[axis] < 0 || self.at[axis] >= scan.shape[axis] as i64) {
            return Err(PointError::Outside { point: self, axes: scan.axes.clone(), shape: scan.shape });
        }
        let stored = Grid { shape: scan.shape, affine: scan.affine };
        Ok(stored.world(self.at.map(|index| index as f64)))
    }

    /// The point as the network of `view` takes it.
    ///
    /// # Errors
    /// If it lies outside the scan, or outside the view.
    pub fn click(self, scan: &StoredGrid, view: &View) -> Result<Click, PointError> {
        let world = self.world(scan)?;
        if !view.holds(world) {
            let side_mm = (view.image.shape[0] as f64 * view.image.spacing()[0]).round() as u64;
            return Err(PointError::Unseen { point: self, side_mm });
        }
        let at = Grid::from(&view.image).voxel(world).map(|index| index as f32);
        Ok(Click { at, sign: if self.inside { Sign::Foreground } else { Sign::Background } })
    }
}

/// The middle of the points in the object, in scanner millimetres; of all points where none is; none without points.
///
/// # Errors
/// If a point lies outside the scan.
pub fn centre(points: &[Point], scan: &StoredGrid) -> Result<Option<[f64; 3]>, PointError> {
    let any = points.iter().any(|point| point.inside);
    let mut sum = [0.0; 3];
    let mut count = 0.0;
    for point in points {
        let world = point.world(scan)?;
        if point.inside || !any {
            (0..3).for_each(|axis| sum[axis] += world[axis]);
            count += 1.0;
        }
    }
    Ok((count > 0.0).then(|| sum.map(|sum| sum / count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(text: &str) -> Point {
        text.parse().expect("a point")
    }

    #[test]
    fn points_are_read_as_they_are_written() {
        assert_eq!(point("1,2,3"), Point { at: [1, 2, 3], inside: true });
        assert_eq!(point("1,2,3:+"), point(" 1, 2, 3"));
        assert_eq!(point("4,5,6:-").to_string(), "4,5,6:-");
        for text in ["", "1,2", "1,2,3,4", "a,b,c", "1,2,3:", "1,2,3:x", "1.5,2,3", "1;2;3", "99999999999999999999,0,0"]
        {
            assert_eq!(text.parse::<Point>(), Err(PointError::Text(text.to_owned())));
        }
    }

    #[test]
    fn what_is_outside_is_named_with_the_extents() {
        let affine = [[-2.0, 0.0, 0.0, 9.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
        let canonical = Grid::centred([5, 6, 7], [1.0; 3]);
        let scan =
            StoredGrid { axes: "LAS".to_owned(), shape: [5, 6, 7], spacing_mm: [2.0, 1.0, 1.0], affine, canonical };
        for text in ["5,0,0", "0,6,0:-", "0,0,7", "-1,0,0"] {
            let error = point(text).world(&scan).expect_err("outside").to_string();
            assert!(error.contains(text) && error.contains("5 x 6 x 7") && error.contains("LAS"), "{error}");
        }
        assert_eq!(point("4,5,6").world(&scan), Ok([1.0, 5.0, 6.0]));
        let points = [point("0,0,0"), point("4,2,2"), point("4,5,6:-")];
        assert_eq!(centre(&points, &scan), Ok(Some([5.0, 1.0, 1.0])));
        assert_eq!(centre(&points[2..], &scan), Ok(Some([1.0, 5.0, 6.0])));
        assert_eq!(centre(&[], &scan), Ok(None));
    }
}
