use crate::{data::grid::Grid, train::generator};

use super::*;

const SHAPE: [usize; 3] = [9, 7, 5];

fn at([x, y, z]: [usize; 3]) -> usize {
    (x * SHAPE[1] + y) * SHAPE[2] + z
}

fn mask(inside: impl Fn([usize; 3]) -> bool) -> Vec<bool> {
    let [nx, ny, nz] = SHAPE;
    (0..nx * ny * nz).map(|at| inside([at / nz / ny, at / nz % ny, at % nz])).collect()
}

fn firm(inside: Vec<bool>) -> Firm {
    Firm { shape: SHAPE, outside: inside.iter().map(|inside| !inside).collect(), inside }
}

fn belief(inside: &[bool], sure: f32) -> Belief {
    let foreground: Vec<f32> = inside.iter().map(|inside| if *inside { sure } else { 1.0 - sure }).collect();
    let softmax: Vec<f32> = foreground.iter().map(|p| 1.0 - p).chain(foreground.iter().copied()).collect();
    Belief::of_class(&softmax, 1, &Grid::centred(SHAPE, [1.0; 3]))
}

/// The sign is that of the voxel (x, y, z) itself: on extents that all differ, any other index gives another sign.
#[test]
fn e05_signs_are_those_of_the_voxel_chosen() {
    let object = mask(|[x, y, z]| x >= 6 && y <= 2 && z >= 3);
    for rule in [Rule::Ritm, Rule::Uniform] {
        for seed in 0..40 {
            let random = &mut generator(seed, "test", &[]);
            let (found, sign) = correction(&[false; 315], &firm(object.clone()), rule, random).expect("all is missed");
            assert!(object[found] && sign == Sign::Foreground);
            // everything is drawn: what is too much can only be background
            let (found, sign) = correction(&[true; 315], &firm(object.clone()), rule, random).expect("most is wrong");
            assert!(!object[found] && sign == Sign::Background);
            // one voxel is missed and one is too many
            let mut drawn = object.clone();
            drawn[at([7, 1, 4])] = false;
            drawn[at([1, 5, 0])] = true;
            let (found, sign) = correction(&drawn, &firm(object.clone()), rule, random).expect("two errors");
            let expected = if found == at([7, 1, 4]) { Sign::Foreground } else { Sign::Background };
            assert!(sign == expected && [at([7, 1, 4]), at([1, 5, 0])].contains(&found));
        }
    }
}

/// RITM: of a block of 3 x 3 x 3 and a single voxel the block's middle is chosen; equal errors are background.
#[test]
fn ritm_clicks_deep_in_the_larger_error() {
    let object = mask(|[x, y, z]| (2..5).contains(&x) && (2..5).contains(&y) && (1..4).contains(&z));
    let mut drawn = vec![false; 315];
    drawn[at([8, 6, 4])] = true;
    for seed in 0..10 {
        let found = correction(&drawn, &firm(object.clone()), Rule::Ritm, &mut generator(seed, "test", &[]));
        assert_eq!(found, Some((at([3, 3, 2]), Sign::Foreground)));
    }
    let mut one = vec![false; 315];
    one[at([0, 0, 0])] = true;
    let found = correction(&drawn, &firm(one), Rule::Ritm, &mut generator(0, "test", &[]));
    assert_eq!(found, Some((at([8, 6, 4]), Sign::Background)));
}

#[test]
fn e10_where_nothing_is_wrong_nothing_is_clicked() {
    for object in [vec![false; 315], vec![true; 315], mask(|[x, ..]| x > 4)] {
        for rule in [Rule::Ritm, Rule::Uniform] {
            assert_eq!(correction(&object, &firm(object.clone()), rule, &mut generator(1, "test", &[])), None);
        }
    }
    let nothing = Firm { shape: SHAPE, inside: vec![false; 315], outside: vec![false; 315] };
    let how = First { inside: 3, near: 1, far: 1 };
    assert!(first(&belief(&[false; 315], 0.9), &nothing, how, &mut generator(1, "test", &[])).is_empty());
    assert_eq!(correction(&[true; 315], &nothing, Rule::Uniform, &mut generator(1, "test", &[])), None);
}

#[test]
fn first_points_are_deep_in_every_part_and_on_both_sides() {
    // two parts and a stray voxel
    let object = mask(|[x, y, z]| (x < 3 && y < 3 && z < 3) || (x > 5 && y > 3 && z > 1) || [x, y, z] == [0, 6, 4]);
    let how = First { inside: 4, near: 3, far: 3 };
    let (mut parts, mut strays) = ([false; 2], 0);
    for seed in 0..20 {
        let found = first(&belief(&object, 0.9), &firm(object.clone()), how, &mut generator(seed, "test", &[]));
        assert_eq!(found.len(), 10);
        assert_eq!(found, first(&belief(&object, 0.9), &firm(object.clone()), how, &mut generator(seed, "test", &[])));
        for (at, sign) in &found {
            assert_eq!(object[*at], *sign == Sign::Foreground);
            parts[usize::from(at / 35 > 5)] |= object[*at];
            strays += usize::from(*at == 6 * 5 + 4);
        }
    }
    assert_eq!((parts, strays), ([true; 2], 0), "a part below 5 % of the largest gets none");
}

/// Half of the object is in more doubt than the rest and is chosen less often.
#[test]
fn doubtful_voxels_are_chosen_less_often() {
    let object = mask(|[_, _, z]| z >= 3);
    let foreground: Vec<f32> = object
        .iter()
        .enumerate()
        .map(|(at, inside)| {
            if !inside {
                0.05
            } else if at / 35 < 4 {
                0.6
            } else {
                0.99
            }
        })
        .collect();
    let softmax: Vec<f32> = foreground.iter().map(|p| 1.0 - p).chain(foreground.iter().copied()).collect();
    let belief = Belief::of_class(&softmax, 1, &Grid::centred(SHAPE, [1.0; 3]));
    let how = First { inside: 1, near: 0, far: 0 };
    let doubtful = (0..200)
        .filter(|seed| first(&belief, &firm(object.clone()), how, &mut generator(*seed, "test", &[]))[0].0 / 35 < 4)
        .count();
    assert!((1..30).contains(&doubtful), "{doubtful}");
}
