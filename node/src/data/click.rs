//! Where a person would click next: in the part where a mask differs most from the object that is wanted
//! (spec/semisam.md, section 5.5).
//!
//! Who knows the object decides what the clicks are worth: simulated training and the oracle of an evaluation know the
//! truth, a student's confident prediction is honest. This file only compares two masks.

use rand::{Rng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::{metrics::edt::distances_to, volume::Volume};

/// How a click is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClickRule {
    /// In the middle of the larger error: a voxel more than half as deep in it as its deepest one (RITM).
    Middle,
    /// Any wrong voxel.
    Uniform,
}

/// A click on a voxel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextClick {
    /// Index of the voxel.
    pub at: [usize; 3],
    /// Whether it lies in the wanted object.
    pub inside: bool,
}

impl ClickRule {
    /// The click that corrects `mask` towards `wanted`, both [x, y, z] of `shape`; none where they agree.
    ///
    /// # Panics
    /// If a mask has another size.
    pub fn next(self, mask: &[bool], wanted: &[bool], shape: [usize; 3], random: &mut ChaCha8Rng) -> Option<NextClick> {
        let voxels: usize = shape.iter().product();
        assert!(mask.len() == voxels && wanted.len() == voxels, "both masks are on the grid");
        let at = match self {
            Self::Uniform => {
                let wrong = mask.iter().zip(wanted).filter(|(mask, wanted)| mask != wanted).count();
                let chosen = (wrong > 0).then(|| random.random_range(0..wrong))?;
                (0..voxels).filter(|&at| mask[at] != wanted[at]).nth(chosen)?
            }
            Self::Middle => {
                let error = |inside: bool| Depths::of(|at| mask[at] != wanted[at] && wanted[at] == inside, shape);
                let (missed, false_alarm) = (error(true), error(false));
                let larger = if missed.deepest > false_alarm.deepest { missed } else { false_alarm };
                let middle = |(_, depth): &&(usize, f64)| *depth > 0.5 * larger.deepest;
                let candidates: Vec<usize> = larger.voxels.iter().filter(middle).map(|(at, _)| *at).collect();
                *candidates.choose(random)?
            }
        };
        let [_, ny, nz] = shape;
        Some(NextClick { at: [at / nz / ny, at / nz % ny, at % nz], inside: wanted[at] })
    }
}

/// How deep each voxel of a region lies in it; beyond the volume is outside.
struct Depths {
    voxels: Vec<(usize, f64)>,
    deepest: f64,
}

impl Depths {
    fn of(region: impl Fn(usize) -> bool, shape: [usize; 3]) -> Self {
        let region: Vec<bool> = (0..shape.iter().product()).map(region).collect();
        let voxels = distances_inside(&region, shape, true);
        let deepest = voxels.iter().map(|(_, depth)| *depth).fold(0.0, f64::max);
        Self { voxels, deepest }
    }
}

