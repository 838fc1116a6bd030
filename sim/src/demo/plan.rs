//! What a demonstration does, number by number: the one place to tune it.
//!
//! The noise follows from the budget: [`calibrate`] finds the least noise multiplier with which all rounds together stay
//! below the epsilon that a patient is promised. Step sizes are in units of the clip norm, as in spec/privacy.md,
//! section 14: with noise that hides each patient, the product of step and rounds decides how far noise carries the model.

use semisam_node::{model::VNetConfig, train::patient::LocalTraining};
use semisam_shared::{
    accounting::{Adjacency, Rho},
    plan::SIGMA,
};

/// The floor of a hospital's default policy.
const NOISE_MULTIPLIER_MIN: f64 = 1.0;

/// Every number of a demonstration.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Name of the plan.
    pub name: &'static str,
    /// Hospitals, unless the user says otherwise.
    pub hospitals: u32,
    /// Rounds, unless the user says otherwise: few, since each makes all of them noisier.
    pub rounds: u32,
    /// How long a round waits for the slow: far longer than training takes, so that a killed node is waited for.
    pub round_seconds: u64,
    /// Voxel size: a coarse grid keeps a scan small enough for two cores.
    pub spacing_mm: [f64; 3],
    /// Training patch, multiples of 16: one patch covers most of a scan, and GroupNorm sees it whole.
    pub patch: [u32; 3],
    /// Channels of the first level: under 100 thousand weights, so that noise does not drown them.
    pub base_filters: u32,
    /// Groups of GroupNorm: one for each filter of the first level.
    pub groups: u32,
    /// Local optimiser steps for one patient in one round: alignment of clipped deltas grows with them.
    pub local_steps: u32,
    /// Crops in a step.
    pub batch: u32,
    /// Local step size.
    pub learning_rate: f64,
    /// Local momentum, fresh for each patient.
    pub momentum: f64,
    /// Local L2 penalty.
    pub weight_decay: f64,
    /// Weight of agreement with the teacher.
    pub consistency_weight: f64,
    /// Confidence from which the released model's prediction is a label on unlabelled scans.
    pub pseudo_label_threshold: f64,
    /// Noise on what the student sees, while the teacher sees the clean crop.
    pub noise: f64,
    /// Turns and flips of crops: off, since a few steps gain nothing from them.
    pub augment: bool,
    /// Clip norm, as a share of the median norm of synthetic patients' deltas.
    pub clip_factor: f64,
    /// Epsilon (add/remove) after all rounds: spec/privacy.md, section 1.
    pub epsilon: f64,
    /// Delta of that promise: also the ceiling of a hospital's default policy.
    pub delta: f64,
    /// The public number by which a hospital's sum is divided: about its patients, never their true count.
    pub expected_patients: u32,
    /// Directions in which updates are released: most of a real update, a fraction of the noise.
    pub coordinates: u32,
    /// Server step: factor on the average of clipped contributions.
    pub server_learning_rate: f64,
    /// Server momentum: free of privacy cost; half for ten rounds.
    pub server_momentum: f64,
    /// How the starting model and the basis are made.
    pub start: StartRecipe,
    /// What hospitals have, where the scans are synthetic.
    pub cohort: CohortRecipe,
}

/// How the consortium makes the starting model and the basis, from synthetic volumes alone.
#[derive(Clone, Debug, PartialEq)]
pub struct StartRecipe {
    /// Anonymous volumes to learn from: a weak start, since what is learnt later must come from hospitals.
    pub volumes: u64,
    /// Optimiser steps on them; none leaves the start untrained.
    pub steps: u64,
    /// Crops in a step.
    pub batch: u64,
    /// Step size.
    pub learning_rate: f64,
    /// Synthetic patients whose deltas span the basis: more than there are coordinates.
    pub basis_patients: u64,
    /// Extents of a volume in voxels.
    pub shape: [usize; 3],
}

/// What a synthetic hospital has.
#[derive(Clone, Debug, PartialEq)]
pub struct CohortRecipe {
    /// Patients: enough that a sum over them stands out of the noise.
    pub patients: usize,
    /// Patients whose scans are labelled: few.
    pub labelled: usize,
    /// Patients whose scans are labelled and that nobody learns from.
    pub held_out: usize,
    /// Extents of a scan in voxels.
    pub shape: [usize; 3],
}

