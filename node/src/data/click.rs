//! Where a person would click next: in the part where a mask differs most from the object that is wanted
//! (spec/semisam.md, section 5.5).
//!
//! Who knows the object decides what the clicks are worth: simulated training and the oracle of an evaluation know the
//! truth, a student's confident prediction is honest. This file only compares two masks.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{metrics::edt::distances_to, volume::Volume};

/// How a click is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Deep within the larger error, as in RITM: more than half as deep as its deepest voxel.
    Ritm,
    /// Anywhere in the error, as SAM-Med3D was trained.
    Uniform,
}

impl Rule {
    /// The voxel to click on, and whether the object is there, given what a mask of `shape` has `missed` of the object and
    /// what it has `added` to it; none where it has done neither (spec/semisam.md, E10).
    pub fn choose(
        self,
        missed: &[bool],
        added: &[bool],
        shape: [usize; 3],
        random: &mut ChaCha8Rng,
    ) -> Option<(usize, bool)> {
        match self {
            Self::Uniform => {
                let wrong = |at: &usize| missed[*at] || added[*at];
                let at = *pick(&(0..missed.len()).filter(wrong).collect::<Vec<_>>(), random)?;
                Some((at, missed[at]))
            }
            Self::Ritm => {
                let [of_missed, of_added] = [missed, added].map(|error| distances_inside(error, shape, true));
                let deepest = |depths: &[(usize, f64)]| depths.iter().map(|(_, depth)| *depth).fold(0.0, f64::max);
                let [deepest_missed, deepest_added] = [deepest(&of_missed), deepest(&of_added)];
                let inside = deepest_missed > deepest_added;
                let least = 0.5 * deepest_missed.max(deepest_added);
                let deep = if inside { of_missed } else { of_added }.into_iter().filter(|(_, depth)| *depth > least);
                Some((*pick(&deep.map(|(at, _)| at).collect::<Vec<_>>(), random)?, inside))
            }
        }
    }

    /// The click that corrects `mask` towards `wanted`, both of `shape`; none where they agree.
    pub fn correct(
        self,
        mask: &[bool],
        wanted: &[bool],
        shape: [usize; 3],
        random: &mut ChaCha8Rng,
    ) -> Option<(usize, bool)> {
        let error = |inside: bool| -> Vec<bool> {
            mask.iter().zip(wanted).map(|(mask, wanted)| mask != wanted && *wanted == inside).collect()
        };
        self.choose(&error(true), &error(false), shape, random)
    }
}

fn pick<'a, T>(candidates: &'a [T], random: &mut ChaCha8Rng) -> Option<&'a T> {
    (!candidates.is_empty()).then(|| &candidates[random.random_range(0..candidates.len())])
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

    fn next(rule: Rule, mask: &[bool], wanted: &[bool], seed: u64) -> Option<([usize; 3], bool)> {
        let click = rule.correct(mask, wanted, SHAPE, &mut generator(seed, "click", &[]));
        click.map(|(at, inside)| ([at / 56, at / 7 % 8, at % 7], inside))
    }

    #[test]
    fn the_middle_of_what_is_missed_or_wrongly_there() {
        let (nothing, object) = (vec![false; 504], block([2, 1, 1], [7, 6, 6]));
        for seed in 0..20 {
            // 5 x 5 x 5: depth 3 at the centre, 2 around it, and half of 3 is less than 2
            let near = |at: [usize; 3]| (0..3).all(|axis| at[axis].abs_diff([4, 3, 3][axis]) <= 1);
            let (at, inside) = next(Rule::Ritm, &nothing, &object, seed).expect("all is missed");
            assert!(inside && near(at), "{at:?}");
            let (at, inside) = next(Rule::Ritm, &object, &nothing, seed).expect("all is wrong");
            assert!(!inside && near(at), "{at:?}");
        }
    }

    #[test]
    fn the_deeper_error_is_clicked_and_equals_go_to_the_false_alarm() {
        let (wanted, mask) = (block([0, 0, 0], [3, 8, 7]), block([4, 0, 0], [9, 8, 7]));
        for seed in 0..10 {
            assert!(!next(Rule::Ritm, &mask, &wanted, seed).expect("differ").1, "five planes beat three");
            assert!(next(Rule::Ritm, &wanted, &mask, seed).expect("differ").1);
            let mirrored = block([6, 0, 0], [9, 8, 7]);
            assert!(!next(Rule::Ritm, &mirrored, &wanted, seed).expect("differ").1);
        }
    }

    proptest! {
        #[test]
        fn a_click_is_on_an_error_and_tells_the_truth(
            mask in prop::collection::vec(any::<bool>(), 504),
            wanted in prop::collection::vec(any::<bool>(), 504),
            seed in any::<u64>(),
        ) {
            for rule in [Rule::Ritm, Rule::Uniform] {
                let click = next(rule, &mask, &wanted, seed);
                prop_assert_eq!(click.is_none(), mask == wanted);
                if let Some(([i, j, k], inside)) = click {
                    let at = (i * 8 + j) * 7 + k;
                    prop_assert!(mask[at] != wanted[at] && wanted[at] == inside);
                }
                prop_assert_eq!(click, next(rule, &mask, &wanted, seed));
                prop_assert_eq!(next(rule, &wanted, &wanted, seed), None);
            }
        }
    }
}
