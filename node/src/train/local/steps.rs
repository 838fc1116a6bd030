//! What each step of a local run sees: which scans, which crops, which targets, which factors.
//!
//! A step is a function of the run, its number and the scans: everything drawn comes from generators named by the seed and
//! the number, so steps can be made ahead, or again, and are the same bits.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{LocalRun, Method};
use crate::train::{
    TrainError,
    crops::{Crop, perturb},
    generator,
    losses::{Targets, TermWeights},
    scans::ScanSet,
    schedule::{decay, ramp},
    step::Batch,
    trainer::{Question, Step},
};

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
struct Draw {
    /// The scan's position in the set.
    scan: usize,
    /// Places and varies the crop; a clone does the same to another volume on the scan's grid.
    random: ChaCha8Rng,
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
        let guided = run.method == Method::MeanTeacher;
        let mut crops = self.crops(&self.labelled, number)?;
        if guided {
            crops.extend(self.crops(&self.unlabelled, number)?);
        }
        let images = crops.iter().flat_map(|crop| crop.image.iter().copied()).collect();
        let batch = Batch { images, samples: crops.len(), patch: run.patch };
        let labels = crops.into_iter().map(|crop| crop.labels).collect();
        let question = guided.then(|| {
            let mut noisy = batch.clone();
            perturb(&mut noisy.images, run.noise, &mut generator(run.seed, "teacher noise", &[number]));
            let dropout = run.dropout.then(|| run.seed ^ (2 * number));
            Question { batch: noisy, dropout, confidence: None, doubt: None }
        });
        let teacher = run.consistency_weight * ramp(number, run.steps);
        Ok(Step {
            batch,
            targets: Targets { labels, ..Targets::default() },
            question,
            terms: TermWeights { teacher, ..TermWeights::default() },
            dropout: run.dropout.then(|| run.seed ^ (2 * number + 1)),
            learning_rate: run.learning_rate * decay(number, run.steps),
            average: Some(number),
        })
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
            Draw { scan: self.scans[order[position as usize]], random }
        })
    }
}
