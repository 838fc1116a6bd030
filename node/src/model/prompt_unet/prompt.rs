//! Prompts as maps that a network reads beside an image: where points lie, and what is known of the mask.
//!
//! A point is a Gaussian of one at its voxel and two voxels wide; several of a sign join by their maximum, so that their
//! order does not matter and a repeated point says nothing new. A mask comes as logits and is drawn as `2 p - 1`: zero
//! where nothing is known, so that no mask is the same as one that leaves everything open.

use super::layout::PROMPT_MAPS;
use crate::model::sam::{Click, Sign};

/// Standard deviation of a point's Gaussian, in voxels.
const WIDTH: f32 = 2.0;

/// How far a point is drawn, in voxels: three deviations.
const REACH: f32 = 6.0;

/// Probabilities closer to 0 or 1 than this say no more as a prompt: their logits would be without bound.
const CLOSEST: f32 = 1e-4;

/// What is asked of a network about an image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompts {
    /// Points, in any order.
    pub clicks: Vec<Click>,
    /// Logits of a mask, one for each voxel of the image: an earlier answer, or what a student thinks.
    pub mask: Option<Vec<f32>>,
}

/// Why prompts cannot be drawn.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PromptError {
    /// A point beyond the image.
    #[error("a point at voxel {at:?} lies outside the image of {shape:?} voxels")]
    Outside {
        /// Where it is.
        at: [f32; 3],
        /// The image.
        shape: [usize; 3],
    },
    /// A mask of another size.
    #[error("the mask prompt has {found} voxels, but the image {expected}; bring it to the image's grid")]
    Size {
        /// Of the mask.
        found: usize,
        /// Of the image.
        expected: usize,
    },
    /// A mask that says nothing.
    #[error("the mask prompt holds a value that is no number")]
    NotANumber,
}

impl Prompts {
    /// The maps of these prompts about an image of `shape`, [3, voxels]: points in the object, points outside, mask.
    ///
    /// # Errors
    /// If a point lies outside, or the mask does not fit.
    pub fn maps(&self, shape: [usize; 3]) -> Result<Vec<f32>, PromptError> {
        let voxels: usize = shape.iter().product();
        let mut maps = vec![0.0; PROMPT_MAPS * voxels];
        for click in &self.clicks {
            let map = match click.sign {
                Sign::Foreground => 0,
                Sign::Background => 1,
                Sign::NoPoint => continue,
            };
            let inside = (0..3).all(|axis| (-0.5..=shape[axis] as f32 - 0.5).contains(&click.at[axis]));
            if !inside {
                return Err(PromptError::Outside { at: click.at, shape });
            }
            draw(&mut maps[map * voxels..][..voxels], shape, click.at);
        }
        if let Some(mask) = &self.mask {
            if mask.len() != voxels {
                return Err(PromptError::Size { found: mask.len(), expected: voxels });
            }
            if mask.iter().any(|logit| logit.is_nan()) {
                return Err(PromptError::NotANumber);
            }
            maps[2 * voxels..].iter_mut().zip(mask).for_each(|(map, logit)| *map = libm::tanhf(logit / 2.0));
        }
        Ok(maps)
    }
}

/// The logit of a probability, bounded.
pub fn logit(probability: f32) -> f32 {
    let p = probability.clamp(CLOSEST, 1.0 - CLOSEST);
    libm::logf(p / (1.0 - p))
}

/// Raises `map` to the Gaussian about `at`.
fn draw(map: &mut [f32], shape: [usize; 3], at: [f32; 3]) {
    let range = |axis: usize| {
        let low = (at[axis] - REACH).ceil().max(0.0) as usize;
        let high = ((at[axis] + REACH).floor() + 1.0).min(shape[axis] as f32) as usize;
        low..high
    };
    let squared = |axis: usize, index: usize| (index as f32 - at[axis]).powi(2);
    for i in range(0) {
        for j in range(1) {
            let across = squared(0, i) + squared(1, j);
            for k in range(2) {
                let distance = across + squared(2, k);
                if distance <= REACH * REACH {
                    let value = &mut map[(i * shape[1] + j) * shape[2] + k];
                    *value = value.max(libm::expf(-distance / (2.0 * WIDTH * WIDTH)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHAPE: [usize; 3] = [9, 7, 12];

    fn click(at: [f32; 3], inside: bool) -> Click {
        Click { at, sign: if inside { Sign::Foreground } else { Sign::Background } }
    }

    fn clicks() -> impl Strategy<Value = Vec<Click>> {
        let one = (0.0..8.0_f32, 0.0..6.0_f32, 0.0..11.0_f32, any::<bool>());
        prop::collection::vec(one.prop_map(|(i, j, k, inside)| click([i, j, k], inside)), 0..8)
    }

    proptest! {
        #[test]
        fn order_and_repetition_of_points_say_nothing(clicks in clicks(), by in 0_usize..8) {
            let maps = |clicks: Vec<Click>| Prompts { clicks, mask: None }.maps(SHAPE).expect("inside");
            let mut other = clicks.clone();
            other.rotate_left(by % clicks.len().max(1));
            other.extend(clicks.first().copied());
            other.push(Click { at: [99.0; 3], sign: Sign::NoPoint });
            prop_assert_eq!(maps(clicks), maps(other));
        }

        #[test]
        fn a_probability_is_drawn_as_itself(p in 0.001_f32..0.999) {
            let prompts = Prompts { clicks: Vec::new(), mask: Some(vec![logit(p); 756]) };
            let maps = prompts.maps(SHAPE).expect("its size");
            prop_assert!(maps[..2 * 756].iter().all(|v| *v == 0.0));
            prop_assert!(maps[2 * 756..].iter().all(|v| (v - (2.0 * p - 1.0)).abs() < 1e-5));
        }
    }

    #[test]
    fn a_point_is_one_at_its_voxel_and_fades() {
        let prompts = Prompts { clicks: vec![click([4.0, 3.0, 5.0], true), click([0.0; 3], false)], mask: None };
        let maps = prompts.maps(SHAPE).expect("inside");
        let at = |map: usize, i: usize, j: usize, k: usize| maps[map * 756 + (i * 7 + j) * 12 + k];
        assert_eq!((at(0, 4, 3, 5), at(1, 0, 0, 0), at(0, 0, 0, 0)), (1.0, 1.0, (-50.0_f32 / 8.0).exp() * 0.0));
        assert!((at(0, 4, 3, 7) - (-0.5_f32).exp()).abs() < 1e-6);
        assert_eq!(at(0, 4, 3, 11), (-4.5_f32).exp());
        assert!(maps[2 * 756..].iter().all(|v| *v == 0.0), "no mask says nothing");
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let error = |prompts: Prompts| prompts.maps(SHAPE).expect_err("does not fit").to_string();
        let outside = Prompts { clicks: vec![click([4.0, 6.6, 5.0], true)], mask: None };
        assert!(error(outside).contains("[4.0, 6.6, 5.0]"));
        let nowhere = Prompts { clicks: vec![click([f32::NAN, 1.0, 1.0], true)], mask: None };
        assert!(error(nowhere).contains("outside"));
        assert!(error(Prompts { clicks: Vec::new(), mask: Some(vec![0.0; 5]) }).contains("5 voxels"));
        let mut mask = vec![f32::INFINITY; 756];
        assert_eq!(
            Prompts { mask: Some(mask.clone()), ..Prompts::default() }.maps(SHAPE).expect("bounded")[2 * 756],
            1.0
        );
        mask[9] = f32::NAN;
        assert!(error(Prompts { clicks: Vec::new(), mask: Some(mask) }).contains("no number"));
    }
}
