//! A scene: the parts of a recipe at drawn places and sizes.
//!
//! Parts are placed in the order of the recipe, so that what a relation refers to is there already; a part that does not
//! appear in this volume is placed too, so that its neighbours know where it would be. Then the whole body is turned and
//! scaled. Relations look at the first copy of a part.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::contact::touching_distance;
use super::draws::{in_ball, on_sphere};
use super::shapes::{Compact, Lump, Solid, Tube, joined};
use super::space::{Point, add, apply, beside, cross, norm, scaled, subtract, turn, unit};
use super::{Form, Recipe, Relation, Spot};

/// Bumps and dents of a lumpy part.
const LUMPS: usize = 6;

/// One copy of a part.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Placed {
    pub(super) part: usize,
    pub(super) copy: usize,
    /// Whether it appears.
    pub(super) shown: bool,
    pub(super) solid: Solid,
    /// Thickness of its wall.
    pub(super) wall_mm: Option<f64>,
}

/// All parts of a volume.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scene {
    pub(super) placed: Vec<Placed>,
    /// Where the first copy of each part is in `placed`.
    first: Vec<usize>,
}

impl Scene {
    /// Draws sizes and places.
    pub(super) fn draw(recipe: &Recipe, random: &mut ChaCha8Rng) -> Self {
        let mut scene = Self { placed: Vec::new(), first: Vec::new() };
        for (index, part) in recipe.parts.iter().enumerate() {
            scene.first.push(scene.placed.len());
            let copies = random.random_range(part.count.0..=part.count.1) as usize;
            for copy in 0..copies.max(1) {
                let shown = random.random::<f64>() < part.chance && copy < copies;
                let wall_mm = part.wall.as_ref().map(|wall| wall.thickness_mm.draw(random));
                let solid = scene.solid(&part.form, random);
                scene.placed.push(Placed { part: index, copy, shown, solid, wall_mm });
            }
        }
        let (turned, scale) = (turn(recipe.pose.turn_deg.either_way(random)), recipe.pose.scale.draw(random));
        for placed in &mut scene.placed {
            placed.solid = placed.solid.posed(&turned, scale);
            placed.wall_mm = placed.wall_mm.map(|wall| wall * scale);
        }
        scene
    }

    /// The first copy of a part.
    pub(super) fn part(&self, part: usize) -> &Solid {
        &self.placed[self.first[part]].solid
    }

    /// The box around all copies of these parts that appear; around the places of the first ones where none does.
    pub(super) fn bounds(&self, parts: &[usize]) -> (Point, Point) {
        let of = |placed: &Placed| {
            let wall = placed.wall_mm.filter(|_| parts.contains(&placed.part));
            wall.map_or_else(|| placed.solid.bounds(), |wall| placed.solid.thickened(wall).bounds())
        };
        let shown = self.placed.iter().filter(|placed| placed.shown && parts.contains(&placed.part)).map(of);
        let planned = || parts.iter().map(|part| self.part(*part).bounds()).reduce(joined);
        shown.reduce(joined).or_else(planned).unwrap_or_default()
    }

    fn solid(&self, form: &Form, random: &mut ChaCha8Rng) -> Solid {
        match form {
            Form::Compact { profile, size_mm, turn_deg, lumps, place } => {
                let half = size_mm.draw(random).map(|size| 0.5 * size);
                let axes = turn(turn_deg.draw(random));
                let height = lumps.draw(random);
                let lumps = if height > 0.0 { draw_lumps(height, random) } else { Vec::new() };
                let mut shape = Compact { profile: *profile, centre: [0.0; 3], half, axes, lumps };
                shape.centre = self.point(place, Some(&shape), [0.0; 3], random);
                Solid::Compact(shape)
            }
            Form::Tube { from, to, diameter_mm, end_diameter_mm, bend, bend_towards } => {
                let radius = 0.5 * diameter_mm.draw(random);
                let end_radius = end_diameter_mm.map_or(radius, |end| 0.5 * end.draw(random));
                let start = self.point(from, None, [0.0; 3], random);
                let end = self.point(to, None, start, random);
                let chord = subtract(end, start);
                let sag = bend.draw(random) * norm(chord);
                let sideways = sideways(unit(chord), *bend_towards, random);
                Solid::Tube(Tube::bent(start, end, scaled(sideways, sag), (radius, end_radius)))
            }
        }
    }

    /// Where a relation puts something: the centre of `moving`, or an end of a tube that starts at `start`.
    fn point(&self, spot: &Spot, moving: Option<&Compact>, start: Point, random: &mut ChaCha8Rng) -> Point {
        let point = match &spot.relation {
            Relation::At { of, at_mm } => {
                let base = of.map_or([0.0; 3], |of| self.part(of).centre());
                add(base, at_mm.map(|range| range.draw(random)))
            }
            Relation::Touching { of, towards, gap_mm } => {
                let other = self.part(*of).as_compact();
                let (towards, gap) = (towards.draw(random), gap_mm.draw(random));
                let apart =
                    moving.map_or_else(|| other.radius(towards), |moving| touching_distance(&other, moving, towards));
                add(other.centre, scaled(towards, apart + gap))
            }
            Relation::AttachedTo { of, towards, reach } => {
                let other = self.part(*of).as_compact();
                let (towards, reach) = (towards.draw(random), reach.draw(random));
                add(other.centre, scaled(towards, reach * other.radius(towards)))
            }
            Relation::Inside { of, reach } => {
                let other = self.part(*of).as_compact();
                let local = in_ball(random);
                let local: Point = std::array::from_fn(|axis| local[axis] * other.half[axis] * reach);
                add(other.centre, apply(&other.axes, local))
            }
            Relation::Between { from, to, share } => {
                let (from, to, share) = (self.part(*from).centre(), self.part(*to).centre(), share.draw(random));
                add(scaled(from, 1.0 - share), scaled(to, share))
            }
            Relation::Tip { of, end } => match self.part(*of) {
                Solid::Tube(tube) => tube.path[if *end { tube.path.len() - 1 } else { 0 }].0,
                Solid::Compact(shape) => shape.centre,
            },
            Relation::Onwards { towards, length_mm } => {
                let towards = towards.draw(random);
                add(start, scaled(towards, length_mm.draw(random)))
            }
        };
        add(point, spot.jitter_mm.either_way(random))
    }
}

/// A direction across `along`: the one nearest to `wanted`, or a drawn one.
fn sideways(along: Point, wanted: Option<Point>, random: &mut ChaCha8Rng) -> Point {
    let wanted = wanted.unwrap_or_else(|| on_sphere(random));
    let across = cross(along, cross(wanted, along));
    if norm(across) > 1e-6 { unit(across) } else { beside(along).0 }
}

fn draw_lumps(height: f64, random: &mut ChaCha8Rng) -> Vec<Lump> {
    (0..LUMPS).map(|_| (on_sphere(random), height * random.random_range(-1.0..=1.0) / 2.0)).collect()
}
