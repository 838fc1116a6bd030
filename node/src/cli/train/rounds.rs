//! `semisam-node train --method semisam-o1`: rounds of training from scratch, with pseudo-labels made between them.
//!
//! Each round keeps a state of its own, so that the same command goes on in the round where it stopped; what lies between
//! rounds is a function of the round before and is made again.

use std::io::Write;

use semisam_shared::weights::Weights;

use super::{Course, TrainArgs, TrainCommandError, saved};
use crate::{
    cli::progress::Progress,
    generalist::{Generalist, store::Store},
    train::{
        guidance::nobody_to_ask,
        local::{Aid, LocalRun, State},
        rounds::{PseudoLabels, Round, Shown},
    },
};

/// Trains all rounds, or until the command is cancelled; gives the last run, its state, and the share of waiting.
pub(super) fn rounds(
    course: &Course<'_>,
    args: &TrainArgs,
    (plain, start): (&LocalRun, &Weights),
    (generalists, store): (&[Generalist], &Store),
    out: &mut dyn Write,
) -> Result<(LocalRun, State, Option<f64>), TrainCommandError> {
    let Some(generalist) = generalists.first() else {
        return Err(nobody_to_ask().into());
    };
    let progress = Progress::new("embedding scans", course.scans.len());
    let shown = Shown::to(generalist, course.scans, store, &|| progress.step())?;
    drop(progress);
    let mut pseudo_labels = PseudoLabels::first(course.device, plain, start, course.scans, &shown)?;
    let mut number = 1;
    loop {
        let round = Some(Round { number, labels: pseudo_labels.digest() });
        let run = LocalRun { round, ..plain.clone() };
        let path = args.out.join(format!("round-{number}.safetensors"));
        let state = saved(&path, &run)?.unwrap_or_else(|| State::new(&run, start));
        let aid = Aid { pseudo_labels: &pseudo_labels, ..Aid::default() };
        tracing::info!("round {number} of {}", args.rounds);
        let (state, waited) = course.run(&run, state, aid, &path, out)?;
        if state.step < run.steps || number == args.rounds {
            return Ok((run, state, waited));
        }
        pseudo_labels = PseudoLabels::next(course.device, &run, &state.student(&run), course.scans, &shown)?;
        number += 1;
    }
}
