//! Where federating is pointless or the protection weak. [`thresholds`] is the one place for the numbers.

use serde::Serialize;

use super::{Costs, NoiseToSignal};
use crate::plan::{Plan, Unit};

/// Where each warning begins, and why there (spec/privacy.md, section 14 unless another one is named). They come from one
/// segmentation study, one toy check and our own measurement (BENCHMARKS.md, "Learning under noise"), so they are a reason
/// to think and never a rule: no program refuses for them.
pub mod thresholds {
    /// Noise over signal of the average over all rounds, `z sqrt(k) / (N sqrt(n T))`, up to which federations of few
    /// patients were seen to gain: ours, 4 hospitals of 10 patients in 4 rounds at epsilon 3 (0.26 at epsilon 8). Rounds
    /// count, because signals add up and independent noise adds up as a square.
    pub const MEASURED_TO_GAIN: f64 = 0.6;

    /// With local noise, fewer sites than this ...
    ///
    /// In the toy check at epsilon 8, training alone beat federating with 3 and 5 sites in every row (30 to 300 patients
    /// each), and lost with 10 and 20 in every row.
    pub const SITES: u32 = 10;

    /// ... with at most this many patients each are advised against: the sizes at which the toy check was made.
    pub const PATIENTS_OF_FEW_SITES: u32 = 100;

    /// Fewer patients at a site are advised against, as the section's strict mode refuses them: 30 was the smallest size of
    /// the toy check, where 3 sites fell from 0.73 alone to 0.56 together and only 10 sites gained.
    pub const PATIENTS: u32 = 30;

    /// From here on the noise of a round is longer than all that the sites can say in it.
    pub const NOISE_COVERS: f64 = 1.0;

    /// The largest ratio with which the study still gained anything: 51 600 weights of 4 sites with 20 patients, z = 3.8,
    /// 40 rounds, from Dice 0.58 to 0.66 (a mask that ignores the scan: 0.675). Beyond it nothing was ever seen to gain.
    pub const NOISE_DROWNS: f64 = 22.0;

    /// The hard stop of section 1: above this epsilon (add/remove) the promise is weak.
    pub const EPSILON_WEAK: f64 = 10.0;

    /// From here on it is risk reduction, which stops reconstruction but promises nothing about presence; never to be
    /// called strong.
    pub const EPSILON_RISK_REDUCTION: f64 = 50.0;

    /// More than this chance that the promise fails for somebody (delta times patients) is weak. The section's table allows
    /// 1e-3 for 100 patients.
    pub const FAILING_FOR_SOMEBODY: f64 = 0.1;
}

/// How heavy an advice weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weight {
    /// Taking part will most likely gain nothing.
    Pointless,
    /// What is promised to patients is weak.
    Weak,
    /// Something to bear in mind.
    Mind,
}

/// What somebody should know who decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// How heavy it weighs.
    pub weight: Weight,
    /// What.
    pub says: String,
    /// Why.
    pub because: String,
}

pub(super) fn about(plan: &Plan, costs: &Costs, noise: &NoiseToSignal) -> Vec<Advice> {
    let mut advice = Vec::new();
    advice.extend(of_sizes(plan, noise));
    advice.extend(of_noise(noise));
    advice.extend(of_the_promise(plan, costs, noise));
    if plan.privacy.unit == Unit::Hospital {
        advice.push(Advice {
            weight: Weight::Pointless,
            says: "clipping a whole hospital at once needs many hospitals and secure aggregation".into(),
            because: "its contribution counts once, however many patients it has, while the noise stays the same"
                .into(),
        });
    }
    advice.sort_by_key(|advice| advice.weight);
    advice
}

/// What was measured with few patients, from a start that synthetic anatomy gave.
const AS_MEASURED: &str = "with 4 hospitals of 10 patients the common model rose from Dice 0.735 to 0.765, 0.770 and 0.781 at epsilon 8 where \
                           2, 5 and all patients of each had labels. A hospital alone reached 0.767, 0.795 and 0.806, and 0.770, \
                           0.790 and 0.807 when it trained the common model further for itself, which costs no privacy. That was \
                           with a start from synthetic anatomy, a basis and server steps that add up to 3";

