//! The plan: everything about a federation that is fixed before anybody trains, signed by the consortium.
//!
//! A hospital's data protection officer approves a plan by its digest. The coordinator controls none of this: neither
//! noise, clip norm, unit, nor rounds (spec/privacy.md, 3.3).

mod guidance;
pub mod outlook;
mod reading;

use serde::{Deserialize, Serialize};

use crate::{
    accounting::Rho,
    canonical::{CanonicalError, to_canonical},
    decimal::Decimal,
    ids::{Digest, PublicKey},
    signing::{Domain, Signature, SigningError, SigningKey},
};

pub use self::{
    guidance::Guidance,
    reading::{ReadPlan, ReadPlanError},
};

/// Noise scale in grid units: 2^20, a power of two (spec/privacy.md, section 5).
pub const SIGMA: u64 = 1 << 20;

/// What a federation does, from the first round to the last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What people call it.
    pub name: String,
    /// How many rounds there are.
    pub rounds: u32,
    /// How many sites must contribute before a round can close.
    pub quorum: u32,
    /// How long a round stays open for the slow, in seconds.
    pub round_seconds: u64,
    /// The student network.
    pub student: Student,
    /// The digest of the student's weights before round 1.
    pub initial_model: Digest,
    /// How scans are prepared.
    pub scans: Scans,
    /// What a site does for one patient in one round.
    pub training: Training,
    /// What a patient is promised.
    pub privacy: Privacy,
    /// How contributions become the next model.
    pub server: Server,
}

/// V-Net with GroupNorm (spec/semisam.md, section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Student {
    /// Channels of the first level.
    pub base_filters: u32,
    /// Groups of each GroupNorm.
    pub groups: u32,
    /// Classes, background included.
    pub classes: u32,
    /// The digest of names and shapes of the weights.
    pub architecture: Digest,
}

/// How scans are prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scans {
    /// Voxel size, millimetres along x, y, z of RAS+.
    pub spacing_mm: [Decimal; 3],
    /// Extent of a training patch in voxels; each a multiple of 16.
    pub patch: [u32; 3],
}

/// How the students of one hospital learn from unlabelled scans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Labelled scans alone.
    Supervised,
    /// Agreement with a teacher on all scans.
    MeanTeacher,
    /// Agreement with a teacher on unlabelled scans, where it is certain.
    UaMt,
    /// Mean teacher, and agreement with one generalist.
    Semisam,
    /// UA-MT, and agreement with several generalists or sets of prompts, as far as they can be trusted.
    SemisamPlus,
}

impl Method {
    /// Whether the teacher counts only where it is certain.
    pub fn counts_certainty(self) -> bool {
        matches!(self, Self::UaMt | Self::SemisamPlus)
    }

    /// Whether generalists are asked.
    pub fn asks_generalists(self) -> bool {
        matches!(self, Self::Semisam | Self::SemisamPlus)
    }
}

/// What a site does for one patient in one round: start at the released model, step on that patient's scans alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Supervised or mean teacher.
    pub method: Method,
    /// Optimiser steps per patient and round.
    pub local_steps: u32,
    /// Crops per step.
    pub batch: u32,
    /// Step size of SGD.
    pub learning_rate: Decimal,
    /// Momentum of SGD, fresh for each patient.
    pub momentum: Decimal,
    /// L2 penalty of SGD.
    pub weight_decay: Decimal,
    /// Weight of agreement with the teacher.
    pub consistency_weight: Decimal,
    /// Confidence from which the released model's own prediction counts as a label on unlabelled scans.
    pub pseudo_label_threshold: Decimal,
    /// Standard deviation of the noise on what the student sees; the teacher sees the clean crop.
    pub noise: Decimal,
    /// Whether crops are turned and flipped in the axial plane, and their intensities varied.
    pub augment: bool,
    /// Generalists, for the methods that ask them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance: Option<Guidance>,
}

/// Whose presence the noise hides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// One patient at one hospital: all scans, labelled or not.
    Patient,
    /// A whole hospital: one clip of its whole delta.
    Hospital,
}

/// The public linear map from weights to what is released.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "space", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ReleaseSpace {
    /// Every weight.
    All {
        /// How many there are.
        coordinates: u64,
    },
    /// Some tensors, whole.
    Tensors {
        /// Their names.
        names: Vec<String>,
        /// How many values they have together.
        coordinates: u64,
    },
    /// Coordinates in an orthonormal basis computed from synthetic data.
    Basis {
        /// Digest of the safetensors file that holds `basis` [coordinates, weights].
        basis: Digest,
        /// How many directions it has.
        coordinates: u64,
    },
}

impl ReleaseSpace {
    /// The length of the released vector.
    pub fn coordinates(&self) -> u64 {
        match self {
            ReleaseSpace::All { coordinates }
            | ReleaseSpace::Tensors { coordinates, .. }
            | ReleaseSpace::Basis { coordinates, .. } => *coordinates,
        }
    }
}

