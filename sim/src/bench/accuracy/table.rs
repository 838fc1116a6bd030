//! The table, in Markdown: what goes into `BENCHMARKS.md`.

use std::fmt::Write;

use semisam_node::train::local::Method;

use super::{
    baselines::Baseline,
    runs::{Of, Settings, Start, name},
};
use crate::bench::record::{Record, Score, Spread};

/// A number of a score, where it is defined.
type Metric = fn(&Score) -> Option<f64>;

/// All of it: one table of Dice and one of each distance, then what no training is worth.
pub fn table(settings: &Settings, record: &Record<Of>) -> String {
    let mut text = String::new();
    let metrics: [(&str, usize, Metric); 3] = [
        ("Dice", 3, |score| Some(score.dice)),
        ("HD95, mm", 1, |score| score.hd95_mm),
        ("ASSD, mm", 2, |score| score.assd_mm),
    ];
    for (metric, digits, of) in metrics {
        let columns: String = settings.labels.iter().map(|labels| format!(" {labels} labelled |")).collect();
        let _ = writeln!(text, "| {metric} at {} mm |{columns} minutes |", settings.spacing_mm);
        let _ = writeln!(text, "|---|{}---|", "---|".repeat(settings.labels.len()));
        for &start in &settings.starts {
            for &method in &settings.methods {
                text += &row(settings, record, (start, method), digits, of);
            }
        }
        text.push('\n');
    }
    text += &without_training(settings, record);
    text
}

/// Mean and spread over seeds, for each number of labels.
fn row(
    settings: &Settings,
    record: &Record<Of>,
    (start, method): (Start, Method),
    digits: usize,
    of: Metric,
) -> String {
    let cell = |labels: &usize| {
        let scores: Vec<Score> = (1..=settings.seeds)
            .filter_map(|seed| record.find(&Of::training(&settings.run(start, method, *labels, seed))))
            .collect();
        let values: Vec<f64> = scores.iter().filter_map(of).collect();
        let undefined: u64 = scores.iter().map(|score| score.undefined).sum();
        let missed = if undefined > 0 { format!(" ({undefined} empty)") } else { String::new() };
        Spread::of(&values).map_or(" - |".to_owned(), |spread| format!(" {}{missed} |", spread.cell(digits)))
    };
    let cells: String = settings.labels.iter().map(cell).collect();
    let minutes = record.seconds(|of| of.is_of(start, method, settings));
    let minutes = minutes.map_or("-".to_owned(), |seconds| format!("{:.1}", seconds / 60.0));
    format!("| {}, {} |{cells} {minutes} |\n", name(method), name(start))
}

fn without_training(settings: &Settings, record: &Record<Of>) -> String {
    let mut text =
        format!("| without training, {} mm | Dice | HD95, mm | ASSD, mm |\n|---|---|---|---|\n", settings.spacing_mm);
    for baseline in Baseline::all(settings) {
        if let Some(score) = record.find(&Of::baseline(baseline, settings)) {
            let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
            let _ = writeln!(
                text,
                "| {baseline} | {:.3} | {} | {} |",
                score.dice,
                number(score.hd95_mm),
                number(score.assd_mm)
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::accuracy::runs::tests::settings;

    #[test]
    fn cells_are_means_over_seeds_and_missing_ones_say_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut record = Record::open(&folder.path().join("runs.jsonl")).expect("nothing yet");
        let settings = Settings {
            starts: vec![Start::Warm],
            methods: vec![Method::Semisam],
            labels: vec![1, 2],
            seeds: 2,
            ..settings()
        };
        for (seed, dice) in [(1, 0.7), (2, 0.8)] {
            let score = Score { dice, hd95_mm: (seed == 1).then_some(9.0), assd_mm: None, undefined: seed - 1 };
            record
                .add(Of::training(&settings.run(Start::Warm, Method::Semisam, 1, seed)), score, Some(30.0))
                .expect("written");
        }
        let text = table(&settings, &record);
        assert!(text.contains("| semisam, warm | 0.750 ± 0.071 (1 empty) | - | 0.5 |"), "{text}");
        assert!(text.contains("| semisam, warm | 9.0 (1 seed) (1 empty) | - | 0.5 |"), "{text}");
    }
}
