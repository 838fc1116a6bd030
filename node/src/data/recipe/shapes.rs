//! The primitives: ellipsoids and rounded boxes with lumps, and tubes along a bent path.
//!
//! Coverage of a voxel is analytic: the signed distance to the surface, to first order, through a ramp as wide as the
//! standard deviation of the voxel along the normal asks for. It is exact for planes along the axes, and integrates to the
//! shape's volume; no voxel is sampled more than once. All in f32, row by row, with operations that are the same on every
//! machine.

use std::ops::Range;

use super::space::{Matrix, Point, add, apply, dot, norm, product, scaled, spread, subtract, transposed};

/// Segments of a bent tube.
const SEGMENTS: usize = 12;

/// How the coordinates of a compact shape are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Profile {
    /// Squares: an ellipsoid.
    Ellipsoid,
    /// Fourth powers: a box with rounded edges.
    Box,
}

/// A bump or a dent: how far the surface moves, as a share of the radius, and in which direction.
pub(super) type Lump = (Point, f64);

/// An ellipsoid or a rounded box somewhere.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Compact {
    pub(super) profile: Profile,
    pub(super) centre: Point,
    /// Half axes in millimetres.
    pub(super) half: Point,
    /// Columns are the directions of the axes.
    pub(super) axes: Matrix,
    pub(super) lumps: Vec<Lump>,
}

/// A tube of varying thickness around a path, with round ends.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tube {
    /// Points of the path, with the radius there.
    pub(super) path: Vec<(Point, f64)>,
}

/// A shape in the scene.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Solid {
    Compact(Compact),
    Tube(Tube),
}

/// What a row of voxels needs: their places in the scene, and the size of a voxel.
pub(super) struct Row<'a> {
    pub(super) at: [&'a [f32]; 3],
    /// The place of the first voxel before the warp, the way to the next, and how far the warp moves a voxel at most.
    pub(super) start: Point,
    pub(super) step: f64,
    pub(super) warp: f64,
    /// Squared extents of a voxel.
    pub(super) extent2: [f32; 3],
}

impl Row<'_> {
    /// The voxels whose places before the warp are within a box, if there are any.
    fn within(&self, (low, high): (Point, Point)) -> Option<Range<usize>> {
        let beside = |axis: usize| self.start[axis] < low[axis] || self.start[axis] > high[axis];
        if beside(0) || beside(1) {
            return None;
        }
        let at = |place: f64| (place - self.start[2]) / self.step;
        let (first, last) = (at(low[2]).min(at(high[2])).floor(), at(low[2]).max(at(high[2])).ceil());
        let count = self.at[2].len();
        let part = first.max(0.0) as usize..((last + 1.0).max(0.0) as usize).min(count);
        (part.start < part.end).then_some(part)
    }
}

impl Compact {
    /// Scene millimetres to the frame where the shape is the unit ball of its profile.
    pub(super) fn frame(&self) -> Matrix {
        let mut frame = transposed(&self.axes);
        for (row, half) in frame.iter_mut().zip(self.half) {
            *row = scaled(*row, 1.0 / half);
        }
        frame
    }

    /// The matrix of the ellipsoid with the same half axes.
    pub(super) fn spread(&self) -> Matrix {
        spread(&self.axes, self.half)
    }

    /// From the centre to the surface along a unit vector, lumps aside.
    pub(super) fn radius(&self, direction: Point) -> f64 {
        let local = apply(&self.frame(), direction);
        let squares = local.map(|value| value * value);
        match self.profile {
            Profile::Ellipsoid => 1.0 / (squares[0] + squares[1] + squares[2]).sqrt(),
            Profile::Box => 1.0 / dot(squares, squares).sqrt().sqrt(),
        }
    }

    /// How far lumps may move the surface, as a share of the radius.
    fn unevenness(&self) -> f64 {
        self.lumps.iter().map(|(_, height)| height.abs()).sum()
    }

    fn bounds(&self) -> (Point, Point) {
        let stretch = 1.0 + self.unevenness();
        let reach: Point = self.axes.map(|row| {
            let parts: Point = std::array::from_fn(|axis| (row[axis] * self.half[axis]).abs());
            match self.profile {
                Profile::Ellipsoid => stretch * norm(parts),
                Profile::Box => stretch * (parts[0] + parts[1] + parts[2]),
            }
        });
        (subtract(self.centre, reach), add(self.centre, reach))
    }

