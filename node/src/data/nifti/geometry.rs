//! Where voxels lie: the affine of a NIfTI header, and the way to the closest canonical (RAS+) axes.
//!
//! The sform is used where its code is valid, else the qform, else spacing alone about the centre with x towards the
//! left, all as nibabel does, since that is what people compare with. Axes are assigned as `nibabel.io_orientation`
//! does: the closest rotation (polar decomposition) of the normalised affine, strongest axis first.

use thiserror::Error;

/// A homogeneous affine, row-major.
pub type Affine = [[f64; 4]; 4];

/// The determinant of the normalised axes below which they no longer span space.
const LEAST_DETERMINANT: f64 = 1e-6;
/// Spacing outside this range is a damaged header.
const SPACING_MM: std::ops::RangeInclusive<f64> = 1e-6..=1e6;
/// How much longer than one the square of a quaternion may be: what tools that compute in single precision leave.
const QUATERNION_SLACK: f64 = 1e-5;
/// Codes that the standard gives to a qform or sform in use.
const FORM_CODES: std::ops::RangeInclusive<i64> = 1..=5;

/// Why an affine is refused.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum GeometryProblem {
    /// NaN or infinity in the affine.
    #[error(
        "its {form} has numbers that are not finite: correct the orientation of the header, or export the scan again"
    )]
    NotFinite {
        /// sform, qform or pixdim.
        form: &'static str,
    },
    /// A voxel of no size, or of an absurd one.
    #[error(
        "its spacing along axis {axis} is {spacing} mm: correct the spacing of the header, or export the scan again"
    )]
    Spacing {
        /// 1-based axis.
        axis: usize,
        /// Millimetres.
        spacing: f64,
    },
    /// Axes in one plane.
    #[error(
        "its {form} is degenerate (two axes point the same way): correct the orientation of the header, or export the scan again"
    )]
    Degenerate {
        /// sform, qform or pixdim.
        form: &'static str,
    },
    /// A quaternion longer than one.
    #[error(
        "its qform quaternion is not of unit length: correct the orientation of the header, or export the scan again"
    )]
    Quaternion,
}

/// The fields of a header that place its voxels.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Geometry {
    pub(super) qform_code: i64,
    pub(super) sform_code: i64,
    /// qfac and the spacing.
    pub(super) pixdim: [f64; 4],
    pub(super) quaternion: [f64; 3],
    /// What rounding to the file's precision may do to the squared length of a quaternion: as much is taken for none.
    pub(super) quaternion_rounding: f64,
    pub(super) qoffset: [f64; 3],
    pub(super) srow: [[f64; 4]; 3],
    pub(super) units: u8,
}

impl Geometry {
    /// The affine of a volume of `shape`, checked.
    pub(super) fn affine(&self, shape: [usize; 3]) -> Result<Affine, GeometryProblem> {
        let (form, rows) = if FORM_CODES.contains(&self.sform_code) {
            ("sform", self.srow)
        } else if FORM_CODES.contains(&self.qform_code) {
            ("qform", self.qform()?)
        } else {
            ("pixdim", self.centred(shape))
        };
        if rows.iter().flatten().any(|number| !number.is_finite()) {
            return Err(GeometryProblem::NotFinite { form });
        }
        let affine = [rows[0], rows[1], rows[2], [0.0, 0.0, 0.0, 1.0]];
        let spacing = spacing(&affine);
        if let Some(axis) = (0..3).find(|&axis| !SPACING_MM.contains(&spacing[axis])) {
            return Err(GeometryProblem::Spacing { axis: axis + 1, spacing: spacing[axis] });
        }
        if determinant(&directions(&affine)).abs() < LEAST_DETERMINANT {
            return Err(GeometryProblem::Degenerate { form });
        }
        Ok(affine)
    }

