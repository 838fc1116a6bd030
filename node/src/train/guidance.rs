//! How generalists guide a student on a scan without labels: from the teacher's own map of the scan to a target for it.
//!
//! The teacher's map of one class prompts every generalist with every set of prompts ([`crate::generalist::prompter`]).
//! Answers that disagree with everything that the teacher believes are left out. Where the others do not agree with each other,
//! nobody knows the object, and the scan goes without. Else they are averaged with the teacher's map: a generalist harms a
//! good student, and the average helps (spec/semisam.md, section 13). How much they count against the teacher is decided scan
//! by scan: answers that agree with each other and not with the teacher are right more often than it is, and the better
//! the teacher, the more they agree with it (ARCHITECTURE.md). A student that they agree with is left to its labels. Where the averaged opinions differ or doubt, the
//! target counts less (section 6.3).
//!
//! A map is of a whole scan, so that the generalist sees what a crop does not show; steps cut their crops from it
//! ([`Maps::opinion`]). It is a function of the teacher, the scan and a seed: of no other scan and no label (E1, E4).

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{TrainError, crops::crop_beside, generator, losses::Opinion};
use crate::{
    data::{grid::Grid, volume::Volume},
    generalist::{
        Generalist, GeneralistError,
        prompter::{
            Answer, Kind, Prompting, ask,
            belief::{Belief, entropy},
            overlap,
        },
        store::{Source, Store},
        view::ViewError,
    },
};

/// What a target counts, voxel by voxel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Trust {
    /// The same everywhere.
    Full,
    /// `exp(-U)`, U the entropy of the averaged map in nats.
    Entropy,
    /// `exp(-U)`, U the variance of the maps that were averaged.
    Variance,
}

/// The settings of guidance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guidance {
    /// The sets of prompts that each generalist gets.
    pub sets: Vec<Kind>,
    /// How prompts are made.
    pub prompting: Prompting,
    /// Mean Dice between any two answers about an object below which none of them is believed.
    pub consensus: f64,
    /// Share of the generalists in the averaged map, at least; the rest is the teacher's own.
    pub share: f64,
    /// Dice between their mask and the teacher's below which they have more than their share, and from [`YIELDING`] less all
    /// of it; 0 leaves the share as it is.
    pub deference: f64,
    /// Dice with the teacher's mask below which an answer is left out.
    pub agreement: f64,
    /// What a target counts.
    pub trust: Trust,
    /// A scan's map is made anew each time that it was drawn so many times.
    pub every: u64,
    /// Factor of the term where they contradict the teacher, in a long run once its first half is done; where they agree with it,
    /// [`AGREED`] of that.
    pub weight: f64,
}

/// How much less agreement than [`Guidance::deference`] makes a teacher give way altogether.
const YIELDING: f64 = 0.15;

/// What is left of [`Guidance::weight`] in a scan whose teacher needs no help.
const AGREED: f64 = 0.1;

impl Guidance {
    /// The same trust everywhere: SemiSAM.
    pub fn semisam() -> Self {
        Self {
            sets: vec![Kind::Mask, Kind::Point, Kind::Both],
            prompting: Prompting::default(),
            consensus: 0.75,
            share: 0.3,
            deference: 0.95,
            agreement: 0.3,
            trust: Trust::Full,
            every: 6,
            weight: 10.0,
        }
    }

    /// Trusted voxel by voxel, as far as nothing is in doubt: SemiSAM+.
    pub fn semisam_plus() -> Self {
        Self { trust: Trust::Entropy, ..Self::semisam() }
    }

    /// The average of `answers` and the belief that led to them: of those that agree with something of it. None if there is
    /// none, or if they do not agree with each other.
    pub fn average(&self, mut answers: Vec<Answer>, belief: &Belief) -> Option<Average> {
        answers.retain(|answer| answer.agreement(belief) >= self.agreement);
        let consensus = consensus(&answers);
        if answers.is_empty() || consensus < self.consensus {
            return None;
        }
        let together = Together::of(&answers);
        let doubted = self.doubted(together.agreement(belief));
        let [share, weight] = [self.share, AGREED].map(|least| least + (1.0 - least) * doubted);
        Some(Average { map: together.map(belief, share, self.trust), consensus, share, weight })
    }

    /// How far a teacher gives way whose mask has this Dice with the generalists': 0 is not at all, 1 altogether.
    fn doubted(&self, agreement: f64) -> f64 {
        ((self.deference - agreement) / YIELDING).clamp(0.0, 1.0)
    }

