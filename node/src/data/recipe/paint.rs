//! From a scene to intensities and classes: each part is painted over those before it, with soft edges.
//!
//! Layer by layer, and within a layer walls first, so that joined parts have one wall around all of them and none between
//! them. A voxel belongs to the last part that covers half of it.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::Recipe;
use super::place::Scene;
use super::shapes::Solid;
use super::view::Raster;

/// How bright everything is in one volume.
pub(super) struct Look {
    background: f32,
    /// Of the inside of each placed copy.
    inside: Vec<f32>,
    /// Of each tissue, for walls.
    tissues: Vec<f32>,
    /// Strength of each tissue's texture.
    pub(super) textures: Vec<f32>,
}

impl Look {
    pub(super) fn draw(recipe: &Recipe, scene: &Scene, random: &mut ChaCha8Rng) -> Self {
        let shares: f64 = recipe.contrasts.iter().map(|contrast| contrast.share).sum();
        let mut rest = random.random::<f64>() * shares;
        let contrast = recipe.contrasts.iter().find(|contrast| {
            rest -= contrast.share;
            rest < 0.0
        });
        let mut ranges: Vec<_> = recipe.tissues.iter().map(|tissue| tissue.intensity).collect();
        for (tissue, range) in contrast.iter().flat_map(|contrast| &contrast.intensities) {
            ranges[*tissue] = *range;
        }
        let tissues: Vec<f64> = ranges.into_iter().map(|range| range.draw(random)).collect();
        let varied: Vec<f64> = recipe.tissues.iter().map(|tissue| tissue.vary.draw(random)).collect();
        let textures = recipe.tissues.iter().map(|tissue| tissue.texture.draw(random) as f32).collect();
        let mut inside: Vec<f32> = Vec::with_capacity(scene.placed.len());
        let mut of_part: Vec<f32> = Vec::new();
        for placed in &scene.placed {
            let part = &recipe.parts[placed.part];
            let own = tissues[part.tissue] + varied[part.tissue] * random.random_range(-1.0..=1.0);
            let value = if part.like == placed.part { own as f32 } else { of_part[part.like] };
            if placed.copy == 0 {
                of_part.push(value);
            }
            inside.push(value);
        }
        let tissues: Vec<f32> = tissues.into_iter().map(|value| value as f32).collect();
        Self { background: tissues[recipe.background], inside, tissues, textures }
    }
}

/// A volume that is being painted.
pub(super) struct Canvas {
    pub(super) values: Vec<f32>,
    pub(super) classes: Vec<u8>,
    /// The tissue of each voxel.
    pub(super) tissues: Vec<u16>,
    /// One more than the part of each voxel; 0 is background.
    parts: Vec<u16>,
}

struct Stroke<'a> {
    solid: Solid,
    value: f32,
    class: u8,
    tissue: usize,
    part: usize,
    only_on: &'a [usize],
}

pub(super) fn paint(recipe: &Recipe, scene: &Scene, look: &Look, raster: &Raster) -> Canvas {
    let count = raster.shape.iter().product();
    let mut canvas = Canvas {
        values: vec![look.background; count],
        classes: vec![0; count],
        tissues: vec![recipe.background as u16; count],
        parts: vec![0; count],
    };
    for stroke in strokes(recipe, scene, look) {
        canvas.stroke(&stroke, raster, recipe.parts.len());
    }
    canvas
}

fn strokes<'a>(recipe: &'a Recipe, scene: &Scene, look: &Look) -> Vec<Stroke<'a>> {
    let mut ordered = Vec::new();
    for (placed, &value) in scene.placed.iter().zip(&look.inside).filter(|(placed, _)| placed.shown) {
        let part = &recipe.parts[placed.part];
        let stroke = |solid, value, class, tissue| Stroke {
            solid,
            value,
            class,
            tissue,
            part: placed.part,
            only_on: &part.only_on,
        };
        if let (Some(wall), Some(thickness)) = (&part.wall, placed.wall_mm) {
            let outer = placed.solid.thickened(thickness);
            ordered.push(((part.layer, 0), stroke(outer, look.tissues[wall.tissue], wall.class, wall.tissue)));
        }
        ordered.push(((part.layer, 1), stroke(placed.solid.clone(), value, part.class, part.tissue)));
    }
    // Stable: what comes later in the recipe is painted over what comes earlier.
    ordered.sort_by_key(|(order, _)| *order);
    ordered.into_iter().map(|(_, stroke)| stroke).collect()
}

impl Canvas {
    fn stroke(&mut self, stroke: &Stroke<'_>, raster: &Raster, parts: usize) {
        let mut allowed = vec![stroke.only_on.is_empty(); parts + 1];
        for part in stroke.only_on {
            allowed[part + 1] = true;
        }
        // A part's own wall is part of it.
        allowed[stroke.part + 1] = true;
        let [across, along, up] = raster.span(stroke.solid.bounds());
        let mut coverage = vec![0.0; up.len()];
        for i in across {
            for j in along.clone() {
                let (start, row) = raster.row(i, j, &up);
                stroke.solid.cover(&row, &mut coverage);
                self.blend(start, &coverage, stroke, &allowed);
            }
        }
    }

    fn blend(&mut self, start: usize, coverage: &[f32], stroke: &Stroke<'_>, allowed: &[bool]) {
        for (at, &share) in (start..).zip(coverage) {
            if share > 0.0 && allowed[usize::from(self.parts[at])] {
                self.values[at] += share * (stroke.value - self.values[at]);
                if share >= 0.5 {
                    self.classes[at] = stroke.class;
                    self.tissues[at] = stroke.tissue as u16;
                    self.parts[at] = stroke.part as u16 + 1;
                }
            }
        }
    }
}