    fn qform(&self) -> Result<[[f64; 4]; 3], GeometryProblem> {
        let [b, c, d] = self.quaternion;
        let rest = 1.0 - (b * b + c * c + d * d);
        if rest.is_nan() {
            return Err(GeometryProblem::NotFinite { form: "qform" });
        }
        if rest < -QUATERNION_SLACK {
            return Err(GeometryProblem::Quaternion);
        }
        let a = if rest < self.quaternion_rounding { 0.0 } else { rest.sqrt() };
        let length = a * a + b * b + c * c + d * d;
        let s = 2.0 / length;
        let rotation = [
            [1.0 - s * (c * c + d * d), s * (b * c - a * d), s * (b * d + a * c)],
            [s * (b * c + a * d), 1.0 - s * (b * b + d * d), s * (c * d - a * b)],
            [s * (b * d - a * c), s * (c * d + a * b), 1.0 - s * (b * b + c * c)],
        ];
        let qfac = if self.pixdim[0] == -1.0 { -1.0 } else { 1.0 };
        let [x, y, z] = self.sizes();
        let scale = [x, y, qfac * z];
        Ok(std::array::from_fn(|row| {
            let [x, y, z] = std::array::from_fn(|column| rotation[row][column] * scale[column]);
            [x, y, z, self.qoffset[row]]
        }))
    }

    /// Spacing only: the centre of the volume is the origin, and x runs to the left.
    fn centred(&self, shape: [usize; 3]) -> [[f64; 4]; 3] {
        let [x, y, z] = self.sizes();
        let scale = [-x, y, z];
        std::array::from_fn(|row| {
            let mut values = [0.0; 4];
            values[row] = scale[row];
            values[3] = -scale[row] * (shape[row] as f64 - 1.0) / 2.0;
            values
        })
    }

    fn sizes(&self) -> [f64; 3] {
        std::array::from_fn(|axis| self.pixdim[axis + 1].abs())
    }
}

/// Which canonical axis each stored axis becomes, and whether it is turned round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Orientation {
    /// Canonical axis (0 Right, 1 Anterior, 2 Superior) of stored axes 0, 1, 2.
    pub(super) target: [usize; 3],
    /// Whether stored axes 0, 1, 2 run the other way.
    pub(super) flipped: [bool; 3],
}

impl Orientation {
    /// The closest canonical assignment for a non-degenerate affine.
    pub(super) fn of(affine: &Affine) -> Self {
        let rotation = closest_rotation(directions(affine));
        let strength = |axis: usize| (0..3).map(|row| rotation[row][axis].powi(2)).fold(0.0, f64::max);
        let mut order = [0, 1, 2];
        order.sort_by(|&a, &b| strength(b).total_cmp(&strength(a)));
        let mut free = [true; 3];
        let mut orientation = Self { target: [0; 3], flipped: [false; 3] };
        for axis in order {
            let mut best = None;
            for row in (0..3).filter(|&row| free[row]) {
                if best.is_none_or(|best: usize| rotation[row][axis].abs() > rotation[best][axis].abs()) {
                    best = Some(row);
                }
            }
            let row = best.expect("three axes are shared out among three");
            free[row] = false;
            orientation.target[axis] = row;
            orientation.flipped[axis] = rotation[row][axis] < 0.0;
        }
        orientation
    }

    /// Letters of where each stored axis points to, such as `LPS`.
    pub(super) fn codes(self) -> String {
        (0..3)
            .map(|axis| [['R', 'A', 'S'], ['L', 'P', 'I']][usize::from(self.flipped[axis])][self.target[axis]])
            .collect()
    }

    /// Extents in canonical order.
    pub(super) fn canonical_shape(self, stored: [usize; 3]) -> [usize; 3] {
        let mut shape = [0; 3];
        for axis in 0..3 {
            shape[self.target[axis]] = stored[axis];
        }
        shape
    }

