//! What a training step asks of a promptable network: a volume, one of its objects, and prompts as a person or a student
//! would give them.

use rand::{Rng, seq::IndexedRandom, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::corruption::corrupted;
use crate::{
    data::click::Rule,
    model::{
        prompt_unet::prompt::Prompts,
        sam::{Click, Sign},
    },
    train::crops::Crop,
};

/// Objects of fewer voxels are too small to be asked for.
const LEAST: usize = 24;

/// Share of examples whose object is several classes together, where there are several.
const UNION: f64 = 0.2;

/// A volume and the object in it.
#[derive(Clone, PartialEq)]
pub struct Example {
    /// Normalised intensities, [x, y, z].
    pub image: Vec<f32>,
    /// Extents, multiples of 8.
    pub shape: [usize; 3],
    /// Which voxels are the object's.
    pub object: Vec<bool>,
    /// Which voxels are another labelled object's.
    pub others: Vec<bool>,
}

impl Example {
    /// One of the classes of a labelled crop, or several together; none where nothing large enough is labelled.
    pub fn of(crop: Crop, shape: [usize; 3], random: &mut ChaCha8Rng) -> Option<Self> {
        let labels = crop.labels?;
        let mut counts = [0_usize; 256];
        labels.iter().for_each(|label| counts[usize::from(*label)] += 1);
        let mut classes: Vec<u8> = (1..=u8::MAX).filter(|class| counts[usize::from(*class)] >= LEAST).collect();
        let wanted =
            if classes.len() > 1 && random.random_bool(UNION) { random.random_range(2..=classes.len()) } else { 1 };
        classes.shuffle(random);
        classes.truncate(wanted);
        if classes.is_empty() {
            return None;
        }
        let object: Vec<bool> = labels.iter().map(|label| classes.contains(label)).collect();
        let others = labels.iter().zip(&object).map(|(label, inside)| *label > 0 && !inside).collect();
        Some(Self { image: crop.image, shape, object, others })
    }

    /// The first prompts: points on the object, points that a student would give, a student's map, or map and points.
    pub fn first_prompts(&self, random: &mut ChaCha8Rng) -> Prompts {
        let kind = random.random_range(0..100);
        let mut prompts = Prompts::default();
        if kind >= 45 {
            let map = corrupted(&self.object, &self.others, self.shape, random);
            let believed: Vec<bool> = map.iter().map(|logit| *logit > 0.0).collect();
            if kind < 60 {
                self.points(&believed, &mut prompts, random);
            } else {
                prompts.mask = Some(map);
                if kind >= 80 {
                    self.correct(&believed, &mut prompts, random);
                }
            }
        } else {
            self.correct(&vec![false; self.object.len()], &mut prompts, random);
            if random.random_bool(0.3) {
                self.outside(&self.object, &mut prompts, random);
            }
        }
        prompts
    }

    /// Adds a click, or a few, where `mask` is wrong.
    pub fn correct(&self, mask: &[bool], prompts: &mut Prompts, random: &mut ChaCha8Rng) {
        let rule = *[Rule::Ritm, Rule::Ritm, Rule::Uniform].choose(random).expect("three");
        let clicks = *[1, 1, 1, 2, 3].choose(random).expect("five");
        for number in 0..clicks {
            // further clicks of a round are anywhere in the error: they are given at once, not one after another
            let rule = if number == 0 { rule } else { Rule::Uniform };
            prompts
                .clicks
                .extend(rule.correct(mask, &self.object, self.shape, random).map(|choice| click(choice, self.shape)));
        }
    }

    /// Points as a student gives them: in what it believes to be the object, and a few outside.
    fn points(&self, believed: &[bool], prompts: &mut Prompts, random: &mut ChaCha8Rng) {
        let nothing = vec![false; believed.len()];
        for _ in 0..random.random_range(1..=5) {
            prompts.clicks.extend(
                Rule::Uniform.correct(&nothing, believed, self.shape, random).map(|choice| click(choice, self.shape)),
            );
        }
        for _ in 0..random.random_range(0..=3) {
            self.outside(believed, prompts, random);
        }
    }

    /// A point outside `mask`.
    fn outside(&self, mask: &[bool], prompts: &mut Prompts, random: &mut ChaCha8Rng) {
        let all = vec![true; mask.len()];
        prompts
            .clicks
            .extend(Rule::Uniform.correct(&all, mask, self.shape, random).map(|choice| click(choice, self.shape)));
    }
}

/// A choice of a voxel as a click.
pub(super) fn click((at, inside): (usize, bool), [_, ny, nz]: [usize; 3]) -> Click {
    let sign = if inside { Sign::Foreground } else { Sign::Background };
    Click { at: [at / nz / ny, at / nz % ny, at % nz].map(|index| index as f32), sign }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::generator;

    const SHAPE: [usize; 3] = [16, 16, 8];

    fn crop() -> Crop {
        let labels: Vec<u8> = (0..2048).map(|at| [0, 3, 7, 7][at / 512]).collect();
        Crop { image: vec![0.0; 2048], labels: Some(labels) }
    }

    #[test]
    fn objects_are_classes_and_what_else_is_labelled_is_known() {
        let mut sizes = [0; 3];
        for seed in 0..60 {
            let example = Example::of(crop(), SHAPE, &mut generator(seed, "object", &[])).expect("there are objects");
            let count = example.object.iter().filter(|inside| **inside).count();
            sizes[[512, 1024, 1536].iter().position(|size| *size == count).expect("whole classes")] += 1;
            assert_eq!(example.others.iter().filter(|other| **other).count(), 1536 - count);
        }
        assert!(sizes.iter().all(|times| *times > 2), "{sizes:?}");
        let nothing = Crop { labels: Some(vec![0; 2048]), ..crop() };
        assert!(Example::of(nothing, SHAPE, &mut generator(1, "object", &[])).is_none());
        assert!(Example::of(Crop { labels: None, ..crop() }, SHAPE, &mut generator(1, "object", &[])).is_none());
    }

    #[test]
    fn prompts_are_of_every_kind_and_corrections_tell_the_truth() {
        let example = Example::of(crop(), SHAPE, &mut generator(5, "object", &[])).expect("there are objects");
        let (mut masks, mut points, mut both) = (0, 0, 0);
        for seed in 0..200 {
            let prompts = example.first_prompts(&mut generator(seed, "prompts", &[]));
            assert_eq!(prompts, example.first_prompts(&mut generator(seed, "prompts", &[])));
            assert!(prompts.maps(SHAPE).is_ok());
            match (prompts.mask.is_some(), prompts.clicks.is_empty()) {
                (true, true) => masks += 1,
                (false, false) => points += 1,
                (true, false) => both += 1,
                (false, true) => {}
            }
        }
        assert!(masks > 20 && points > 80 && both > 20, "{masks} {points} {both}");
        let mut prompts = Prompts::default();
        example.correct(&vec![true; 2048], &mut prompts, &mut generator(1, "correct", &[]));
        assert!(!prompts.clicks.is_empty() && prompts.clicks.iter().all(|click| click.sign == Sign::Background));
        let mut exact = Prompts::default();
        example.correct(&example.object, &mut exact, &mut generator(1, "correct", &[]));
        assert_eq!(exact, Prompts::default());
    }
}