fn of_sizes(plan: &Plan, noise: &NoiseToSignal) -> Option<Advice> {
    use thresholds::{MEASURED_TO_GAIN, PATIENTS, PATIENTS_OF_FEW_SITES, SITES};
    let NoiseToSignal { patients, sites, .. } = *noise;
    let many = patients > PATIENTS_OF_FEW_SITES || (sites >= SITES && patients >= PATIENTS);
    if plan.privacy.unit == Unit::Hospital || many {
        return None;
    }
    let in_all = noise.average / f64::from(plan.rounds).sqrt();
    if in_all <= MEASURED_TO_GAIN {
        return Some(Advice {
            weight: Weight::Mind,
            says: format!(
                "{sites} sites with {patients} patients each are few: expect a better start for everybody, not a better \
                 model than that of a site with labels of its own"
            ),
            because: AS_MEASURED.into(),
        });
    }
    let instead = "Federating pays for hospitals with few or no labels, or with hundreds of patients: with 80 patients in all, \
                   a private common model did not beat one hospital that trained alone on twenty labelled scans";
    if patients < PATIENTS {
        return Some(Advice {
            weight: Weight::Pointless,
            says: format!(
                "{patients} patients at a site are too few to be heard through noise that hides each of them"
            ),
            because: format!(
                "already with {PATIENTS} patients each, three sites fell from 0.73 alone to 0.56 together in the check that \
                 this comes from. {instead}"
            ),
        });
    }
    Some(Advice {
        weight: Weight::Pointless,
        says: format!(
            "{sites} sites with {patients} patients each are too few for noise that every site adds by itself"
        ),
        because: format!(
            "with 3 and 5 sites of up to {PATIENTS_OF_FEW_SITES} patients training alone was better, and with {SITES} and \
             more federating was, in the check that this comes from. {instead}"
        ),
    })
}

fn of_noise(noise: &NoiseToSignal) -> Option<Advice> {
    let ratio = noise.average;
    if ratio > thresholds::NOISE_DROWNS {
        return Some(Advice {
            weight: Weight::Pointless,
            says: format!("in the average of a round the noise is at least {ratio:.0} times as long as the signal"),
            because: format!(
                "beyond {} no model was seen to gain. Release a smaller space (a basis of a few dozen directions), or find \
                 more patients",
                thresholds::NOISE_DROWNS
            ),
        });
    }
    (ratio > thresholds::NOISE_COVERS).then(|| Advice {
        weight: Weight::Mind,
        says: format!("in the average of a round the noise is at least {ratio:.1} times as long as the signal"),
        because:
            "only the sum over many rounds can show anything: a small server step, a good starting model and a small \
                  release space decide whether it does"
                .into(),
    })
}

fn of_the_promise(plan: &Plan, costs: &Costs, noise: &NoiseToSignal) -> Vec<Advice> {
    let mut advice = Vec::new();
    let epsilon = costs.eps_zcdp.add_remove;
    let guess =
        format!("somebody who sees everything guesses rightly up to {} times in 100", percent(costs.best_guess));
    if epsilon > thresholds::EPSILON_RISK_REDUCTION {
        advice.push(Advice {
            weight: Weight::Weak,
            says: format!("epsilon {epsilon:.1} is risk reduction, and no promise about whether a patient took part"),
            because: format!(
                "{guess}. Such noise makes images hard to reconstruct, and that is all that may be said of it"
            ),
        });
    } else if epsilon > thresholds::EPSILON_WEAK {
        advice.push(Advice {
            weight: Weight::Weak,
            says: format!("epsilon {epsilon:.1} is a weak promise"),
            because: format!("{guess}. This project aims at 8 and stops at {}", thresholds::EPSILON_WEAK),
        });
    }
    let delta = plan.privacy.delta.get();
    let failing = delta * f64::from(noise.patients);
    if plan.privacy.unit == Unit::Patient && failing > thresholds::FAILING_FOR_SOMEBODY {
        advice.push(Advice {
            weight: Weight::Weak,
            says: format!("delta {delta} is large for {} patients", noise.patients),
            because: format!(
                "the promise may fail outright for one of them with a chance of up to {failing:.2}; take a tenth of one \
                 patient in all ({:.0e}) at most",
                thresholds::FAILING_FOR_SOMEBODY / f64::from(noise.patients)
            ),
        });
    }
    advice
}

/// Whole per cent, rounded up, so that no protection looks better than it is.
fn percent(share: f64) -> f64 {
    (share * 100.0).ceil()
}
