//! `epsilon`: what some releases with a given noise would cost.

use std::io::Write;

use clap::{Args, ValueEnum};
use semisam_shared::accounting::{Adjacency, Rho};
use serde::Serialize;

use super::{Failure, Format};

#[derive(Debug, Args)]
pub(super) struct Question {
    /// Which noise on which participants.
    #[arg(long, value_enum)]
    mechanism: Mechanism,
    /// The chance with which a unit takes part in a step.
    #[arg(long, value_name = "Q", default_value_t = 1.0)]
    q: f64,
    /// Standard deviation of the noise divided by the clip norm.
    #[arg(long, value_name = "Z")]
    sigma: f64,
    /// How many releases there are.
    #[arg(long, value_name = "T")]
    steps: u64,
    /// The delta of (epsilon, delta).
    #[arg(long, value_name = "D")]
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Relation {
    /// One unit's contribution is zeroed out.
    AddRemove,
    /// One unit is exchanged for another.
    ReplaceOne,
}

/// Null: this version does not compute it.
#[derive(Debug, Serialize)]
struct Answer {
    eps_rdp: Option<f64>,
    eps_pld: Option<f64>,
    eps_zcdp: f64,
}

pub(super) fn run(question: &Question, format: Format, out: &mut dyn Write) -> Result<u8, Failure> {
    let adjacency = match question.adjacency {
        Relation::AddRemove => Adjacency::AddRemove,
        Relation::ReplaceOne => Adjacency::ReplaceOne,
    };
    let usage = |problem: &str| Failure::Usage(problem.into());
    if !(question.q > 0.0 && question.q <= 1.0) {
        return Err(usage("`--q` must be above 0 and at most 1"));
    }
    if !(question.delta > 0.0 && question.delta < 1.0) {
        return Err(usage("`--delta` must be between 0 and 1"));
    }
    if question.steps == 0 {
        return Err(usage("`--steps` must be at least 1"));
    }
    let rho = Rho::of_gaussian(question.sigma, question.steps)
        .ok_or_else(|| usage("`--sigma` must be positive, and large enough that the cost is a finite number"))?;
    if question.mechanism == Mechanism::PoissonGaussian {
        let problem = "mechanism `poisson-gaussian` is not supported by this version: its nodes release with full participation, so ask for `gaussian` with `--q 1`";
        return Err(anyhow::anyhow!(problem).into());
    }
    if question.q < 1.0 {
        return Err(usage("mechanism `gaussian` has full participation: `--q` must be 1"));
    }
    let answer = Answer { eps_rdp: None, eps_pld: None, eps_zcdp: rho.epsilon(question.delta, adjacency) };
    match format {
        Format::Json => writeln!(out, "{}", serde_json::to_string(&answer)?)?,
        Format::Text => writeln!(
            out,
            "epsilon {:.6} at delta {} (zCDP, CKS20 proposition 12); RDP and PLD are not yet computed by this version",
            answer.eps_zcdp, question.delta
        )?,
    }
    Ok(0)
}