impl Recipe {
    /// Three hospitals with synthetic scans: at most four minutes on two cores.
    pub fn synthetic() -> Self {
        Self {
            name: "synthetic hospitals",
            hospitals: 3,
            rounds: 6,
            round_seconds: 300,
            spacing_mm: [2.5; 3],
            patch: [32, 32, 32],
            base_filters: 4,
            groups: 4,
            local_steps: 3,
            batch: 1,
            learning_rate: 0.02,
            momentum: 0.9,
            weight_decay: 1e-4,
            consistency_weight: 0.1,
            pseudo_label_threshold: 1.0,
            noise: 0.1,
            augment: false,
            clip_factor: 0.5,
            epsilon: 8.0,
            delta: 1e-5,
            expected_patients: 36,
            coordinates: 32,
            server_learning_rate: 4.0,
            server_momentum: 0.5,
            start: StartRecipe {
                volumes: 24,
                steps: 8,
                batch: 2,
                learning_rate: 0.02,
                basis_patients: 40,
                shape: [32, 32, 32],
            },
            cohort: CohortRecipe { patients: 36, labelled: 9, held_out: 4, shape: [32, 32, 32] },
        }
    }

    /// Four hospitals with real scans: about fifteen minutes on two cores at 2.5 mm.
    pub fn real() -> Self {
        let synthetic = Self::synthetic();
        let start = StartRecipe {
            volumes: 48,
            steps: 60,
            batch: 2,
            learning_rate: 0.03,
            basis_patients: 40,
            shape: [56, 40, 24],
        };
        Self {
            name: "real scans",
            hospitals: 4,
            rounds: 8,
            round_seconds: 900,
            patch: [64, 48, 32],
            local_steps: 4,
            expected_patients: 10,
            coordinates: 16,
            server_learning_rate: 6.0,
            start,
            ..synthetic
        }
    }

    /// The same from a student that knows the anatomy: `deploy/plan.toml`, which was measured (BENCHMARKS.md, "Learning under
    /// noise"), with a basis of fewer synthetic patients.
    pub fn anatomical() -> Self {
        let real = Self::real();
        Self {
            name: "real scans, from synthetic anatomy",
            rounds: 4,
            local_steps: 16,
            learning_rate: 0.01,
            consistency_weight: 0.0,
            pseudo_label_threshold: 0.7,
            clip_factor: 1.0,
            coordinates: 64,
            server_learning_rate: 1.2,
            server_momentum: 0.0,
            start: StartRecipe { steps: 0, basis_patients: 128, ..real.start },
            ..real
        }
    }

    /// Two hospitals, two rounds, tiny scans: half a minute, to show that everything works.
    pub fn smallest() -> Self {
        let synthetic = Self::synthetic();
        Self {
            name: "smallest",
            hospitals: 2,
            rounds: 2,
            round_seconds: 120,
            patch: [16, 16, 16],
            spacing_mm: [4.0; 3],
            local_steps: 2,
            batch: 1,
            // Room below the policy's ceiling of 10 for a release that a crash abandons: of two rounds, each is half.
            epsilon: 6.0,
            expected_patients: 4,
            coordinates: 8,
            start: StartRecipe {
                volumes: 4,
                steps: 10,
                batch: 1,
                learning_rate: 0.05,
                basis_patients: 12,
                shape: [24, 24, 20],
            },
            cohort: CohortRecipe { patients: 4, labelled: 2, held_out: 1, shape: [24, 24, 20] },
            ..synthetic
        }
    }

    /// How many sites a round needs: all but one, since one hospital must not stop the others, and two at least.
    pub fn quorum(&self) -> u32 {
        self.hospitals.saturating_sub(1).max(2)
    }

    /// The noise multiplier that the budget demands, or the least that a hospital's default policy allows if that is
    /// more: a single round then spends less than the budget.
    pub fn noise_multiplier(&self) -> f64 {
        calibrate(self.epsilon, self.delta, self.rounds).max(NOISE_MULTIPLIER_MIN)
    }

    /// The student network.
    pub fn network(&self) -> VNetConfig {
        let (base_filters, groups) = (self.base_filters as usize, self.groups as usize);
        VNetConfig { in_channels: 1, classes: 2, base_filters, groups }
    }

    /// What a hospital does for one patient.
    pub fn local_training(&self) -> LocalTraining {
        LocalTraining {
            patch: self.patch,
            local_steps: self.local_steps,
            batch: self.batch,
            learning_rate: self.learning_rate,
            momentum: self.momentum,
            weight_decay: self.weight_decay,
            consistency_weight: self.consistency_weight,
            pseudo_label_threshold: self.pseudo_label_threshold,
            noise: self.noise,
            augment: self.augment,
            ..LocalTraining::default()
        }
    }