/// The voxels of a region, in order, each with the distance to the nearest one outside it, in voxels. What lies beyond the
/// volume is outside if it is `bounded`; otherwise a region that is everywhere is infinitely deep.
pub(crate) fn distances_inside(region: &[bool], shape: [usize; 3], bounded: bool) -> Vec<(usize, f64)> {
    let [_, ny, nz] = shape;
    let place = |at: usize| [at / nz / ny, at / nz % ny, at % nz];
    let voxels: Vec<usize> = (0..region.len()).filter(|&at| region[at]).collect();
    let Some(first) = voxels.first().map(|at| place(*at)) else { return Vec::new() };
    let (mut low, mut high) = (first, first);
    for index in voxels.iter().map(|at| place(*at)) {
        for axis in 0..3 {
            low[axis] = low[axis].min(index[axis]);
            high[axis] = high[axis].max(index[axis]);
        }
    }
    // the region's box with a voxel around it, or as much of that as the volume has
    let spare = |room: bool| usize::from(bounded || room);
    let before: [usize; 3] = std::array::from_fn(|axis| spare(low[axis] > 0));
    let behind: [usize; 3] = std::array::from_fn(|axis| spare(high[axis] + 1 < shape[axis]));
    let boxed: [usize; 3] = std::array::from_fn(|axis| high[axis] - low[axis] + 1 + before[axis] + behind[axis]);
    let mut inside = vec![false; boxed.iter().product()];
    for index in voxels.iter().map(|at| place(*at)) {
        let [i, j, k]: [usize; 3] = std::array::from_fn(|axis| index[axis] - low[axis] + before[axis]);
        inside[(i * boxed[1] + j) * boxed[2] + k] = true;
    }
    let affine = [[0.0; 4]; 4];
    let outside = Volume { shape: boxed, affine, values: inside.iter().map(|inside| !inside).collect() };
    let depths = distances_to(&outside, &Volume { shape: boxed, affine, values: inside }, [1.0; 3]);
    voxels.into_iter().zip(depths).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::train::generator;

    const SHAPE: [usize; 3] = [9, 8, 7];

    fn block(low: [usize; 3], high: [usize; 3]) -> Vec<bool> {
        let within = |at: usize| {
            let index = [at / 56, at / 7 % 8, at % 7];
            (0..3).all(|axis| (low[axis]..high[axis]).contains(&index[axis]))
        };
        (0..504).map(within).collect()
    }

    fn next(rule: ClickRule, mask: &[bool], wanted: &[bool], seed: u64) -> Option<NextClick> {
        rule.next(mask, wanted, SHAPE, &mut generator(seed, "click", &[]))
    }

    #[test]
    fn the_middle_of_what_is_missed_or_wrongly_there() {
        let (nothing, object) = (vec![false; 504], block([2, 1, 1], [7, 6, 6]));
        for seed in 0..20 {
            // 5 x 5 x 5: depth 3 at the centre, 2 around it, and half of 3 is less than 2
            let click = next(ClickRule::Middle, &nothing, &object, seed).expect("all is missed");
            assert!(click.inside && (0..3).all(|axis| click.at[axis].abs_diff([4, 3, 3][axis]) <= 1), "{click:?}");
            let click = next(ClickRule::Middle, &object, &nothing, seed).expect("all is wrong");
            assert!(!click.inside && (0..3).all(|axis| click.at[axis].abs_diff([4, 3, 3][axis]) <= 1), "{click:?}");
        }
    }

    #[test]
    fn the_deeper_error_is_clicked_and_equals_go_to_the_false_alarm() {
        let (wanted, mask) = (block([0, 0, 0], [3, 8, 7]), block([4, 0, 0], [9, 8, 7]));
        for seed in 0..10 {
            assert!(!next(ClickRule::Middle, &mask, &wanted, seed).expect("differ").inside, "five planes beat three");
            assert!(next(ClickRule::Middle, &wanted, &mask, seed).expect("differ").inside);
            let mirrored = block([6, 0, 0], [9, 8, 7]);
            assert!(!next(ClickRule::Middle, &mirrored, &wanted, seed).expect("differ").inside);
        }
    }

    proptest! {
        #[test]
        fn a_click_is_on_an_error_and_tells_the_truth(
            mask in prop::collection::vec(any::<bool>(), 504),
            wanted in prop::collection::vec(any::<bool>(), 504),
            seed in any::<u64>(),
        ) {
            for rule in [ClickRule::Middle, ClickRule::Uniform] {
                let click = next(rule, &mask, &wanted, seed);
                prop_assert_eq!(click.is_none(), mask == wanted);
                if let Some(NextClick { at: [i, j, k], inside }) = click {
                    let at = (i * 8 + j) * 7 + k;
                    prop_assert!(mask[at] != wanted[at] && wanted[at] == inside);
                }
                prop_assert_eq!(click, next(rule, &mask, &wanted, seed));
                prop_assert_eq!(next(rule, &wanted, &wanted, seed), None);
            }
        }
    }
}
