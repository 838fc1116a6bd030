//! Organs and vessels as distance functions: ellipsoids and capsules, smoothly joined, drawn with partial volume at
//! their borders.
//!
//! Trigonometry goes through `libm`, so that a seed gives the same anatomy on every machine.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::lattice::Lattice;
use super::{Style, TargetFamily};
use crate::data::grid::Grid;

type Point = [f64; 3];

/// A solid; distances are negative inside.
#[derive(Debug, Clone)]
enum Solid {
    Ellipsoid { centre: Point, axes: [Point; 3], radii: Point },
    Capsule { from: Point, to: Point, radius: f64 },
}

/// Solids of one tissue.
#[derive(Debug, Clone)]
struct Tissue {
    solids: Vec<Solid>,
    intensity: f64,
}

/// Everything within a body, in scanner millimetres about the centre of the scan.
pub(super) struct Anatomy {
    target: Tissue,
    others: Vec<Tissue>,
    /// How far the surface of the target wobbles, in millimetres.
    wobble_mm: f64,
    wobble: ChaCha8Rng,
    field_mm: f64,
}

/// Clean intensities and the truth.
pub(super) struct Drawn {
    pub(super) intensity: Vec<f32>,
    pub(super) target: Vec<u8>,
}

impl Anatomy {
    pub(super) fn draw(style: &Style, field_mm: f64, rng: &mut ChaCha8Rng) -> Self {
        let size = rng.random_range(0.19..0.26) * field_mm;
        let centre = std::array::from_fn(|_| rng.random_range(-0.1..0.1) * field_mm);
        let mut solids = vec![ellipsoid(centre, size, rng)];
        let (lobes, share) = match style.family {
            TargetFamily::Ellipsoid => (0, 0.0),
            TargetFamily::Bilobed => (1, 0.85),
            TargetFamily::Lobulated => (2, 0.6),
        };
        for _ in 0..lobes {
            let at = along(centre, direction(rng), 0.8 * size);
            solids.push(ellipsoid(at, share * size, rng));
        }
        for _ in 0..rng.random_range(2..5) {
            let way = direction(rng);
            let (from, to) = (along(centre, way, 0.6 * size), along(centre, way, rng.random_range(1.5..2.0) * size));
            solids.push(Solid::Capsule { from, to, radius: rng.random_range(0.14..0.24) * size });
        }
        let target = Tissue { solids, intensity: 1.0 + style.contrast };
        let others = surroundings(style, field_mm, centre, size, rng);
        let wobble_mm = rng.random_range(0.04..0.12) * size;
        Self { target, others, wobble_mm, wobble: rng.clone(), field_mm }
    }

    pub(super) fn shift(&mut self, by: Point) {
        for solid in self.others.iter_mut().chain([&mut self.target]).flat_map(|tissue| &mut tissue.solids) {
            match solid {
                Solid::Ellipsoid { centre, .. } => *centre = plus(*centre, by),
                Solid::Capsule { from, to, .. } => (*from, *to) = (plus(*from, by), plus(*to, by)),
            }
        }
    }

    pub(super) fn draw_onto(&self, grid: &Grid) -> Drawn {
        let mut intensity = vec![1.0_f32; grid.count()];
        let mut target = vec![0; grid.count()];
        let edge = grid.spacing().iter().sum::<f64>() / 3.0;
        for tissue in &self.others {
            tissue.visit(grid, edge, 0.0, |at, distance| blend(&mut intensity[at], tissue.intensity, distance / edge));
        }
        let wobble = Lattice::draw(grid, 0.12 * self.field_mm, &mut self.wobble.clone());
        let [_, ny, nz] = grid.shape;
        self.target.visit(grid, edge, self.wobble_mm, |at, distance| {
            let distance = distance + self.wobble_mm * wobble.row(at / nz / ny, at / nz % ny).at(at % nz);
            blend(&mut intensity[at], self.target.intensity, distance / edge);
            target[at] = u8::from(distance < 0.0);
        });
        Drawn { intensity, target }
    }
}

/// A neighbouring organ that touches the target, small blobs and thin vessels of nearly its intensity.
fn surroundings(style: &Style, field_mm: f64, centre: Point, size: f64, rng: &mut ChaCha8Rng) -> Vec<Tissue> {
    let neighbour = along(centre, direction(rng), 1.7 * size);
    let mut tissues = vec![Tissue {
        solids: vec![ellipsoid(neighbour, size, rng)],
        intensity: 1.0 + rng.random_range(0.6..0.9) * style.contrast,
    }];
    for number in 0..style.distractors {
        let at: Point = along(centre, direction(rng), rng.random_range(1.35..2.1) * size);
        let solid = if number % 2 == 0 {
            ellipsoid(at, rng.random_range(0.3..0.5) * size, rng)
        } else {
            let to = along(at, direction(rng), rng.random_range(0.2..0.5) * field_mm);
            Solid::Capsule { from: at, to, radius: rng.random_range(0.14..0.26) * size }
        };
        let intensity = 1.0 + rng.random_range(0.8..1.15) * style.contrast;
        tissues.push(Tissue { solids: vec![solid], intensity });
    }
    tissues
}