    /// Refuses settings that make no sense.
    ///
    /// # Errors
    /// Names the first one that is out of range.
    pub fn check(&self) -> Result<(), TrainError> {
        let share = "a number from 0 to 1";
        let rules = [
            ("consensus", self.consensus, (0.0..=1.0).contains(&self.consensus), share),
            ("generalist share", self.share, (0.0..=1.0).contains(&self.share), share),
            ("deference", self.deference, (0.0..=1.0).contains(&self.deference), share),
            ("agreement", self.agreement, (0.0..=1.0).contains(&self.agreement), share),
            (
                "prompt confidence",
                f64::from(self.prompting.confidence),
                (0.5..=1.0).contains(&self.prompting.confidence),
                "from 0.5 to 1",
            ),
            ("refresh", self.every as f64, self.every > 0, "at least 1"),
            ("generalist weight", self.weight, self.weight >= 0.0 && self.weight.is_finite(), "at least 0"),
            ("prompts", self.sets.len() as f64, !self.sets.is_empty(), "at least one set"),
        ];
        match rules.into_iter().find(|(_, _, holds, _)| !holds) {
            Some((name, value, _, must)) => Err(TrainError::Setting { name, value: value.to_string(), must }),
            None => Ok(()),
        }
    }
}

/// Frozen networks, what they have seen already, and how they are asked.
#[derive(Clone, Copy, Debug)]
pub struct Guides<'a> {
    /// At least one.
    pub generalists: &'a [Generalist],
    /// Their embeddings.
    pub store: &'a Store,
    /// How they are asked.
    pub how: &'a Guidance,
}

/// The target of a whole scan.
#[derive(Clone, Debug, PartialEq)]
pub struct Maps {
    /// For each class but the background its probability and what that counts, in 255ths.
    classes: Vec<Volume<[u8; 2]>>,
    /// Share of the term's factor that the scan gets.
    weight: f32,
}

/// What came of asking about a scan.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// The teacher is sure of too little for anybody to be asked.
    Unasked,
    /// Nobody had anything to say that can be believed.
    Nothing,
    /// A target.
    Target(Maps),
}

/// What answers about an object make of it, with what the teacher believes.
#[derive(Clone, Debug, PartialEq)]
pub struct Average {
    /// Of each voxel its probability and what that counts, in 255ths.
    pub map: Vec<[u8; 2]>,
    /// The mean Dice between any two answers.
    pub consensus: f64,
    /// What the answers weigh in the map.
    pub share: f64,
    /// Share of the term's factor.
    pub weight: f64,
}

/// How many answers saw a voxel, and the sums of their probabilities there and of the squares of these.
struct Together(Vec<[f64; 3]>);

/// A method that asks generalists was given none.
pub fn nobody_to_ask() -> TrainError {
    let must = "`small-generalist` or `left-atrium-generalist`, which come with the program, the file of a SAM-Med3D, or what `sam pretrain` wrote: \
                this method asks one";
    TrainError::Setting { name: "generalist", value: "none".to_owned(), must }
}

impl<'a> Guides<'a> {
    /// Those that a run needs; none where nothing is to be asked.
    ///
    /// # Errors
    /// If a setting makes no sense, or there is nobody to ask.
    pub fn needed(
        how: Option<&'a Guidance>,
        generalists: &'a [Generalist],
        store: &'a Store,
    ) -> Result<Option<Self>, TrainError> {
        let Some(how) = how else { return Ok(None) };
        how.check()?;
        if generalists.is_empty() {
            return Err(nobody_to_ask());
        }
        Ok(Some(Self { generalists, store, how }))
    }

    /// The target of a scan, given the teacher's `softmax` [classes, voxels] on the scan's grid at the student's spacing, and
    /// where the generalists can see it; draws are named by `seed` and `number`.
    ///
    /// # Errors
    /// If the scan cannot be shown to a generalist.
    pub fn maps(
        &self,
        softmax: &[f32],
        grid: &Grid,
        source: &Source,
        (seed, number): (u64, u64),
    ) -> Result<Told, TrainError> {
        let classes = softmax.len() / grid.count();
        let (mut maps, mut weight) = (Vec::<Vec<[u8; 2]>>::with_capacity(classes - 1), 0.0_f64);
        let mut asked = false;
        for class in 1..classes {
            let belief = Belief::of_class(softmax, class, grid);
            let random = |guide: usize, set: usize| {
                generator(seed, "prompts", &[source.number(), number, class as u64, guide as u64, set as u64])
            };
            let answers = self.ask_all(&belief, source, random)?;
            asked |= !answers.is_empty();
            let average = self.how.average(answers, &belief);
            weight = weight.max(average.as_ref().map_or(0.0, |average| average.weight));
            maps.push(match average {
                Some(average) => average.map,
                None => vec![[0; 2]; grid.count()],
            });
        }
        let classes = maps.into_iter().map(|map| (grid.shape, map)).collect();
        Ok(match (asked, weight > 0.0) {
            (false, _) => Told::Unasked,
            (true, false) => Told::Nothing,
            (true, true) => Told::Target(Maps::of(classes, weight as f32)),
        })
    }

    /// All answers about an object; none where there is nothing to ask.
    fn ask_all(
        &self,
        belief: &Belief,
        source: &Source,
        random: impl Fn(usize, usize) -> ChaCha8Rng,
    ) -> Result<Vec<Answer>, TrainError> {
        let mut answers = Vec::new();
        let Some(centre) = belief.centre() else { return Ok(answers) };
        for (guide, generalist) in self.generalists.iter().enumerate() {
            let embedding = match self.store.embedding(generalist, source, centre) {
                // a scan that shows nothing there is nothing to be asked about
                Err(GeneralistError::View(ViewError::Flat { .. })) => continue,
                embedding => embedding?,
            };
            for (set, kind) in self.how.sets.iter().enumerate() {
                let how = (*kind, &self.how.prompting);
                answers.extend(ask(generalist, &embedding, belief, how, &mut random(guide, set))?);
            }
        }
        Ok(answers)
    }
}

