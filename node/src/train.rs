//! Training of a student.
//!
//! In reading order: [`losses`] (what is minimised), [`step`] (one gradient), [`optimiser`], [`teacher`] and [`schedule`]
//! (what is done with it), [`trainer`] (all of it step after step, in the host's memory, [`host`], or on the device,
//! [`resident`]), [`prepare`], [`scans`] and [`crops`] (what a step sees), [`prefetch`] (made while the step before it is
//! computed), [`guidance`] (what generalists say of a scan without labels), [`patient`] (a federation's unit of work: one
//! patient as a virtual client), [`local`] (ordinary training at one hospital), [`infer`] (from scan to mask), [`rounds`]
//! (pseudo-labels between trainings), [`pretrain`] and [`subspace`] (what a consortium prepares from synthetic scans),
//! [`interactive`] with [`adam`] (the small promptable generalist, from synthetic scans too), [`reference`] (parity with the
//! published implementation).
//!
//! Every draw comes from a generator named by a seed and a purpose ([`generator`]), sums have a fixed order, and nothing is
//! kept between calls: on the CPU the same arguments give the same bits for any number of threads.

pub mod adam;
pub mod crops;
pub mod guidance;
pub mod host;
pub mod infer;
pub mod interactive;
pub mod local;
pub mod losses;
pub mod optimiser;
mod parallel;
pub mod patient;
pub mod prefetch;
pub mod prepare;
pub mod pretrain;
pub mod reference;
pub mod resident;
pub mod rounds;
pub mod scans;
pub mod schedule;
pub mod step;
pub mod subspace;
pub mod teacher;
pub mod trainer;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use self::scans::ScanError;
use crate::{generalist::GeneralistError, model::ModelError};

/// Why training cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The weights or a shape do not fit the network.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A scan.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// A generalist, or what it is shown.
    #[error(transparent)]
    Generalist(#[from] GeneralistError),
    /// A setting that makes no sense.
    #[error("the setting `{name}` is {value}, but must be {must}")]
    Setting {
        /// Which one.
        name: &'static str,
        /// What it is.
        value: String,
        /// What it must be.
        must: &'static str,
    },
    /// Nothing to train on.
    #[error("{0}")]
    NoScans(&'static str),
    /// A scan whose label map has another shape.
    #[error("image and labels differ in shape: {image:?} and {labels:?} voxels; resample them to one grid")]
    Grid {
        /// Of the image.
        image: [usize; 3],
        /// Of the label map.
        labels: [usize; 3],
    },
    /// A label that the network has no class for.
    #[error(
        "a label map has class {label}, but the student has {classes} classes with the background: use a student with more (`train --classes`), or say in `train`, `evaluate` and `predict` which value is which class (such as `--map {label}=1`; `data check` shows the values)"
    )]
    Class {
        /// The label.
        label: u8,
        /// How many classes there are.
        classes: usize,
    },
}

/// The generator of the draws for `purpose`, which may be numbered: the same numbers give the same draws.
pub fn generator(seed: u64, purpose: &str, numbers: &[u64]) -> ChaCha8Rng {
    let mut hash = Sha256::new_with_prefix(b"semisam/draws/1\0");
    hash.update(seed.to_le_bytes());
    hash.update(purpose.as_bytes());
    for number in numbers {
        hash.update([0]);
        hash.update(number.to_le_bytes());
    }
    ChaCha8Rng::from_seed(hash.finalize().into())
}

/// A draw from N(0, 1) (Box and Muller).
pub fn normal(random: &mut impl Rng) -> f32 {
    let radius = (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
    (radius * (std::f64::consts::TAU * random.random::<f64>()).cos()) as f32
}
