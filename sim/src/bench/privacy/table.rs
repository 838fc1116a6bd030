//! The table, in Markdown: what goes into `BENCHMARKS.md`.

use std::fmt::Write;

use super::{
    Settings,
    runs::{Arm, Of, Training},
};
use crate::bench::record::{Record, Spread};

/// Dice of the common model, and after each hospital has trained it further; mean and deviation over seeds.
pub fn table(settings: &Settings, digest: &semisam_shared::ids::Digest, record: &Record<Of>) -> String {
    let mut text = String::new();
    let columns: String = settings.labelled.iter().map(|labelled| format!(" {labelled} labelled |")).collect();
    let _ = writeln!(text, "| Dice, {} hospitals |{columns}", settings.hospitals);
    let _ = writeln!(text, "|---|{}", "---|".repeat(settings.labelled.len()));
    for row in rows(settings) {
        let cell = |labelled: &usize| {
            let found = (1..=settings.seeds).filter_map(|seed| record.find(&settings.of(digest, *labelled, row, seed)));
            let values: Vec<f64> = found.map(|score| score.dice).collect();
            Spread::of(&values).map_or(" - |".to_owned(), |spread| format!(" {} |", spread.cell(3)))
        };
        let cells: String = settings.labelled.iter().map(cell).collect();
        let _ = writeln!(text, "| {} |{cells}", words(row));
    }
    text
}

/// A row: an arm, and what hospitals do for themselves.
pub type Row = (Arm, Option<Training>);

/// Every arm as it is, then those that have a common model after local training.
pub fn rows(settings: &Settings) -> Vec<Row> {
    let arms = settings.arms();
    let alone = |arm: &Arm| (*arm == Arm::Alone).then_some(settings.alone);
    let tuned = arms.iter().filter(|arm| **arm != Arm::Alone && settings.tune.steps > 0);
    arms.iter().map(|arm| (*arm, alone(arm))).chain(tuned.map(|arm| (*arm, Some(settings.tune)))).collect()
}

fn words((arm, training): Row) -> String {
    let after = if training.is_some() { ", then each for itself" } else { "" };
    match arm {
        Arm::Alone => "each hospital alone".to_owned(),
        Arm::Plain => format!("federation without privacy{after}"),
        Arm::Private(epsilon) => format!("private federation, epsilon {epsilon}{after}"),
    }
}
