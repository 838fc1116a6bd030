//! What a recipe leaves open, and how it is drawn: everything uniform, from one ChaCha8 stream per volume.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::space::{Point, add, beside, scaled, unit};

/// From a number to another; a fixed number has both equal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Range {
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Range {
    pub(super) const fn fixed(value: f64) -> Self {
        Self { low: value, high: value }
    }

    /// A draw; one number is taken from the stream in any case, so that a change of one bound moves nothing else.
    pub(super) fn draw(self, random: &mut ChaCha8Rng) -> f64 {
        self.low + (self.high - self.low) * random.random::<f64>()
    }
}

/// One range for each axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Triple {
    pub(super) axes: [Range; 3],
    /// Whether one draw holds for all axes.
    pub(super) together: bool,
}

impl Triple {
    pub(super) const fn fixed(value: f64) -> Self {
        Self { axes: [Range::fixed(value); 3], together: true }
    }

    pub(super) fn draw(&self, random: &mut ChaCha8Rng) -> Point {
        let drawn = self.axes.map(|range| range.draw(random));
        if self.together { [drawn[0]; 3] } else { drawn }
    }

    /// A draw between minus and plus what is drawn.
    pub(super) fn either_way(&self, random: &mut ChaCha8Rng) -> Point {
        let reach = self.draw(random);
        reach.map(|reach| reach * random.random_range(-1.0..=1.0))
    }
}

/// A direction, and how far a draw may lean away from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Towards {
    /// A unit vector; any direction where there is none.
    pub(super) direction: Option<Point>,
    pub(super) spread_deg: Range,
}

impl Towards {
    pub(super) fn draw(&self, random: &mut ChaCha8Rng) -> Point {
        let anywhere = on_sphere(random);
        let lean = self.spread_deg.draw(random);
        let around = random.random_range(-1.0..=1.0) * 180.0_f64;
        let Some(direction) = self.direction else { return anywhere };
        let (first, second) = beside(direction);
        let (sin, cos) = libm::sincos(lean.to_radians());
        let (up, along) = libm::sincos(around.to_radians());
        add(scaled(direction, cos), scaled(add(scaled(first, along), scaled(second, up)), sin))
    }
}

/// A point uniform in the ball of radius 1.
pub(super) fn in_ball(random: &mut ChaCha8Rng) -> Point {
    loop {
        let point: Point = std::array::from_fn(|_| random.random_range(-1.0..=1.0));
        if super::space::dot(point, point) <= 1.0 {
            return point;
        }
    }
}

/// A direction uniform on the sphere.
pub(super) fn on_sphere(random: &mut ChaCha8Rng) -> Point {
    unit(in_ball(random))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::data::recipe::space::{dot, norm};

    #[test]
    fn directions_lean_as_far_as_they_may() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let left = [-1.0, 0.0, 0.0];
        let towards = Towards { direction: Some(left), spread_deg: Range { low: 0.0, high: 20.0 } };
        let mut most = 0.0_f64;
        for _ in 0..500 {
            let drawn = towards.draw(&mut random);
            assert!((norm(drawn) - 1.0).abs() < 1e-9);
            most = most.max(libm::acos(dot(drawn, left)).to_degrees());
        }
        assert!(most > 18.0 && most < 20.001, "{most}");
        let anywhere = Towards { direction: None, ..towards };
        let mean = (0..2000).fold([0.0; 3], |sum, _| add(sum, scaled(anywhere.draw(&mut random), 1.0 / 2000.0)));
        assert!(norm(mean) < 0.06, "{mean:?}");
    }

    #[test]
    fn one_draw_may_hold_for_all_axes() {
        let mut random = ChaCha8Rng::seed_from_u64(4);
        let range = Range { low: 2.0, high: 9.0 };
        let [x, y, z] = Triple { axes: [range; 3], together: true }.draw(&mut random);
        assert!(x == y && y == z && (2.0..=9.0).contains(&x));
        let [x, y, z] = Triple { axes: [range; 3], together: false }.draw(&mut random);
        assert!(x != y && y != z);
        assert_eq!(Triple::fixed(4.0).draw(&mut random), [4.0; 3]);
    }
}