/// What a patient is promised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Privacy {
    /// Patient or hospital.
    pub unit: Unit,
    /// L2 norm to which each unit's contribution is clipped, in the release space.
    pub clip_norm: Decimal,
    /// Standard deviation of the noise divided by the clip norm.
    pub noise_multiplier: Decimal,
    /// The delta of (epsilon, delta).
    pub delta: Decimal,
    /// The public number by which a site's sum is divided, instead of its private count of patients.
    pub expected_patients: u32,
    /// What is released.
    pub release: ReleaseSpace,
}

/// How the server's step shrinks over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// It does not.
    Constant,
    /// From the full step in round 1 towards zero after the last, along a half cosine.
    Cosine,
}

/// FedAvg with server momentum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Factor on the average of contributions.
    pub learning_rate: Decimal,
    /// Share of the previous step that goes on.
    pub momentum: Decimal,
    /// How the step shrinks.
    pub decay: Decay,
}

/// A plan cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A field that makes no sense.
    #[error("plan `{plan}`: {problem}")]
    Field {
        /// The plan's name.
        plan: String,
        /// Which field, and what it should be.
        problem: String,
    },
    /// It cannot be written canonically.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    /// The signature is not the consortium's.
    #[error("the plan is not signed by the consortium's key")]
    Signature(#[from] SigningError),
}

impl Plan {
    /// The digest by which a data protection officer approves this plan.
    ///
    /// # Errors
    /// If the plan has no canonical form.
    pub fn digest(&self) -> Result<Digest, PlanError> {
        Ok(Digest::of(to_canonical(self)?.as_bytes()))
    }

    /// Checks every field against what the programs can do.
    ///
    /// # Errors
    /// Lists all fields that are wrong, with what they should be.
    pub fn check(&self) -> Result<(), PlanError> {
        let privacy = &self.privacy;
        let between = |value: Decimal, low: f64, high: f64| value.get() >= low && value.get() <= high;
        let rules = [
            (self.rounds >= 1 && self.rounds <= 10_000, "`rounds` must be 1 to 10000"),
            (self.quorum >= 1, "`quorum` must be at least 1"),
            (self.round_seconds >= 1, "`round_seconds` must be at least 1"),
            (self.student.base_filters >= 1, "`student.base_filters` must be at least 1"),
            (
                self.student.groups >= 1 && self.student.base_filters.is_multiple_of(self.student.groups.max(1)),
                "`student.groups` must divide `student.base_filters`",
            ),
            (self.student.classes >= 2 && self.student.classes <= 256, "`student.classes` must be 2 to 256"),
            (
                self.scans.patch.iter().all(|side| *side >= 16 && side.is_multiple_of(16)),
                "`scans.patch` sides must be multiples of 16",
            ),
            (
                self.scans.spacing_mm.iter().all(|mm| between(*mm, 0.05, 50.0)),
                "`scans.spacing_mm` must be 0.05 to 50 mm",
            ),
            (self.training.local_steps >= 1, "`training.local_steps` must be at least 1"),
            (self.training.batch >= 1, "`training.batch` must be at least 1"),
            (between(self.training.learning_rate, 1e-9, 100.0), "`training.learning_rate` must be positive"),
            (between(self.training.momentum, 0.0, 0.999), "`training.momentum` must be 0 to 0.999"),
            (between(self.training.weight_decay, 0.0, 1.0), "`training.weight_decay` must be 0 to 1"),
            (between(self.training.noise, 0.0, 10.0), "`training.noise` must be 0 to 10"),
            (between(self.training.consistency_weight, 0.0, 1e6), "`training.consistency_weight` must be 0 or more"),
            (
                between(self.training.pseudo_label_threshold, 0.5, 1.0),
                "`training.pseudo_label_threshold` must be 0.5 to 1",
            ),
            (between(privacy.clip_norm, 1e-9, 1e9), "`privacy.clip_norm` must be positive"),
            (between(privacy.noise_multiplier, 0.1, 10_000.0), "`privacy.noise_multiplier` must be 0.1 to 10000"),
            (between(privacy.delta, 1e-15, 1e-2), "`privacy.delta` must be 1e-15 to 0.01"),
            (privacy.expected_patients >= 1, "`privacy.expected_patients` must be at least 1"),
            (privacy.release.coordinates() >= 1, "`privacy.release.coordinates` must be at least 1"),
            (between(self.server.learning_rate, 1e-9, 1e9), "`server.learning_rate` must be positive"),
            (between(self.server.momentum, 0.0, 0.999), "`server.momentum` must be 0 to 0.999"),
        ];
        let guidance = Guidance::problem(self.training.method, self.training.guidance.as_ref());
        let problems: Vec<&str> =
            rules.iter().filter(|(holds, _)| !holds).map(|(_, text)| *text).chain(guidance).collect();
        if problems.is_empty() {
            return Ok(());
        }
        Err(PlanError::Field { plan: self.name.clone(), problem: problems.join("; ") })
    }

    /// The clip norm in grid units: floor(sigma / noise multiplier).
    pub fn sensitivity(&self) -> u64 {
        (SIGMA as f64 / self.privacy.noise_multiplier.get()).floor() as u64
    }

