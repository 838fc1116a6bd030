//! How sure a promptable network may be: one temperature for its logits (Guo et al., ICML 2017, arXiv 1706.04599).
//!
//! Dice rewards confidence, so a network trained with it is surer than it is right. On synthetic volumes that were not
//! trained on, logits after simulated prompts are divided by the temperature that makes the true masks likeliest. The mask
//! itself does not change.

use rayon::prelude::*;

use super::{
    InteractiveError, InteractiveRun,
    example::Example,
    gradient::{answer, correct, on_device},
};
use crate::{
    device::{Device, TrainBackend, Work},
    model::prompt_unet::PromptUNet,
    train::{generator, pretrain::Synthesise},
};
use semisam_shared::weights::Weights;

/// Scans for calibration have numbers from here on, which training does not reach.
const FIRST: u64 = 1 << 40;

/// Every how many voxels one is looked at.
const STRIDE: usize = 7;

/// Temperatures between which the best is sought.
const RANGE: [f64; 2] = [0.25, 8.0];

/// A temperature, and what it is good for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// What logits are divided by.
    pub temperature: f64,
    /// Mean cross-entropy of a voxel before.
    pub before: f64,
    /// Mean cross-entropy of a voxel after.
    pub after: f64,
}

/// Finds the temperature of a network on `scans` held-out scans.
///
/// # Errors
/// If weights and scans do not fit each other, or nothing can be asked for in any of them.
pub fn calibrate(
    device: Device,
    run: &InteractiveRun,
    weights: &Weights,
    scans: u64,
    synthesise: Synthesise<'_>,
) -> Result<Calibration, InteractiveError> {
    let held_out: Vec<(Example, u64)> = (0..scans)
        .into_par_iter()
        .filter_map(|number| {
            let mut random = generator(run.seed, "held-out example", &[number]);
            let crop = run.crop(&synthesise(FIRST + number), &mut random);
            Example::of(crop, run.patch, &mut random).map(|example| (example, number))
        })
        .collect();
    if held_out.is_empty() {
        return Err(InteractiveError::Nothing { scans });
    }
    let voxels = device.run(Answers { run, weights, held_out: &held_out })?;
    let temperature = best(&voxels);
    Ok(Calibration { temperature, before: entropy(&voxels, 1.0), after: entropy(&voxels, temperature) })
}

struct Answers<'a> {
    run: &'a InteractiveRun,
    weights: &'a Weights,
    held_out: &'a [(Example, u64)],
}

impl Work for Answers<'_> {
    type Output = Result<Vec<(f32, bool)>, InteractiveError>;

    /// Logits and truth of some voxels, after the first prompts and after a correction.
    fn run<B: TrainBackend>(self, device: &B::Device) -> Self::Output {
        let network = PromptUNet::<B::InnerBackend>::new(self.run.config, self.weights, device)?;
        let mut found = Vec::new();
        for (example, number) in self.held_out {
            let mut random = generator(self.run.seed, "held-out prompts", &[*number]);
            let features = network.embed(on_device(example.image.clone(), 1, example.shape, device))?;
            let mut prompts = example.first_prompts(&mut random);
            for _ in 0..2 {
                let (_, maps) = answer(&network, &features, &prompts, device)?;
                let logits = &maps[..example.object.len()];
                let voxels = logits.iter().copied().zip(example.object.iter().copied());
                found.extend(voxels.step_by(STRIDE));
                correct(example, &mut prompts, logits, &mut random);
            }
        }
        Ok(found)
    }
}

/// Mean cross-entropy at a temperature.
fn entropy(voxels: &[(f32, bool)], temperature: f64) -> f64 {
    let of_voxel = |(logit, inside): &(f32, bool)| {
        let signed = if *inside { f64::from(*logit) } else { -f64::from(*logit) } / temperature;
        (-signed).max(0.0) + (-signed.abs()).exp().ln_1p()
    };
    voxels.iter().map(of_voxel).sum::<f64>() / voxels.len().max(1) as f64
}

/// The temperature with the least cross-entropy. That is convex in the inverse of the temperature, so ternary search finds
/// it.
fn best(voxels: &[(f32, bool)]) -> f64 {
    let [mut low, mut high] = [RANGE[1].recip(), RANGE[0].recip()];
    for _ in 0..40 {
        let third = (high - low) / 3.0;
        let (a, b) = (low + third, high - third);
        if entropy(voxels, a.recip()) < entropy(voxels, b.recip()) { high = b } else { low = a }
    }
    (0.5 * (low + high)).recip()
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn logits_that_are_twice_too_sure_have_temperature_two() {
        let mut random = generator(1, "voxels", &[]);
        let voxels: Vec<(f32, bool)> = (0..40_000)
            .map(|_| {
                let honest: f64 = random.random_range(-4.0..4.0);
                let inside = random.random_bool(crate::model::prompt_unet::sigmoid(honest));
                ((2.0 * honest) as f32, inside)
            })
            .collect();
        let found = best(&voxels);
        assert!((found - 2.0).abs() < 0.1, "{found}");
        assert!(entropy(&voxels, found) < entropy(&voxels, 1.0));
        let sure = [(3.0, true), (-5.0, false)];
        assert!((best(&sure) - RANGE[0]).abs() < 1e-3, "never wrong: as sure as allowed");
    }
}
