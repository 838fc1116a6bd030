//! Where to click: first points from what a student is sure of, then corrections of what the generalist made of them
//! (spec/semisam.md, section 5.5).
//!
//! A correction lies where the generalist's mask and the firm part of the student's belief differ; where the student is not
//! sure, the generalist is free.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

pub use crate::data::click::Rule;

use super::{
    belief::{Belief, Firm, entropy},
    components::components,
};
use crate::{
    data::{click::distances_inside, metrics::edt::distances_to, volume::Volume},
    model::sam::Sign,
};

/// How many points there are at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct First {
    /// In the object: one in each of its largest parts, then more in them by turns.
    pub inside: usize,
    /// Outside, close to the object.
    pub near: usize,
    /// Outside, anywhere.
    pub far: usize,
}

/// A voxel of the student's grid, and what is said about it.
pub type Choice = (usize, Sign);

/// Background is near within this many voxels of the object.
const NEAR: f64 = 4.0;

/// Parts smaller than this share of the largest one get no point: they are noise more often than object.
const SMALLEST: f64 = 0.05;

/// Points to start with. Of all voxels of a kind, those in the lesser doubt are the likelier choice.
pub fn first(belief: &Belief, firm: &Firm, how: First, random: &mut ChaCha8Rng) -> Vec<Choice> {
    let mut parts = components(&firm.inside, firm.shape);
    let least = parts.first().map_or(0.0, |part| SMALLEST * part.len() as f64);
    parts.retain(|part| part.len() as f64 >= least);
    let deep: Vec<Vec<usize>> = parts.iter().map(|part| deep_half(part, firm.shape)).collect();
    let mut found = Vec::with_capacity(how.inside + how.near + how.far);
    for turn in 0..how.inside {
        let Some(part) = deep.get(turn % deep.len().max(1)) else { break };
        found.extend(surest(belief, part, random).map(|at| (at, Sign::Foreground)));
    }
    if how.near + how.far > 0 {
        let (near, far) = background(firm);
        for (count, candidates) in [(how.near, &near), (how.far, &far)] {
            found.extend((0..count).filter_map(|_| Some((surest(belief, candidates, random)?, Sign::Background))));
        }
    }
    found
}

/// The next correction of `drawn`, the generalist's mask; none where there is nothing to correct (spec/semisam.md, E10).
pub fn correction(drawn: &[bool], firm: &Firm, rule: Rule, random: &mut ChaCha8Rng) -> Option<Choice> {
    let missed: Vec<bool> = firm.inside.iter().zip(drawn).map(|(inside, drawn)| *inside && !*drawn).collect();
    let added: Vec<bool> = firm.outside.iter().zip(drawn).map(|(outside, drawn)| *outside && *drawn).collect();
    let (at, inside) = rule.choose(&missed, &added, firm.shape, random)?;
    Some((at, if inside { Sign::Foreground } else { Sign::Background }))
}

/// A draw in which a voxel weighs the more the less doubt there is about it.
fn surest(belief: &Belief, candidates: &[usize], random: &mut ChaCha8Rng) -> Option<usize> {
    let p = belief.probabilities();
    let weight = |at: usize| f64::from((std::f32::consts::LN_2 - entropy(p[at])).max(1e-6));
    let all: f64 = candidates.iter().map(|at| weight(*at)).sum();
    let mut left = random.random::<f64>() * all;
    let chosen = candidates.iter().find(|at| {
        left -= weight(**at);
        left <= 0.0
    });
    chosen.or(candidates.last()).copied()
}

/// The voxels of a part that lie at least half as deep in it as its deepest.
fn deep_half(part: &[usize], shape: [usize; 3]) -> Vec<usize> {
    let mut mask = vec![false; shape.iter().product()];
    part.iter().for_each(|at| mask[*at] = true);
    let depths = distances_inside(&mask, shape, true);
    let deepest = depths.iter().map(|(_, depth)| *depth).fold(0.0, f64::max);
    depths.into_iter().filter(|(_, depth)| *depth > 0.5 * deepest).map(|(at, _)| at).collect()
}

/// Firm background close to the object, and all firm background.
fn background(firm: &Firm) -> (Vec<usize>, Vec<usize>) {
    let far: Vec<usize> = (0..firm.outside.len()).filter(|at| firm.outside[*at]).collect();
    if far.is_empty() || !firm.inside.contains(&true) {
        return (Vec::new(), far);
    }
    let volume = |values: &[bool]| Volume { shape: firm.shape, affine: [[0.0; 4]; 4], values: values.to_vec() };
    let distances = distances_to(&volume(&firm.inside), &volume(&firm.outside), [1.0; 3]);
    let near = far.iter().zip(distances).filter(|(_, distance)| *distance <= NEAR).map(|(at, _)| *at).collect();
    (near, far)
}

#[cfg(test)]
mod tests;