    fn cover(&self, row: &Row<'_>, coverage: &mut [f32]) {
        let frame = self.frame().map(|line| line.map(|value| value as f32));
        let centre = self.centre.map(|value| value as f32);
        let least_half = self.half.into_iter().fold(f64::MAX, f64::min) as f32;
        let widest = (row.extent2[0] + row.extent2[1] + row.extent2[2]).sqrt();
        // Beyond this margin of the unit radius a voxel is wholly inside or outside.
        let margin = self.unevenness() as f32 + 0.5 * widest / least_half + 1e-3;
        let degree = match self.profile {
            Profile::Ellipsoid => 2,
            Profile::Box => 4,
        };
        let (inner, outer) = ((1.0 - margin).max(0.0).powi(degree), (1.0 + margin).powi(degree));
        let [xs, ys, zs] = row.at;
        let local = |x: f32, y: f32, z: f32| {
            let p = [x - centre[0], y - centre[1], z - centre[2]];
            frame.map(|line| line[0] * p[0] + line[1] * p[1] + line[2] * p[2])
        };
        // Sums of powers for all voxels, without branches and roots; few voxels need more.
        for (((x, y), z), coverage) in xs.iter().zip(ys).zip(zs).zip(coverage.iter_mut()) {
            let local = local(*x, *y, *z);
            *coverage = match self.profile {
                Profile::Ellipsoid => sum(local.map(|v| v * v)),
                Profile::Box => sum(local.map(|v| v * v * v * v)),
            };
        }
        for (at, coverage) in coverage.iter_mut().enumerate() {
            *coverage = if *coverage >= outer {
                0.0
            } else if *coverage <= inner {
                1.0
            } else {
                let power = match self.profile {
                    Profile::Ellipsoid => coverage.sqrt(),
                    Profile::Box => coverage.sqrt().sqrt(),
                };
                self.edge(local(xs[at], ys[at], zs[at]), power, &frame, row.extent2)
            };
        }
    }

    /// Coverage of a voxel near the surface.
    #[inline]
    fn edge(&self, local: [f32; 3], power: f32, frame: &[[f32; 3]; 3], extent2: [f32; 3]) -> f32 {
        if power <= 1e-6 {
            return 1.0;
        }
        let mut surface = 1.0;
        if !self.lumps.is_empty() {
            let length = sum(local.map(|v| v * v)).sqrt();
            for (direction, height) in &self.lumps {
                let cosine = (0..3).map(|axis| local[axis] * direction[axis] as f32).sum::<f32>() / length;
                let bump = cosine.max(0.0);
                surface += *height as f32 * bump * bump * bump * bump;
            }
        }
        // The gradient of the power is the transposed frame times this.
        let slope = match self.profile {
            Profile::Ellipsoid => local.map(|v| v / power),
            Profile::Box => local.map(|v| v * v * v / (power * power * power)),
        };
        let gradient: [f32; 3] = std::array::from_fn(|axis| (0..3).map(|line| frame[line][axis] * slope[line]).sum());
        // The distance is (power - surface) / |gradient|; the width of a voxel along the normal has the same divisor.
        ramp((power - surface) / weighted(gradient, extent2).sqrt().max(1e-9))
    }
}

impl Tube {
    /// A tube along the parabola from `from` to `to` that is `sag` away from the line in the middle.
    pub(super) fn bent(from: Point, to: Point, sag: Point, radii: (f64, f64)) -> Self {
        let control = add(scaled(add(from, to), 0.5), scaled(sag, 2.0));
        let path = (0..=SEGMENTS).map(|step| {
            let t = step as f64 / SEGMENTS as f64;
            let parts = [scaled(from, (1.0 - t) * (1.0 - t)), scaled(control, 2.0 * t * (1.0 - t)), scaled(to, t * t)];
            (parts.into_iter().fold([0.0; 3], add), radii.0 + (radii.1 - radii.0) * t)
        });
        Self { path: path.collect() }
    }

    fn bounds(&self) -> (Point, Point) {
        self.path
            .iter()
            .fold(([f64::MAX; 3], [f64::MIN; 3]), |bounds, (point, radius)| joined(bounds, around(*point, *radius)))
    }

