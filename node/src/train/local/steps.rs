//! What each step of a local run sees: which scans, which crops, which targets, which factors.
//!
//! A step is a function of the run, its number and the scans: everything drawn comes from generators named by the seed and
//! the number, so steps can be made ahead, or again, and are the same bits.

use rand::{Rng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::LocalRun;
use crate::train::{
    TrainError,
    crops::{Crop, perturb},
    generator,
    losses::{Targets, TermWeights},
    scans::ScanSet,
    schedule::{decay, early_ramp, ramp},
    step::Batch,
    trainer::{Doubt, Question, Step},
};

/// How often a teacher looks before it is said to be certain (UA-MT).
const LOOKS: u64 = 8;

/// Makes the steps of a run.
pub(super) struct Steps<'a> {
    run: &'a LocalRun,
    scans: &'a ScanSet,
    labelled: Stream,
    unlabelled: Stream,
}

/// Scans that crops are drawn from: shuffled anew each time all of them were drawn.
struct Stream {
    /// Names the draws.
    name: &'static str,
    /// Positions in the set.
    scans: Vec<usize>,
    /// Crops of each step.
    per_step: u64,
}

/// A crop that is to be cut.
pub(super) struct Draw {
    /// The scan's position in the set.
    pub(super) scan: usize,
    /// How often the scan was drawn before.
    pub(super) before: u64,
    /// Places and varies the crop; a clone does the same to another volume on the scan's grid.
    pub(super) random: ChaCha8Rng,
}

impl<'a> Steps<'a> {
    pub(super) fn new(run: &'a LocalRun, scans: &'a ScanSet) -> Self {
        let stream = |name, labelled, per_step: usize| Stream {
            name,
            scans: scans.positions(labelled),
            per_step: per_step as u64,
        };
        Self {
            run,
            scans,
            labelled: stream("labelled", true, run.labelled),
            unlabelled: stream("unlabelled", false, run.unlabelled),
        }
    }

    /// The step of a number, counted from 0: labelled crops first, then unlabelled ones, and the same with noise for the
    /// teacher.
    ///
    /// # Errors
    /// If a scan cannot be had.
    pub(super) fn step(&self, number: u64) -> Result<Step, TrainError> {
        let run = self.run;
        let taught = run.method.has_teacher();
        let mut crops = self.crops(&self.labelled, number)?;
        if taught {
            crops.extend(self.crops(&self.unlabelled, number)?);
        }
        let images = crops.iter().flat_map(|crop| crop.image.iter().copied()).collect();
        let batch = Batch { images, samples: crops.len(), patch: run.patch };
        let labels = crops.into_iter().map(|crop| crop.labels).collect();
        let question = taught.then(|| {
            let noisy = self.noisy(&batch, generator(run.seed, "teacher noise", &[number]));
            let dropout = run.dropout.then(|| run.seed ^ (2 * number));
            let doubt = run.method.counts_certainty().then(|| self.doubt(&batch, number));
            Question { batch: noisy, dropout, confidence: None, doubt }
        });
        // pseudo-labels count more and more until three tenths of a round are done (spec/semisam.md, 7.1)
        let pseudo = run.round.map_or(0.0, |_| (number as f64 / (0.3 * run.steps as f64)).min(1.0));
        let generalist = run.guidance.as_ref().map_or(0.0, |how| how.weight * early_ramp(number, run.steps));
        let teacher = run.consistency_weight * ramp(number, run.steps);
        Ok(Step {
            batch,
            targets: Targets { labels, ..Targets::default() },
            question,
            terms: TermWeights { teacher, generalist, pseudo },
            dropout: run.dropout.then(|| run.seed ^ (2 * number + 1)),
            learning_rate: run.learning_rate * decay(number, run.steps),
            average: Some(number),
        })
    }

    /// Where the crops of unlabelled scans in a step are cut; none without a teacher.
    pub(super) fn unlabelled(&self, number: u64) -> impl Iterator<Item = Draw> + '_ {
        let draws = self.unlabelled.draws(self.run.seed, number);
        draws.filter(|_| self.run.method.has_teacher())
    }

    fn noisy(&self, batch: &Batch, mut random: ChaCha8Rng) -> Batch {
        let mut noisy = batch.clone();
        perturb(&mut noisy.images, self.run.noise, &mut random);
        noisy
    }

    /// How UA-MT tells where the teacher is certain: the more steps are done, the less is asked (spec/semisam.md, 6.2).
    fn doubt(&self, batch: &Batch, number: u64) -> Doubt {
        let run = self.run;
        let look = |look: u64| {
            let noisy = self.noisy(batch, generator(run.seed, "teacher looks", &[number, look]));
            let dropout = run.dropout.then(|| generator(run.seed, "dropout of looks", &[number, look]).random());
            (noisy, dropout)
        };
        let most = (0.75 + 0.25 * ramp(number, run.steps)) * (run.config.classes as f64).ln();
        Doubt { looks: (0..LOOKS).map(look).collect(), most }
    }

    /// The crops of a stream in a step; none of a stream without scans.
    fn crops(&self, stream: &Stream, number: u64) -> Result<Vec<Crop>, TrainError> {
        let cut =
            |mut draw: Draw| Ok(self.scans.get(draw.scan)?.crop(self.run.patch, self.run.augment, &mut draw.random));
        stream.draws(self.run.seed, number).map(cut).collect()
    }
}

impl Stream {
    fn draws(&self, seed: u64, number: u64) -> impl Iterator<Item = Draw> + '_ {
        let first = number * self.per_step;
        let count = if self.scans.is_empty() { 0 } else { self.per_step };
        (first..first + count).map(move |at| {
            let (epoch, position) = (at / self.scans.len() as u64, at % self.scans.len() as u64);
            let mut order: Vec<usize> = (0..self.scans.len()).collect();
            order.shuffle(&mut generator(seed, self.name, &[epoch]));
            let random = generator(seed, self.name, &[epoch, position, 0]);
            Draw { scan: self.scans[order[position as usize]], before: epoch, random }
        })
    }
}
