//! What is measured: which hospitals, who of them is labelled, and what they do together.

use std::fmt;

use semisam_shared::ids::Digest;
use serde::{Deserialize, Serialize};

/// What hospitals do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arm {
    /// Each trains for itself.
    Alone,
    /// They federate without clipping and noise.
    Plain,
    /// They federate as the plan says, with the noise that this epsilon (add/remove) demands.
    Private(f64),
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alone => f.write_str("alone"),
            Self::Plain => f.write_str("plain"),
            Self::Private(epsilon) => write!(f, "epsilon-{epsilon}"),
        }
    }
}

/// What each hospital does for itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Optimiser steps.
    pub steps: u64,
    /// First step size.
    pub learning_rate: f64,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Of {
    /// What names scans, plan, model and basis.
    pub settings: Digest,
    /// Hospitals.
    pub hospitals: u32,
    /// Labelled patients of each.
    pub labelled: usize,
    /// What they do.
    pub arm: Arm,
    /// What each hospital does for itself: from the start if it is alone, else from the common model; none is that model.
    pub training: Option<Training>,
    /// Names dealing and training, never noise.
    pub seed: u64,
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tuned = if self.training.is_some() && self.arm != Arm::Alone { "-tuned" } else { "" };
        write!(f, "{}{tuned}-{}-labelled-seed{}", self.arm, self.labelled, self.seed)
    }
}