    /// The length of one grid unit in the release space: noise multiplier times clip norm divided by sigma.
    pub fn grid(&self) -> f64 {
        self.privacy.noise_multiplier.get() * self.privacy.clip_norm.get() / SIGMA as f64
    }

    /// What one release costs each hospital.
    pub fn rho_per_round(&self) -> Rho {
        Rho::of_release(self.sensitivity(), SIGMA)
    }

    /// What all rounds cost a hospital that loses none of its releases.
    pub fn rho_in_all(&self) -> Rho {
        (0..self.rounds).fold(Rho::default(), |sum, _| sum.plus(self.rho_per_round()))
    }

    /// How many bytes an update has: one little-endian i32 for each coordinate, whoever sends it.
    pub fn update_bytes(&self) -> u64 {
        self.privacy.release.coordinates() * 4
    }
}

/// A plan with the consortium's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedPlan {
    /// The plan.
    pub plan: Plan,
    /// The consortium's key.
    pub key: PublicKey,
    /// Over the canonical JSON of the plan.
    pub signature: Signature,
}

impl SignedPlan {
    /// Signs `plan`.
    ///
    /// # Errors
    /// If a field is wrong.
    pub fn sign(plan: Plan, consortium: &SigningKey) -> Result<Self, PlanError> {
        plan.check()?;
        let signature = consortium.sign(Domain::Plan, to_canonical(&plan)?.as_bytes());
        Ok(Self { plan, key: consortium.public(), signature })
    }

    /// Checks fields and signature against the consortium's key, which the caller got from elsewhere.
    ///
    /// # Errors
    /// If the plan is not what `consortium` signed.
    pub fn verify(&self, consortium: PublicKey) -> Result<(), PlanError> {
        self.plan.check()?;
        if self.key != consortium {
            return Err(SigningError::Mismatch(consortium).into());
        }
        Ok(self.signature.verify(consortium, Domain::Plan, to_canonical(&self.plan)?.as_bytes())?)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example() -> Plan {
        let decimal = |value: f64| Decimal::new(value).expect("finite");
        Plan {
            name: "left-atrium".into(),
            rounds: 10,
            quorum: 2,
            round_seconds: 60,
            student: Student { base_filters: 4, groups: 4, classes: 2, architecture: Digest::of(b"vnet") },
            initial_model: Digest::of(b"model"),
            scans: Scans { spacing_mm: [decimal(2.5); 3], patch: [48, 48, 32] },
            training: Training {
                method: Method::MeanTeacher,
                local_steps: 4,
                batch: 1,
                learning_rate: decimal(0.01),
                momentum: decimal(0.9),
                weight_decay: decimal(1e-4),
                consistency_weight: decimal(0.1),
                pseudo_label_threshold: decimal(0.9),
                noise: decimal(0.1),
                augment: true,
                guidance: None,
            },
            privacy: Privacy {
                unit: Unit::Patient,
                clip_norm: decimal(1.0),
                noise_multiplier: decimal(4.0),
                delta: decimal(1e-5),
                expected_patients: 10,
                release: ReleaseSpace::Basis { basis: Digest::of(b"basis"), coordinates: 32 },
            },
            server: Server { learning_rate: decimal(1.0), momentum: decimal(0.5), decay: Decay::Cosine },
        }
    }

    #[test]
    fn a_signed_plan_holds_and_a_changed_one_does_not() {
        let consortium = SigningKey::generate().expect("entropy");
        let mut signed = SignedPlan::sign(example(), &consortium).expect("sound");
        signed.verify(consortium.public()).expect("signed");
        let text = serde_json::to_string(&signed).expect("json");
        let read: SignedPlan = serde_json::from_str(&text).expect("read");
        read.verify(consortium.public()).expect("still signed");
        signed.plan.privacy.noise_multiplier = Decimal::new(3.9).expect("finite");
        assert!(signed.verify(consortium.public()).is_err());
        assert!(read.verify(SigningKey::generate().expect("entropy").public()).is_err());
    }

    #[test]
    fn the_example_costs_what_the_reference_says() {
        let plan = example();
        assert_eq!(plan.sensitivity(), 1 << 18);
        let epsilon = plan.rho_per_round().epsilon(1e-5, crate::accounting::Adjacency::AddRemove);
        assert!((epsilon - 1.012_287).abs() < 1e-5, "{epsilon}");
        assert_eq!(plan.update_bytes(), 128);
    }

    #[test]
    fn every_wrong_field_is_named() {
        let mut plan = example();
        plan.rounds = 0;
        plan.scans.patch = [40, 16, 16];
        let error = plan.check().expect_err("wrong").to_string();
        assert!(error.contains("`rounds`") && error.contains("`scans.patch`"), "{error}");
        let unknown = serde_json::to_string(&example()).expect("json").replacen("{", "{\"nose\":1,", 1);
        assert!(serde_json::from_str::<Plan>(&unknown).is_err());
    }
}
