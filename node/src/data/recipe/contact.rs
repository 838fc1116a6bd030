//! How far apart two ellipsoids are when they touch.
//!
//! Perram and Wertheim, Journal of Computational Physics 58 (1985): with centres apart by t along the unit vector d, and
//! matrices A and B, the ellipsoids touch where t^2 times the maximum over s in (0, 1) of
//! `s (1 - s) d' ((1 - s) A + s B)^-1 d` is 1. The maximum is unique, so a ternary search finds it.

use super::shapes::Compact;
use super::space::{Matrix, Point, inverse_form};

/// Enough to halve the bracket to the precision of f64's square root.
const STEPS: usize = 60;

/// The distance of the centres of two shapes that touch, the second in direction `towards` (a unit vector) of the first.
/// Rounded boxes count as the ellipsoids with their axes.
pub(super) fn touching_distance(first: &Compact, second: &Compact, towards: Point) -> f64 {
    let (a, b) = (first.spread(), second.spread());
    let overlap = |s: f64| {
        let mixed: Matrix =
            std::array::from_fn(|row| std::array::from_fn(|column| (1.0 - s) * a[row][column] + s * b[row][column]));
        s * (1.0 - s) * inverse_form(&mixed, towards)
    };
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..STEPS {
        let (left, right) = (low + (high - low) / 3.0, high - (high - low) / 3.0);
        if overlap(left) < overlap(right) {
            low = left;
        } else {
            high = right;
        }
    }
    1.0 / overlap(0.5 * (low + high)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::recipe::shapes::Profile;
    use crate::data::recipe::space::{add, apply, scaled, subtract, turn, unit};

    fn ellipsoid(half: Point, degrees: Point) -> Compact {
        Compact { profile: Profile::Ellipsoid, centre: [0.0; 3], half, axes: turn(degrees), lumps: Vec::new() }
    }

    #[test]
    fn balls_touch_at_the_sum_of_their_radii() {
        let (a, b) = (ellipsoid([7.0; 3], [0.0; 3]), ellipsoid([2.0; 3], [40.0, 0.0, 9.0]));
        assert!((touching_distance(&a, &b, unit([1.0, 2.0, -0.3])) - 9.0).abs() < 1e-9);
    }

    #[test]
    fn turned_ellipsoids_share_one_point() {
        let (a, mut b) =
            (ellipsoid([30.0, 12.0, 20.0], [20.0, 10.0, 50.0]), ellipsoid([8.0, 25.0, 14.0], [-30.0, 5.0, 80.0]));
        let towards = unit([-0.4, 0.8, 0.2]);
        b.centre = scaled(towards, touching_distance(&a, &b, towards));
        // Points of a's surface, measured in b: the nearest just reaches it.
        let least = |a: &Compact, b: &Compact| {
            let mut least = f64::MAX;
            for i in 0..400 {
                for j in 0..400 {
                    let (u, v) = (f64::from(i) * 0.0157, f64::from(j) * 0.00786);
                    let on_ball = [v.sin() * u.cos(), v.sin() * u.sin(), v.cos()];
                    let local: Point = std::array::from_fn(|axis| on_ball[axis] * a.half[axis]);
                    let point = add(a.centre, apply(&a.axes, local));
                    let seen = apply(&b.frame(), subtract(point, b.centre));
                    least = least.min(seen.iter().map(|v| v * v).sum::<f64>().sqrt());
                }
            }
            least
        };
        assert!((least(&a, &b) - 1.0).abs() < 3e-3, "{}", least(&a, &b));
        assert!((least(&b, &a) - 1.0).abs() < 3e-3, "{}", least(&b, &a));
    }
}
