//! What a student believes about one class of a scan, and how sure it is: the only thing prompts are made from.
//!
//! There is no room for a label here, nor for anything of another scan (spec/semisam.md, E1 and E4). Probabilities and
//! logits are different types: a [`Belief`] holds probabilities, a [`super::super::Drawing`] logits.

use crate::data::{
    grid::Grid,
    resample::{ResampleError, image_onto},
    volume::Image,
};

/// Probabilities are kept this far from 0 and 1 where they become logits: ±6.9.
const CLAMP: f32 = 1e-3;

/// The probability of one class at each voxel of a scan.
#[derive(Clone, Debug)]
pub struct Belief(Image);

/// Where a belief is firm, and on which side.
#[derive(Clone, Debug, PartialEq)]
pub struct Firm {
    /// Extents.
    pub shape: [usize; 3],
    /// Firmly in the object.
    pub inside: Vec<bool>,
    /// Firmly not.
    pub outside: Vec<bool>,
}

impl Belief {
    /// Of class `class` (never 0, the background), given the softmax [classes, voxels] of a student on `grid`
    /// (spec/semisam.md, E2).
    ///
    /// # Panics
    /// If there is no such class.
    pub fn of_class(softmax: &[f32], class: usize, grid: &Grid) -> Self {
        assert!(class > 0, "the background is not what a generalist is asked for");
        let voxels = grid.count();
        let values = softmax[class * voxels..(class + 1) * voxels].to_vec();
        Self(Image { shape: grid.shape, affine: grid.affine, values })
    }

    /// Where its voxels lie.
    pub fn grid(&self) -> Grid {
        Grid::from(&self.0)
    }

    /// Of each voxel.
    pub fn probabilities(&self) -> &[f32] {
        &self.0.values
    }

    /// The likelier side at each voxel; one half is background.
    pub fn mask(&self) -> Vec<bool> {
        self.0.values.iter().map(|p| *p > 0.5).collect()
    }

    /// Where it is as likely as `confidence`, one way or the other, among the voxels that are `seen`.
    pub fn firm(&self, confidence: f32, seen: &[bool]) -> Firm {
        let values = || self.0.values.iter().zip(seen);
        Firm {
            shape: self.0.shape,
            inside: values().map(|(p, seen)| *seen && *p > 0.5 && *p >= confidence).collect(),
            outside: values().map(|(p, seen)| *seen && *p <= 0.5 && 1.0 - *p >= confidence).collect(),
        }
    }

    /// The middle of what it takes for the object, in scanner millimetres; none where it sees none.
    pub fn centre(&self) -> Option<[f64; 3]> {
        let [_, ny, nz] = self.0.shape;
        let (mut sum, mut count) = ([0.0; 3], 0.0);
        for at in (0..self.0.values.len()).filter(|at| self.0.values[*at] > 0.5) {
            sum.iter_mut().zip([at / nz / ny, at / nz % ny, at % nz]).for_each(|(sum, index)| *sum += index as f64);
            count += 1.0;
        }
        (count > 0.0).then(|| self.grid().world(sum.map(|sum| sum / count)))
    }

    /// As a mask prompt: logits on another grid with the same axes, background beyond the scan (spec/semisam.md, E8).
    ///
    /// # Errors
    /// If the axes differ.
    pub fn logits_on(&self, grid: &Grid) -> Result<Vec<f32>, ResampleError> {
        let probabilities = image_onto(&self.0, grid)?;
        let known = super::super::view::seen(&self.grid(), grid);
        Ok(probabilities.values.iter().zip(known).map(|(p, known)| logit(if known { *p } else { 0.0 })).collect())
    }
}

/// `ln p - ln(1 - p)`, clamped.
fn logit(p: f32) -> f32 {
    let p = p.clamp(CLAMP, 1.0 - CLAMP);
    p.ln() - (-p).ln_1p()
}

/// `-p ln p - (1 - p) ln(1 - p)` in nats: 0 where nothing is in doubt, ln 2 where everything is.
pub fn entropy(p: f32) -> f32 {
    let term = |p: f32| if p > 0.0 { -p * p.ln() } else { 0.0 };
    term(p) + term(1.0 - p)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn e02_the_belief_of_a_phantom_is_its_mask() {
        let grid = Grid::centred([5, 4, 3], [1.0, 2.0, 3.0]);
        let phantom: Vec<bool> = (0..60).map(|at| at % 7 < 2).collect();
        let of = |class: bool| phantom.iter().map(move |inside| if *inside == class { 0.8 } else { 0.2 });
        let softmax: Vec<f32> = of(false).chain(of(true)).collect();
        let belief = Belief::of_class(&softmax, 1, &grid);
        assert_eq!(belief.mask(), phantom);
        let firm = belief.firm(0.75, &[true; 60]);
        assert_eq!(firm.inside, phantom);
        assert!(firm.outside.iter().zip(&phantom).all(|(outside, inside)| outside != inside));
        assert!(!belief.firm(0.85, &[true; 60]).inside.contains(&true));
        assert!(!belief.firm(0.75, &[false; 60]).outside.contains(&true));
    }

    proptest! {
        #[test]
        fn e08_a_probability_survives_as_a_logit_and_keeps_its_side(p in 0.0_f32..=1.0) {
            let logit = logit(p);
            prop_assert!(logit.is_finite());
            prop_assert_eq!(logit > 0.0, p > 0.5);
            prop_assert!((1.0 / (1.0 + (-logit).exp()) - p).abs() <= CLAMP + 1e-6);
        }

        #[test]
        fn doubt_is_largest_in_the_middle(p in 0.0_f32..=1.0) {
            let found = entropy(p);
            prop_assert!((0.0..=std::f32::consts::LN_2 + 1e-6).contains(&found) && (found - entropy(1.0 - p)).abs() < 1e-6);
        }
    }

    #[test]
    fn beyond_the_scan_is_background() {
        let grid = Grid::centred([4, 4, 4], [1.0; 3]);
        let belief = Belief(Image { shape: grid.shape, affine: grid.affine, values: vec![0.9; 64] });
        let wide = Grid::centred([8, 4, 4], [1.0; 3]);
        let logits = belief.logits_on(&wide).expect("the same axes");
        let inside = |at: usize| (2..6).contains(&(at / 16));
        assert!(logits.iter().enumerate().all(|(at, logit)| (*logit > 0.0) == inside(at)));
        assert!(belief.centre().expect("an object").iter().all(|at| at.abs() < 1e-9));
    }
}