/// The mean Dice between any two answers; 1 of one alone.
fn consensus(answers: &[Answer]) -> f64 {
    let masks: Vec<Vec<bool>> = answers.iter().map(Answer::mask).collect();
    let pairs = masks.iter().enumerate().flat_map(|(at, first)| masks[..at].iter().map(move |second| (first, second)));
    let (sum, count) = pairs.fold((0.0, 0.0), |(sum, count), (a, b)| {
        (sum + overlap(a.iter().copied().zip(b.iter().copied())), count + 1.0)
    });
    if count == 0.0 { 1.0 } else { sum / count }
}

impl Together {
    fn of(answers: &[Answer]) -> Self {
        let mut sums = vec![[0.0; 3]; answers.first().map_or(0, |answer| answer.logits.len())];
        for answer in answers {
            let voxels = answer.logits.iter().zip(&answer.seen);
            for (sums, (logit, _)) in sums.iter_mut().zip(voxels).filter(|(_, (_, seen))| **seen) {
                let p = 1.0 / (1.0 + (-f64::from(*logit)).exp());
                sums.iter_mut().zip([1.0, p, p * p]).for_each(|(sum, value)| *sum += value);
            }
        }
        Self(sums)
    }

    /// Dice of the averaged mask and the belief's, where anybody saw anything.
    fn agreement(&self, belief: &Belief) -> f64 {
        let voxels = self.0.iter().zip(belief.mask());
        overlap(voxels.filter(|([count, ..], _)| *count > 0.0).map(|([count, sum, _], own)| (sum / count > 0.5, own)))
    }

    /// The answers, of which all together weigh `share`, with the belief, which weighs the rest and, where nobody saw
    /// anything, everything.
    fn map(&self, belief: &Belief, share: f64, trust: Trust) -> Vec<[u8; 2]> {
        let of_voxel = |([count, sum, squares], own): (&[f64; 3], &f32)| {
            let own = f64::from(*own);
            let (share, count) = if *count > 0.0 { (share, *count) } else { (0.0, 1.0) };
            let mean = share * sum / count + (1.0 - share) * own;
            let variance = share * squares / count + (1.0 - share) * own * own - mean * mean;
            let doubt = match trust {
                Trust::Full => 0.0,
                Trust::Entropy => f64::from(entropy(mean as f32)),
                Trust::Variance => variance.max(0.0),
            };
            [mean, (-doubt).exp()].map(|value| (255.0 * value).round() as u8)
        };
        self.0.iter().zip(belief.probabilities()).map(of_voxel).collect()
    }
}

/// Maps have the grid of their scan and need no place of their own.
const NOWHERE: [[f64; 4]; 4] = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];

impl Told {
    /// The target, if there is one.
    pub fn target(self) -> Option<Maps> {
        match self {
            Self::Target(maps) => Some(maps),
            Self::Unasked | Self::Nothing => None,
        }
    }
}

impl Maps {
    /// Of the extents and voxels of each class but the background, and the scan's share of the term's factor.
    pub(super) fn of(parts: Vec<([usize; 3], Vec<[u8; 2]>)>, weight: f32) -> Self {
        let classes = parts.into_iter().map(|(shape, values)| Volume { shape, affine: NOWHERE, values }).collect();
        Self { classes, weight }
    }

    /// Share of the term's factor that the scan gets: the largest of its classes.
    pub fn weight(&self) -> f32 {
        self.weight
    }

    /// Extents and voxels of each class but the background.
    pub(super) fn parts(&self) -> impl Iterator<Item = ([usize; 3], Vec<[u8; 2]>)> {
        self.classes.iter().map(|map| (map.shape, map.values.clone()))
    }

    /// The target of the crop that the same draws cut of the scan.
    pub fn opinion(&self, patch: [usize; 3], varied: bool, random: &ChaCha8Rng) -> Opinion {
        let cut = |map: &Volume<[u8; 2]>| crop_beside(map, patch, varied, &mut random.clone()).values;
        let pieces: Vec<[u8; 2]> = self.classes.iter().flat_map(cut).collect();
        let part = |part: usize| pieces.iter().map(|voxel| f32::from(voxel[part]) / 255.0).collect();
        Opinion { probability: part(0), confidence: part(1) }
    }
}

/// The mean weight of the maps of a batch; all of the factor where there is none, since it multiplies nothing.
pub(super) fn mean_weight(weights: impl Iterator<Item = f32>) -> f64 {
    let (sum, count) = weights.fold((0.0, 0.0), |(sum, count), weight| (sum + f64::from(weight), count + 1.0));
    if count == 0.0 { 1.0 } else { sum / count }
}

#[cfg(test)]
mod tests;
