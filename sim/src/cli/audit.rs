//! `semisam-sim audit`: canaries through the release path of this very program.

use std::{io::Write, path::PathBuf};

use clap::Args;
use semisam_shared::clock;

use super::{DONE, FAILED, Format, UNSOUND, USAGE, complain};
use crate::{canary, demo::progress::Progress};

#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    /// The epsilon (add/remove) that the ledger is to charge for all rounds together; the noise follows from it.
    #[arg(long, value_name = "EPSILON", default_value_t = 4.38, conflicts_with = "noise_multiplier")]
    claim_epsilon: f64,
    /// Standard deviation of the noise divided by the clip norm, 0.1 to 10000, instead of --claim-epsilon.
    #[arg(long, value_name = "Z", value_parser = noise_multiplier)]
    noise_multiplier: Option<f64>,
    /// Rounds that every canary takes part in.
    #[arg(long, default_value_t = 1, value_name = "T", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// The delta of epsilon.
    #[arg(long, default_value_t = 1e-5, value_parser = delta)]
    delta: f64,
    /// Canaries that are in or out; the more, the larger an epsilon can be seen.
    #[arg(long, default_value_t = 10_000, value_name = "M", value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    canaries: u32,
    /// Canary clients that are all in, of the clip norm and as many of ten times it.
    #[arg(long, default_value_t = 256, value_name = "K", value_parser = clap::value_parser!(u32).range(64..=1024))]
    clients: u32,
    /// Length of a released vector.
    #[arg(long, default_value_t = 20_000, value_name = "D", value_parser = clap::value_parser!(u32).range(1000..=100_000))]
    coordinates: u32,
    /// Seed of cohort, canaries and coins (never of privacy noise, which cannot be repeated).
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where ledgers, payloads and audit.json are kept [default: nowhere].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl AuditArgs {
    pub(super) fn options(&self) -> Result<canary::Options, canary::CanaryError> {
        let noise_multiplier = match self.noise_multiplier {
            Some(noise_multiplier) => noise_multiplier,
            None => canary::Options::noise_multiplier_of(self.claim_epsilon, self.delta, self.rounds)?,
        };
        Ok(canary::Options {
            noise_multiplier,
            rounds: self.rounds,
            delta: self.delta,
            canaries: self.canaries as usize,
            clients: self.clients as usize,
            coordinates: self.coordinates as usize,
            seed: self.seed,
        })
    }
}

/// Audits, and prints the report.
pub(super) fn run(args: &AuditArgs, format: Format, out: &mut dyn Write) -> u8 {
    let options = match args.options() {
        Ok(options) => options,
        Err(error) => {
            complain(&error);
            return USAGE;
        }
    };
    let scratch = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => {
            complain(&error);
            return FAILED;
        }
    };
    let folder = args.out.as_deref().unwrap_or(scratch.path());
    let report = match canary::run(&options, folder, clock::now, &Progress::on_stderr()) {
        Ok(report) => report,
        Err(error) => {
            complain(&error);
            return FAILED;
        }
    };
    let written = match format {
        Format::Text => write!(out, "{}", report.table()),
        Format::Json => writeln!(out, "{}", report.json()),
    };
    if let Err(error) = written.and_then(|()| out.flush()) {
        complain(&error);
        return FAILED;
    }
    if report.consistent() { DONE } else { UNSOUND }
}

fn noise_multiplier(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(multiplier) if (0.1..=10_000.0).contains(&multiplier) => Ok(multiplier),
        _ => Err("a noise multiplier is a number from 0.1 to 10000, as in a plan".into()),
    }
}

fn delta(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(delta) if (1e-15..=1e-2).contains(&delta) => Ok(delta),
        _ => Err("delta is a number from 1e-15 to 0.01, as in a plan".into()),
    }
}