    /// The affine of the canonical grid.
    pub(super) fn canonical_affine(self, affine: &Affine, stored: [usize; 3]) -> Affine {
        let mut canonical = *affine;
        for axis in 0..3 {
            for row in 0..3 {
                let step = affine[row][axis];
                canonical[row][self.target[axis]] = if self.flipped[axis] { -step } else { step };
                if self.flipped[axis] {
                    canonical[row][3] += step * (stored[axis] as f64 - 1.0);
                }
            }
        }
        canonical
    }

    /// From file order (x fastest) to canonical order (z fastest).
    pub(super) fn to_canonical<T: Copy>(self, stored: [usize; 3], values: &[T]) -> Vec<T> {
        let mut canonical = Vec::with_capacity(values.len());
        self.visit(stored, |index| canonical.push(values[index]));
        canonical
    }

    /// From canonical order (z fastest) back to file order (x fastest).
    pub(super) fn to_stored<T: Copy + Default>(self, stored: [usize; 3], values: &[T]) -> Vec<T> {
        let mut file = vec![T::default(); values.len()];
        let mut values = values.iter();
        self.visit(stored, |index| {
            if let Some(&value) = values.next() {
                file[index] = value;
            }
        });
        file
    }

    /// File positions in canonical order.
    fn visit(self, stored: [usize; 3], mut each: impl FnMut(usize)) {
        let stride = [1, stored[0], stored[0] * stored[1]];
        // Per canonical axis: extent, position of its first voxel, step.
        let mut walk = [(0_usize, 0_usize, 0_isize); 3];
        for axis in 0..3 {
            let (extent, step) = (stored[axis], stride[axis] as isize);
            let backwards = self.flipped[axis];
            let first = if backwards { (extent - 1) * stride[axis] } else { 0 };
            walk[self.target[axis]] = (extent, first, if backwards { -step } else { step });
        }
        let [(nx, x0, dx), (ny, y0, dy), (nz, z0, dz)] = walk;
        for x in 0..nx as isize {
            for y in 0..ny as isize {
                let row = (x0 + y0 + z0) as isize + x * dx + y * dy;
                for z in 0..nz as isize {
                    each((row + z * dz) as usize);
                }
            }
        }
    }
}

/// Lengths of an affine's columns.
pub(super) fn spacing(affine: &Affine) -> [f64; 3] {
    std::array::from_fn(|axis| (0..3).map(|row| affine[row][axis].powi(2)).sum::<f64>().sqrt())
}

fn directions(affine: &Affine) -> [[f64; 3]; 3] {
    let spacing = spacing(affine);
    std::array::from_fn(|row| std::array::from_fn(|axis| affine[row][axis] / spacing[axis]))
}

fn cofactors(m: &[[f64; 3]; 3]) -> [[f64; 3]; 3] {
    std::array::from_fn(|i| {
        std::array::from_fn(|j| {
            let (a, b, c, d) = ((i + 1) % 3, (i + 2) % 3, (j + 1) % 3, (j + 2) % 3);
            m[a][c] * m[b][d] - m[a][d] * m[b][c]
        })
    })
}

fn determinant(m: &[[f64; 3]; 3]) -> f64 {
    let cofactors = cofactors(m);
    (0..3).map(|j| m[0][j] * cofactors[0][j]).sum()
}

/// The orthogonal factor of the polar decomposition, by Newton's iteration X <- (X + X^-T) / 2 (Higham 1986).
fn closest_rotation(mut m: [[f64; 3]; 3]) -> [[f64; 3]; 3] {
    for _ in 0..100 {
        let (cofactors, determinant) = (cofactors(&m), determinant(&m));
        let next: [[f64; 3]; 3] =
            std::array::from_fn(|i| std::array::from_fn(|j| 0.5 * (m[i][j] + cofactors[i][j] / determinant)));
        let change = (0..9).map(|at| (next[at / 3][at % 3] - m[at / 3][at % 3]).abs()).fold(0.0, f64::max);
        m = next;
        if change < 1e-15 {
            break;
        }
    }
    m
}