impl Tissue {
    /// Visits the voxels within reach of the surface or inside, with their distance to it.
    fn visit(&self, grid: &Grid, edge: f64, margin: f64, mut each: impl FnMut(usize, f64)) {
        let reach = edge + margin;
        let spacing = grid.spacing();
        let bounds: [(usize, usize); 3] = std::array::from_fn(|axis| {
            let low = self.solids.iter().map(|solid| solid.extent(axis).0).fold(f64::MAX, f64::min) - reach;
            let high = self.solids.iter().map(|solid| solid.extent(axis).1).fold(f64::MIN, f64::max) + reach;
            let index = |mm: f64| (mm - grid.affine[axis][3]) / spacing[axis];
            let last = grid.shape[axis] as f64;
            (index(low).floor().clamp(0.0, last) as usize, (index(high).ceil() + 1.0).clamp(0.0, last) as usize)
        });
        for i in bounds[0].0..bounds[0].1 {
            for j in bounds[1].0..bounds[1].1 {
                for k in bounds[2].0..bounds[2].1 {
                    let point = grid.world([i as f64, j as f64, k as f64]);
                    let distance = self.solids.iter().map(|solid| solid.distance(point)).reduce(smooth_union);
                    if let Some(distance) = distance.filter(|&distance| distance < reach) {
                        each((i * grid.shape[1] + j) * grid.shape[2] + k, distance);
                    }
                }
            }
        }
    }
}

impl Solid {
    fn distance(&self, point: Point) -> f64 {
        match self {
            Self::Ellipsoid { centre, axes, radii } => {
                let local = minus(point, *centre);
                let scaled: Point = std::array::from_fn(|i| dot(axes[i], local) / radii[i]);
                let twice: Point = std::array::from_fn(|i| scaled[i] / radii[i]);
                let (near, far) = (dot(scaled, scaled).sqrt(), dot(twice, twice).sqrt());
                if far > 0.0 { near * (near - 1.0) / far } else { -radii[0] }
            }
            Self::Capsule { from, to, radius } => {
                let (line, local) = (minus(*to, *from), minus(point, *from));
                let share = (dot(local, line) / dot(line, line)).clamp(0.0, 1.0);
                let off = minus(local, line.map(|part| part * share));
                dot(off, off).sqrt() - radius
            }
        }
    }

    /// Lowest and highest coordinate along an axis.
    fn extent(&self, axis: usize) -> (f64, f64) {
        match self {
            Self::Ellipsoid { centre, axes, radii } => {
                let half = (0..3).map(|i| (axes[i][axis] * radii[i]).powi(2)).sum::<f64>().sqrt();
                (centre[axis] - half, centre[axis] + half)
            }
            Self::Capsule { from, to, radius } => {
                (from[axis].min(to[axis]) - radius, from[axis].max(to[axis]) + radius)
            }
        }
    }
}

fn ellipsoid(centre: Point, size: f64, rng: &mut ChaCha8Rng) -> Solid {
    let radii = std::array::from_fn(|_| size * rng.random_range(0.75..1.2));
    let first = direction(rng);
    let other = direction(rng);
    let second = unit(cross(first, other));
    Solid::Ellipsoid { centre, axes: [first, second, cross(first, second)], radii }
}

/// The union of two solids without a crease where they meet.
fn smooth_union(a: f64, b: f64) -> f64 {
    const WIDTH_MM: f64 = 3.0;
    let overlap = (WIDTH_MM - (a - b).abs()).max(0.0) / WIDTH_MM;
    a.min(b) - overlap * overlap * WIDTH_MM / 4.0
}

/// Replaces an intensity inside, mixes it at the border.
fn blend(value: &mut f32, intensity: f64, distance: f64) {
    let share = (0.5 - distance).clamp(0.0, 1.0);
    *value = (f64::from(*value) * (1.0 - share) + intensity * share) as f32;
}

fn direction(rng: &mut ChaCha8Rng) -> Point {
    let z: f64 = rng.random_range(-1.0..1.0);
    let turn = rng.random_range(0.0..std::f64::consts::TAU);
    let radius = (1.0 - z * z).sqrt();
    [radius * libm::cos(turn), radius * libm::sin(turn), z]
}

fn along(from: Point, direction: Point, length: f64) -> Point {
    plus(from, direction.map(|part| part * length))
}

fn plus(a: Point, b: Point) -> Point {
    std::array::from_fn(|i| a[i] + b[i])
}

fn minus(a: Point, b: Point) -> Point {
    std::array::from_fn(|i| a[i] - b[i])
}

fn dot(a: Point, b: Point) -> f64 {
    (0..3).map(|i| a[i] * b[i]).sum()
}

fn cross(a: Point, b: Point) -> Point {
    std::array::from_fn(|i| a[(i + 1) % 3] * b[(i + 2) % 3] - a[(i + 2) % 3] * b[(i + 1) % 3])
}

fn unit(a: Point) -> Point {
    let length = dot(a, a).sqrt().max(1e-9);
    a.map(|part| part / length)
}
