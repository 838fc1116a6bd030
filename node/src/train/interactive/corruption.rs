//! What a mediocre student might think of an object: a probability map made from the object itself, wrong in the ways in
//! which students are.
//!
//! The border is the object's signed distance, moved in or out, waved by a smooth field, shifted, and blurred by a softness
//! that stands for confidence. A neighbouring organ, or a part of it, may be taken for the object (a warm student
//! over-segments into ventricle and vessels: spec/semisam.md, section 13); a ball may be missing, another may be false.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::{
    data::{
        click::distances_inside,
        grid::Grid,
        resample::image_onto,
        volume::{Image, Volume},
    },
    train::normal,
};

/// Distances beyond this, in voxels, are as good as certain.
const FARTHEST: f64 = 24.0;

/// Points of the field that waves the border, along each axis.
const FIELD: usize = 5;

/// The logits of such a map. `object` and `others` are [x, y, z] of `shape`; of `others` a part may be taken for the
/// object.
pub fn corrupted(object: &[bool], others: &[bool], shape: [usize; 3], random: &mut ChaCha8Rng) -> Vec<f32> {
    let mut believed = object.to_vec();
    if random.random_bool(0.3) {
        annex(&mut believed, others, shape, random);
    }
    for (chance, value) in [(0.25, false), (0.35, true)] {
        if random.random_bool(chance) {
            let near = random.random_bool(0.5);
            ball(&mut believed, if near || !value { Some(object) } else { None }, value, shape, random);
        }
    }
    let shift: [i64; 3] =
        if random.random_bool(0.5) { std::array::from_fn(|_| random.random_range(-3..=3)) } else { [0; 3] };
    let believed = shifted(&believed, shift, shape);
    let distance = signed_distance(&believed, shape);
    let (bias, wave) = (random.random_range(-2.0..2.0_f32), random.random_range(0.3..2.5_f32));
    let softness = random.random_range(0.4..2.0_f32);
    let field = field(shape, random);
    let logit = |(distance, field): (&f64, f32)| ((*distance as f32 + bias + wave * field) / softness).clamp(-9.0, 9.0);
    distance.iter().zip(field).map(logit).collect()
}

/// Takes others for the object, all of them or what lies on one side of a plane.
fn annex(believed: &mut [bool], others: &[bool], shape: [usize; 3], random: &mut ChaCha8Rng) {
    let normal: [f64; 3] = std::array::from_fn(|_| random.random_range(-1.0..1.0));
    let offset = if random.random_bool(0.3) { f64::NEG_INFINITY } else { random.random_range(-0.2..0.2) };
    let [nx, ny, nz] = shape;
    for (at, (believed, other)) in believed.iter_mut().zip(others).enumerate() {
        let place = [(at / nz / ny, nx), (at / nz % ny, ny), (at % nz, nz)];
        let side: f64 = place.iter().zip(normal).map(|((at, extent), n)| n * (*at as f64 / *extent as f64 - 0.5)).sum();
        *believed |= *other && side > offset;
    }
}

/// Sets a ball to `value`, about a voxel of `of` or anywhere.
fn ball(believed: &mut [bool], of: Option<&[bool]>, value: bool, shape: [usize; 3], random: &mut ChaCha8Rng) {
    let count = of.map_or(believed.len(), |of| of.iter().filter(|inside| **inside).count());
    let pick = random.random_range(0.0..1.0);
    let reach: f64 = random.random_range(0.06..0.2) * shape.iter().copied().min().unwrap_or(0) as f64;
    let chosen = (pick * count as f64) as usize;
    let centre = match of {
        Some(of) => (0..of.len()).filter(|&at| of[at]).nth(chosen),
        None => Some(chosen),
    };
    let Some(centre) = centre else { return };
    let [_, ny, nz] = shape;
    let place = |at: usize| [at / nz / ny, at / nz % ny, at % nz];
    let centre = place(centre);
    for (at, believed) in believed.iter_mut().enumerate() {
        let squared: usize = place(at).iter().zip(centre).map(|(a, b)| a.abs_diff(b).pow(2)).sum();
        if squared as f64 <= reach * reach {
            *believed = value;
        }
    }
}

