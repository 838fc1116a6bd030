//! `epsilon`: what releases with a given noise cost by all accountants, or how much noise an epsilon takes.

use std::io::Write;

use clap::{Args, ValueEnum};
use semisam_shared::accounting::{Accountant, Adjacency, Failed, Releases, pld, rdp, smallest_noise_multiplier};
use serde::Serialize;

use super::{Failure, Format};

mod fixed_batch;

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("given").required(true).args(["sigma", "target_epsilon"]))]
pub(super) struct Question {
    /// Which noise on which participants.
    #[arg(long, value_enum)]
    mechanism: Mechanism,
    /// The chance with which a unit takes part in a step; for fixed batches, their share of all units.
    #[arg(long, value_name = "Q", default_value_t = 1.0, allow_negative_numbers = true)]
    q: f64,
    /// Standard deviation of the noise divided by the clip norm.
    #[arg(long, value_name = "Z", allow_negative_numbers = true)]
    sigma: Option<f64>,
    /// Instead of `--sigma`: the epsilon to keep to; the answer is the smallest sigma that does.
    #[arg(long, value_name = "E", allow_negative_numbers = true)]
    target_epsilon: Option<f64>,
    /// How many releases there are.
    #[arg(long, value_name = "T")]
    steps: u64,
    /// The delta of (epsilon, delta).
    #[arg(long, value_name = "D", allow_negative_numbers = true)]
    delta: f64,
    /// Which two cohorts are told apart.
    #[arg(long, value_enum)]
    adjacency: Relation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mechanism {
    /// Everybody takes part in every step.
    Gaussian,
    /// Each unit takes part in each step with chance q.
    PoissonGaussian,
    /// Each step takes a batch of fixed size, drawn without replacement: RDP of an exchange alone. It costs more than Poisson
    /// sampling, and no plan of this system does it.
    SworGaussian,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Relation {
    /// One unit's contribution is zeroed out.
    AddRemove,
    /// One unit is exchanged for another.
    ReplaceOne,
}

impl Relation {
    fn adjacency(self) -> Adjacency {
        match self {
            Relation::AddRemove => Adjacency::AddRemove,
            Relation::ReplaceOne => Adjacency::ReplaceOne,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Relation::AddRemove => "one unit zeroed out",
            Relation::ReplaceOne => "one unit exchanged for another",
        }
    }
}

/// Why zCDP has no answer where units take part by chance.
const NO_ZCDP: &str = "zCDP is for full participation: what it says of sampling is no smaller than without";

/// All digits, and never below the truth.
#[derive(Debug, Serialize)]
struct Cost {
    eps_rdp: f64,
    /// The order that proves `eps_rdp`.
    rdp_order: f64,
    eps_pld: f64,
    /// Null where units take part by chance.
    eps_zcdp: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eps_zcdp_reason: Option<&'static str>,
}

/// The smallest sigma that each accountant confirms.
#[derive(Debug, Serialize)]
struct Noise {
    sigma_rdp: f64,
    sigma_pld: f64,
    /// Null where units take part by chance.
    sigma_zcdp: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sigma_zcdp_reason: Option<&'static str>,
}

pub(super) fn run(question: &Question, format: Format, out: &mut dyn Write) -> Result<u8, Failure> {
    check(question)?;
    match (question.mechanism, question.sigma, question.target_epsilon) {
        (Mechanism::SworGaussian, Some(sigma), _) => fixed_batch::cost(question, sigma, format, out)?,
        (Mechanism::SworGaussian, None, Some(target)) => fixed_batch::noise(question, target, format, out)?,
        _ => plain(question, format, out)?,
    }
    Ok(0)
}

/// All mechanisms but fixed batches.
fn plain(question: &Question, format: Format, out: &mut dyn Write) -> Result<(), Failure> {
    let sampled = question.q < 1.0;
    let reason = sampled.then_some(NO_ZCDP);
    let head = question.adjacency.words();
    if let Some(sigma) = question.sigma {
        let cost = cost(question, sigma, reason).map_err(no_answer)?;
        match format {
            Format::Json => writeln!(out, "{}", serde_json::to_string(&cost)?)?,
            Format::Text => {
                writeln!(out, "epsilon at delta {}, {head}, rounded up:", question.delta)?;
                writeln!(out, "PLD   {:.3}", up(cost.eps_pld))?;
                writeln!(out, "RDP   {:.3}  (order {})", up(cost.eps_rdp), cost.rdp_order)?;
                match cost.eps_zcdp {
                    Some(epsilon) => writeln!(out, "zCDP  {:.3}  (what a ledger charges)", up(epsilon))?,
                    None => writeln!(out, "zCDP  none: {NO_ZCDP}")?,
                }
            }
        }
    } else if let Some(target) = question.target_epsilon {
        let noise = noise(question, target, reason).map_err(no_answer)?;
        match format {
            Format::Json => writeln!(out, "{}", serde_json::to_string(&noise)?)?,
            Format::Text => {
                writeln!(out, "sigma for epsilon {target} at delta {}, {head}, rounded up:", question.delta)?;
                writeln!(out, "PLD   {:.3}", up(noise.sigma_pld))?;
                writeln!(out, "RDP   {:.3}", up(noise.sigma_rdp))?;
                match noise.sigma_zcdp {
                    Some(sigma) => {
                        writeln!(out, "zCDP  {:.3}  (what a ledger charges: take this for a plan)", up(sigma))?
                    }
                    None => writeln!(out, "zCDP  none: {NO_ZCDP}")?,
                }
            }
        }
    }
    Ok(())
}

fn no_answer(failed: Failed) -> Failure {
    Failure::Usage(format!("these figures have no answer: {failed}"))
}

/// Refuses what makes no sense, by the name of its option.
fn check(question: &Question) -> Result<(), Failure> {
    let usage = |problem: String| Err(Failure::Usage(problem));
    if question.mechanism == Mechanism::Gaussian && question.q < 1.0 {
        return usage(
            "mechanism `gaussian` has full participation: `--q` must be 1, or ask for `poisson-gaussian`".into(),
        );
    }
    if question.mechanism == Mechanism::SworGaussian && question.q >= 1.0 {
        return usage("a batch of everybody is mechanism `gaussian`: `--q` must be below 1 for `swor-gaussian`".into());
    }
    if question.steps == 0 {
        return usage("`--steps` must be at least 1".into());
    }
    if let Err(failed) = Releases::new(question.q, question.sigma.unwrap_or(1.0), question.steps) {
        let option = match failed {
            Failed::Sampling(_) => "--q",
            Failed::Count(_) => "--steps",
            _ => "--sigma",
        };
        return usage(format!("`{option}`: {failed}"));
    }
    if let Err(failed) = rdp::epsilon(&[], question.delta, question.adjacency.adjacency()) {
        return usage(format!("`--delta`: {failed}"));
    }
    match question.target_epsilon {
        Some(target) if !(target > 0.0 && target <= 1e9) => {
            usage(format!("`--target-epsilon`: {}", Failed::Epsilon(target)))
        }
        _ => Ok(()),
    }
}

fn cost(question: &Question, sigma: f64, reason: Option<&'static str>) -> Result<Cost, Failed> {
    let adjacency = question.adjacency.adjacency();
    let releases = Releases::new(question.q, sigma, question.steps)?;
    let renyi = rdp::epsilon(&[releases], question.delta, adjacency)?;
    let zcdp = || Accountant::Zcdp.epsilon(&releases, question.delta, adjacency);
    Ok(Cost {
        eps_rdp: renyi.epsilon,
        rdp_order: renyi.order,
        // Both are proofs.
        eps_pld: pld::epsilon(&[releases], question.delta, adjacency)?.min(renyi.epsilon),
        eps_zcdp: if reason.is_some() { None } else { Some(zcdp()?) },
        eps_zcdp_reason: reason,
    })
}

fn noise(question: &Question, target: f64, reason: Option<&'static str>) -> Result<Noise, Failed> {
    let adjacency = question.adjacency.adjacency();
    let smallest = |accountant| {
        smallest_noise_multiplier(accountant, (target, question.delta), question.steps, question.q, adjacency)
    };
    Ok(Noise {
        sigma_rdp: smallest(Accountant::Rdp)?,
        sigma_pld: smallest(Accountant::Pld)?,
        sigma_zcdp: if reason.is_some() { None } else { Some(smallest(Accountant::Zcdp)?) },
        sigma_zcdp_reason: reason,
    })
}

/// `value`, not rounded down at the third decimal.
fn up(value: f64) -> f64 {
    let thousandths = (value * 1e3).ceil();
    if thousandths / 1e3 < value { (thousandths + 1.0) / 1e3 } else { thousandths / 1e3 }
}
