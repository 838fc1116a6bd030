//! Points and 3x3 matrices of the scene, in millimetres: x to the patient's right, y to the front, z to the head.
//!
//! Only additions, products, quotients and square roots of IEEE arithmetic, and `libm` for angles: the same numbers on
//! every machine.

/// A point or a direction.
pub(super) type Point = [f64; 3];

/// Rows of a 3x3 matrix.
pub(super) type Matrix = [[f64; 3]; 3];

pub(super) fn add(a: Point, b: Point) -> Point {
    std::array::from_fn(|axis| a[axis] + b[axis])
}

pub(super) fn subtract(a: Point, b: Point) -> Point {
    std::array::from_fn(|axis| a[axis] - b[axis])
}

pub(super) fn scaled(a: Point, factor: f64) -> Point {
    a.map(|value| value * factor)
}

pub(super) fn dot(a: Point, b: Point) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

pub(super) fn norm(a: Point) -> f64 {
    dot(a, a).sqrt()
}

/// The direction of `a`; up for a vector without length.
pub(super) fn unit(a: Point) -> Point {
    let length = norm(a);
    if length > 1e-12 { scaled(a, 1.0 / length) } else { [0.0, 0.0, 1.0] }
}

pub(super) fn cross(a: Point, b: Point) -> Point {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

pub(super) fn apply(m: &Matrix, a: Point) -> Point {
    m.map(|row| dot(row, a))
}

pub(super) fn transposed(m: &Matrix) -> Matrix {
    std::array::from_fn(|row| std::array::from_fn(|column| m[column][row]))
}

pub(super) fn product(a: &Matrix, b: &Matrix) -> Matrix {
    let columns = transposed(b);
    a.map(|row| columns.map(|column| dot(row, column)))
}

/// `axes` times the squares of `half` on the diagonal times `axes` transposed: the ellipsoid with these half axes along
/// the columns of `axes` is `{p : p' M^-1 p <= 1}`.
pub(super) fn spread(axes: &Matrix, half: Point) -> Matrix {
    let stretched: Matrix = axes.map(|row| std::array::from_fn(|axis| row[axis] * half[axis]));
    product(&stretched, &transposed(&stretched))
}

/// `a' M^-1 a` of a symmetric positive definite matrix, by Cramer's rule.
pub(super) fn inverse_form(m: &Matrix, a: Point) -> f64 {
    let rows = [cross(m[1], m[2]), cross(m[2], m[0]), cross(m[0], m[1])];
    let determinant = dot(m[0], rows[0]);
    // The adjugate of a symmetric matrix is symmetric: its rows are these cross products.
    dot(a, apply(&rows, a)) / determinant
}

/// The turn by angles in degrees about x, then y, then z.
pub(super) fn turn(degrees: Point) -> Matrix {
    let [(sx, cx), (sy, cy), (sz, cz)] = degrees.map(|angle| libm::sincos(angle.to_radians()));
    let about_x = [[1.0, 0.0, 0.0], [0.0, cx, -sx], [0.0, sx, cx]];
    let about_y = [[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]];
    let about_z = [[cz, -sz, 0.0], [sz, cz, 0.0], [0.0, 0.0, 1.0]];
    product(&about_z, &product(&about_y, &about_x))
}

/// Two directions that make a right-handed frame with the unit vector `a`.
pub(super) fn beside(a: Point) -> (Point, Point) {
    let least = if a[0].abs() < 0.7 { [1.0, 0.0, 0.0] } else { [0.0, 1.0, 0.0] };
    let first = unit(cross(a, least));
    (first, cross(a, first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inverse_form_measures_an_ellipsoid() {
        let axes = turn([20.0, -35.0, 70.0]);
        let half = [3.0, 5.0, 7.0];
        for axis in 0..3 {
            let tip: Point = std::array::from_fn(|row| axes[row][axis] * half[axis]);
            assert!((inverse_form(&spread(&axes, half), tip) - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn turns_keep_lengths_and_handedness() {
        let m = turn([10.0, 20.0, 30.0]);
        assert!((norm(apply(&m, [1.0, 2.0, 2.0])) - 3.0).abs() < 1e-12);
        let [x, y, z] = transposed(&m);
        assert!(norm(subtract(cross(x, y), z)) < 1e-12);
        let (a, b) = beside(x);
        assert!(norm(subtract(cross(x, a), b)) < 1e-12 && dot(a, x).abs() < 1e-12);
        // A quarter turn about the axis to the head carries right to front.
        assert!(norm(subtract(apply(&turn([0.0, 0.0, 90.0]), [1.0, 0.0, 0.0]), [0.0, 1.0, 0.0])) < 1e-12);
    }
}