fn shifted(mask: &[bool], by: [i64; 3], shape: [usize; 3]) -> Vec<bool> {
    if by == [0; 3] {
        return mask.to_vec();
    }
    let volume = Volume { shape, affine: Grid::centred(shape, [1.0; 3]).affine, values: mask.to_vec() };
    crate::data::patch::crop(&volume, by, shape).values
}

/// Distance to the border in voxels, positive inside; far from it, a constant.
fn signed_distance(mask: &[bool], shape: [usize; 3]) -> Vec<f64> {
    let mut signed = vec![-FARTHEST; mask.len()];
    let outside: Vec<bool> = mask.iter().map(|inside| !inside).collect();
    for (at, depth) in distances_inside(&outside, shape, false) {
        signed[at] = 0.5 - depth.min(FARTHEST);
    }
    for (at, depth) in distances_inside(mask, shape, false) {
        signed[at] = depth.min(FARTHEST) - 0.5;
    }
    signed
}

/// A smooth random field of about unit size.
fn field(shape: [usize; 3], random: &mut ChaCha8Rng) -> Vec<f32> {
    let fine = Grid::centred(shape, [1.0; 3]);
    let coarse = Grid::centred([FIELD; 3], shape.map(|extent| extent as f64 / FIELD as f64));
    let values = (0..FIELD.pow(3)).map(|_| normal(random)).collect();
    let field = Image { shape: coarse.shape, affine: coarse.affine, values };
    image_onto(&field, &fine).expect("both grids have the same axes").values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{data::metrics::dice, train::generator};

    const SHAPE: [usize; 3] = [20, 18, 16];

    fn ball_of(radius: usize) -> Vec<bool> {
        let within = |at: usize| {
            let squares = [at / 288, at / 16 % 18, at % 16].map(|i| i.abs_diff(8).pow(2));
            squares.iter().sum::<usize>() <= radius * radius
        };
        (0..SHAPE.iter().product()).map(within).collect()
    }

    fn bytes(mask: impl Iterator<Item = bool>) -> Vec<u8> {
        mask.map(u8::from).collect()
    }

    #[test]
    fn maps_resemble_the_object_and_are_wrong_in_many_ways() {
        let (object, others) = (ball_of(5), vec![false; 5760]);
        let truth = bytes(object.iter().copied());
        let dices: Vec<f64> = (0..60)
            .map(|seed| {
                let map = corrupted(&object, &others, SHAPE, &mut generator(seed, "corruption", &[]));
                assert!(map.iter().all(|logit| logit.abs() <= 9.0));
                assert_eq!(map, corrupted(&object, &others, SHAPE, &mut generator(seed, "corruption", &[])));
                dice(&bytes(map.iter().map(|logit| *logit > 0.0)), &truth)
            })
            .collect();
        let mean = dices.iter().sum::<f64>() / 60.0;
        assert!((0.5..0.9).contains(&mean), "{mean}");
        let worst = dices.iter().copied().fold(1.0, f64::min);
        let best = dices.iter().copied().fold(0.0, f64::max);
        assert!(worst < 0.6 && best > 0.85, "{worst} to {best}");
    }

    #[test]
    fn the_signed_distance_is_half_a_voxel_on_both_sides_of_the_border() {
        let object = ball_of(5);
        let distance = signed_distance(&object, SHAPE);
        assert!(distance.iter().zip(&object).all(|(d, inside)| (*d > 0.0) == *inside));
        let centre = (8 * 18 + 8) * 16 + 8;
        assert!(distance[centre] > 4.0 && distance[centre] < 6.0, "{}", distance[centre]);
        assert_eq!((distance[centre + 5], distance[centre + 6]), (0.5, -0.5));
        assert!(signed_distance(&vec![false; 5760], SHAPE).iter().all(|d| *d <= -0.5));
        assert!(signed_distance(&vec![true; 5760], SHAPE).iter().all(|d| *d >= 0.5));
    }
}
