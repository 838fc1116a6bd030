//! Auditing in one run (Steinke, Nasr, Jagielski 2023, arXiv 2305.08846): each of many canaries is in by the toss of a coin,
//! and the attacker guesses from the releases who was. Under (epsilon, delta) a guess is right at most as often as a coin
//! that shows its face e^epsilon times as often as not, up to delta; too many right guesses refute the claim.
//!
//! # Which canaries
//! One coordinate each, which no other canary touches: the strongest canary that a sum has, because nothing but noise
//! stands beside it, so a release holds at most as many as it has coordinates. They are [`LONG`] times as long as the
//! clip norm: a sound clip makes norm C of them, so the same canary probes clip and noise. They are dealt to several
//! hospitals under the same plan, each with a ledger of its own, because a release of 20 000 coordinates with 5000
//! contributions would take 800 MB. That changes nothing in theory: all releases together are one mechanism, and since
//! each canary is at one hospital it is (epsilon, delta)-private with respect to each. The attacker takes away what it
//! knows, the ordinary patients, and scores a canary by what is left at its place.
//!
//! # False alarms
//! The theorem allows one in twenty. Gaussian noise of the promised size is far from the worst mechanism with the same
//! epsilon, so they are rarer. With 10 000 canaries and delta 1e-5, by the binomial tail of the guesses that it takes, with the
//! share of right ones that the Gaussian gives: less than 1e-100 for the default claim of 4.38, 2e-11 for 2.2, 1e-6 for 1.0,
//! 2e-4 for 0.46, 1e-2 for 0.07. So a small claim that only this check contradicts is worth a second audit.

use rand::Rng;

use semisam_shared::accounting::Rho;

use super::{
    CLIP_NORM, CanaryError, Found, LONG, Options,
    cohort::{Cohort, Use, random},
    hospital, unexplained,
};
use crate::demo::progress::Progress;

mod bound;

pub(crate) use bound::{Bound, CONFIDENCE, epsilon_lower_bound, most};

/// How many numbers a hospital's canaries may have together: 64 MiB where half of them are in.
const NUMBERS: usize = 1 << 24;

/// What the audit in one run found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct OneRun {
    /// The best bound, and the guesses that gave it.
    pub(crate) bound: Bound,
    /// The bound if every guess had been right: no audit of this size shows more.
    pub(crate) most: f64,
    /// Hospitals among which the canaries were dealt.
    pub(crate) hospitals: usize,
    /// What a hospital's ledger says that it cost.
    pub(crate) charged: Rho,
}

/// Runs it.
pub(crate) fn examine(
    options: &Options,
    cohort: &Cohort,
    found: &Found<'_>,
    progress: &Progress,
) -> Result<OneRun, CanaryError> {
    let at_once = (NUMBERS / options.coordinates).clamp(1, options.coordinates).min(options.canaries);
    let hospitals = options.canaries.div_ceil(at_once);
    let counter = progress.count("one run", hospitals as u64);
    let mut coins = random(options.seed, Use::Coins);
    let mut guesses = Vec::with_capacity(options.canaries);
    let mut charged = Rho::default();
    for number in 0..hospitals {
        let here = at_once.min(options.canaries - number * at_once);
        let canaries = deal(&mut coins, here, options.coordinates, number);
        let mut contributions = cohort.patients.clone();
        contributions.extend(canaries.iter().filter(|canary| canary.inside).map(|c| c.vector(options.coordinates)));
        let mut mechanism = found(&format!("one-run-{}", number + 1), hospital::plan(options, options.rounds))?;
        let rest = unexplained(&mut *mechanism, options, cohort, &contributions)?;
        guesses.extend(canaries.iter().map(|canary| (rest[canary.at] * canary.sign, canary.inside)));
        // Every hospital has the same plan; the dearest would be the claim if one had not.
        charged = if mechanism.charged() > charged { mechanism.charged() } else { charged };
        counter.step();
    }
    let bound = epsilon_lower_bound(&mut guesses, options.delta);
    Ok(OneRun { bound, most: most(options.canaries, options.delta), hospitals, charged })
}

struct Canary {
    at: usize,
    sign: f64,
    inside: bool,
}

impl Canary {
    fn vector(&self, coordinates: usize) -> Vec<f64> {
        let mut values = vec![0.0; coordinates];
        values[self.at] = self.sign * LONG * CLIP_NORM;
        values
    }
}

/// Canaries on coordinates that are spread over the whole vector, and are others at the next hospital.
fn deal(coins: &mut impl Rng, canaries: usize, coordinates: usize, hospital: usize) -> Vec<Canary> {
    let stride = coordinates / canaries;
    let toss = |number| Canary {
        at: number * stride + hospital % stride,
        sign: if coins.random() { 1.0 } else { -1.0 },
        inside: coins.random(),
    };
    (0..canaries).map(toss).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_canary_has_a_coordinate_of_its_own_and_half_of_them_are_in() {
        for (canaries, coordinates) in [(838, 20_000), (1000, 1000), (100, 1001)] {
            let dealt: Vec<Vec<Canary>> = (0..12)
                .map(|hospital| deal(&mut random(hospital, Use::Coins), canaries, coordinates, hospital as usize))
                .collect();
            for hospital in &dealt {
                let places: BTreeSet<usize> = hospital.iter().map(|canary| canary.at).collect();
                assert!(places.len() == canaries && places.last().is_some_and(|last| *last < coordinates));
            }
            let inside = dealt.iter().flatten().filter(|canary| canary.inside).count() as f64;
            let all = (12 * canaries) as f64;
            assert!((inside - all / 2.0).abs() < 5.0 * all.sqrt() / 2.0, "{inside} of {all}");
        }
        let places = |hospital| deal(&mut random(1, Use::Coins), 838, 20_000, hospital).into_iter().map(|c| c.at);
        assert_eq!((0..12).flat_map(places).collect::<BTreeSet<_>>().len(), 12 * 838, "other places elsewhere");
    }
}