    /// `plan.toml`, as `semisam-coordinator init --plan` reads it, with the clip norm that the start gave.
    pub fn plan_toml(&self, clip_norm: f64) -> String {
        let Self { name, rounds, round_seconds, base_filters, groups, local_steps, batch, .. } = self;
        let Self { learning_rate, momentum, weight_decay, consistency_weight, .. } = self;
        let Self { pseudo_label_threshold, noise, augment, epsilon, delta, expected_patients, .. } = self;
        let Self { server_learning_rate, server_momentum, .. } = self;
        let (quorum, noise_multiplier) = (self.quorum(), self.noise_multiplier());
        let [x, y, z] = self.spacing_mm;
        let [px, py, pz] = self.patch;
        format!(
            r#"# The plan of this demonstration. Digests are computed from the files beside it.
name = "{name}"
rounds = {rounds}
quorum = {quorum}
round_seconds = {round_seconds}

[student]
base_filters = {base_filters}
groups = {groups}
classes = 2

[scans]
spacing_mm = [{x:?}, {y:?}, {z:?}]
patch = [{px}, {py}, {pz}]

[training]
method = "mean-teacher"
local_steps = {local_steps}
batch = {batch}
learning_rate = {learning_rate:?}
momentum = {momentum:?}
weight_decay = {weight_decay:?}
consistency_weight = {consistency_weight:?}
pseudo_label_threshold = {pseudo_label_threshold:?}
noise = {noise:?}
augment = {augment}

[privacy]
unit = "patient"
clip_norm = {clip_norm:?}
noise_multiplier = {noise_multiplier:?}  # {rounds} rounds together spend at most epsilon {epsilon} at this delta
delta = "{delta:e}"
expected_patients = {expected_patients}

[privacy.release]
space = "basis"

[server]
learning_rate = {server_learning_rate:?}
momentum = {server_momentum:?}
decay = "cosine"
"#,
        )
    }
}

/// The least noise multiplier, to three decimals and rounded up, with which `rounds` releases to which every patient
/// contributes stay at or below `epsilon` (add/remove) at `delta`.
///
/// # Privacy
/// Neighbours: one patient's contribution zeroed out. The cost is that of the integer mechanism, with the clip norm on
/// the plan's grid.
pub fn calibrate(epsilon: f64, delta: f64, rounds: u32) -> f64 {
    let (mut low, mut high) = (0.05_f64, 10_000.0_f64);
    for _ in 0..100 {
        let middle = (low * high).sqrt();
        if spent(middle, delta, rounds) > epsilon {
            low = middle;
        } else {
            high = middle;
        }
    }
    let rounded = (high * 1000.0).ceil() / 1000.0;
    // Rounding up makes less noise only where the grid of the clip norm is coarser than three decimals.
    if spent(rounded, delta, rounds) <= epsilon { rounded } else { high }
}

/// Epsilon (add/remove) of `rounds` releases.
fn spent(noise_multiplier: f64, delta: f64, rounds: u32) -> f64 {
    let sensitivity = (SIGMA as f64 / noise_multiplier).floor() as u64;
    let one = Rho::of_release(sensitivity, SIGMA);
    (0..rounds).fold(Rho::default(), |sum, _| sum.plus(one)).epsilon(delta, Adjacency::AddRemove)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_met_from_below_within_half_a_percent() {
        for rounds in [1, 2, 3, 10, 20, 40, 60, 100, 1000] {
            for epsilon in [1.0, 3.0, 8.0] {
                let z = calibrate(epsilon, 1e-5, rounds);
                let found = spent(z, 1e-5, rounds);
                assert!(found <= epsilon && found > epsilon * 0.995, "{rounds} rounds: z {z} spends {found}");
            }
        }
    }

    #[test]
    fn the_published_table_is_met() {
        // spec/privacy.md, section 14, by an exact accountant: zCDP asks for a little more noise, never for less.
        for (rounds, z) in [(20, 2.68), (40, 3.80), (60, 4.65), (100, 6.00)] {
            let found = calibrate(8.0, 1e-5, rounds);
            assert!(found > z - 0.02 && found < z * 1.07, "{rounds} rounds: {found}, published {z}");
        }
    }

    #[test]
    fn a_default_policy_allows_every_recipe() {
        let single = Recipe { rounds: 1, ..Recipe::synthetic() };
        for recipe in [Recipe::synthetic(), Recipe::real(), Recipe::anatomical(), Recipe::smallest(), single] {
            assert!(spent(recipe.noise_multiplier(), recipe.delta, recipe.rounds) <= recipe.epsilon);
            assert!(recipe.noise_multiplier() >= 1.0, "{}", recipe.name);
            assert!(recipe.epsilon <= 10.0 && recipe.delta <= 1e-5, "{}", recipe.name);
            assert!(recipe.start.basis_patients >= u64::from(recipe.coordinates), "{}", recipe.name);
            assert!(recipe.patch.iter().all(|side| side.is_multiple_of(16)), "{}", recipe.name);
            assert!(recipe.cohort.patients >= 3 && recipe.cohort.labelled < recipe.cohort.patients);
            assert!(recipe.plan_toml(0.25).contains("delta = \"1e-5\""));
        }
    }

    #[test]
    fn one_hospital_cannot_stop_the_others() {
        let quorum = |hospitals| Recipe { hospitals, ..Recipe::synthetic() }.quorum();
        assert_eq!([2, 3, 4, 10].map(quorum), [2, 2, 3, 9]);
    }
}