    fn cover(&self, row: &Row<'_>, coverage: &mut [f32]) {
        coverage.fill(0.0);
        let widest = (row.extent2[0] + row.extent2[1] + row.extent2[2]).sqrt();
        for pair in self.path.windows(2) {
            let ((from, near), (to, far)) = (pair[0], pair[1]);
            let slack = 0.5 * f64::from(widest) + row.warp;
            let Some(part) = row.within(joined(around(from, near + slack), around(to, far + slack))) else { continue };
            let (line, start) = (subtract(to, from).map(|v| v as f32), from.map(|v| v as f32));
            let length2 = sum(line.map(|v| v * v)).max(1e-12);
            let (near, growth) = (near as f32, (far - near) as f32);
            let reach = near.max(near + growth) + 0.5 * widest;
            let [xs, ys, zs] = row.at.map(|places| &places[part.clone()]);
            let coverage = &mut coverage[part];
            for (((x, y), z), coverage) in xs.iter().zip(ys).zip(zs).zip(coverage.iter_mut()) {
                let p = [x - start[0], y - start[1], z - start[2]];
                let along = ((p[0] * line[0] + p[1] * line[1] + p[2] * line[2]) / length2).clamp(0.0, 1.0);
                let away: [f32; 3] = std::array::from_fn(|axis| p[axis] - along * line[axis]);
                let distance2 = sum(away.map(|v| v * v));
                if distance2 < reach * reach && *coverage < 1.0 {
                    let distance = distance2.sqrt().max(1e-6);
                    let width = (weighted(away, row.extent2) / (distance * distance)).sqrt().max(1e-6);
                    *coverage = coverage.max(ramp((distance - near - growth * along) / width));
                }
            }
        }
    }
}

impl Solid {
    /// The least and the greatest coordinates.
    pub(super) fn bounds(&self) -> (Point, Point) {
        match self {
            Solid::Compact(shape) => shape.bounds(),
            Solid::Tube(tube) => tube.bounds(),
        }
    }

    /// The shares of a row's voxels that are inside.
    pub(super) fn cover(&self, row: &Row<'_>, coverage: &mut [f32]) {
        match self {
            Solid::Compact(shape) => shape.cover(row, coverage),
            Solid::Tube(tube) => tube.cover(row, coverage),
        }
    }

    /// The shape with a layer of this many millimetres around it.
    pub(super) fn thickened(&self, by: f64) -> Self {
        match self {
            Solid::Compact(shape) => {
                Solid::Compact(Compact { half: shape.half.map(|half| half + by), ..shape.clone() })
            }
            Solid::Tube(tube) => {
                Solid::Tube(Tube { path: tube.path.iter().map(|(point, radius)| (*point, radius + by)).collect() })
            }
        }
    }

    /// Where its middle is.
    pub(super) fn centre(&self) -> Point {
        match self {
            Solid::Compact(shape) => shape.centre,
            Solid::Tube(tube) => tube.path[tube.path.len() / 2].0,
        }
    }

    /// As an ellipsoid around [`Solid::centre`], for relations: a tube counts as a ball in its middle.
    pub(super) fn as_compact(&self) -> Compact {
        match self {
            Solid::Compact(shape) => shape.clone(),
            Solid::Tube(tube) => {
                let (centre, radius) = tube.path[tube.path.len() / 2];
                let axes = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
                Compact { profile: Profile::Ellipsoid, centre, half: [radius; 3], axes, lumps: Vec::new() }
            }
        }
    }

    /// Turned and scaled about the origin.
    pub(super) fn posed(&self, turn: &Matrix, scale: f64) -> Self {
        let moved = |point: Point| scaled(apply(turn, point), scale);
        match self {
            Solid::Compact(shape) => Solid::Compact(Compact {
                centre: moved(shape.centre),
                half: scaled(shape.half, scale),
                axes: product(turn, &shape.axes),
                ..shape.clone()
            }),
            Solid::Tube(tube) => Solid::Tube(Tube {
                path: tube.path.iter().map(|(point, radius)| (moved(*point), radius * scale)).collect(),
            }),
        }
    }
}

/// The box that holds both.
pub(super) fn joined(a: (Point, Point), b: (Point, Point)) -> (Point, Point) {
    (std::array::from_fn(|axis| a.0[axis].min(b.0[axis])), std::array::from_fn(|axis| a.1[axis].max(b.1[axis])))
}

/// The box that reaches `by` around a point.
fn around(point: Point, by: f64) -> (Point, Point) {
    (point.map(|value| value - by), point.map(|value| value + by))
}

#[inline]
fn sum(values: [f32; 3]) -> f32 {
    values[0] + values[1] + values[2]
}

/// The sum of squares of a vector, weighted.
#[inline]
fn weighted(vector: [f32; 3], weights: [f32; 3]) -> f32 {
    vector[0] * vector[0] * weights[0] + vector[1] * vector[1] * weights[1] + vector[2] * vector[2] * weights[2]
}

/// Share inside of a voxel whose centre is this many of its widths outside.
#[inline]
fn ramp(outside: f32) -> f32 {
    (0.5 - outside).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests;
