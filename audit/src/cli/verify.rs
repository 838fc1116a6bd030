//! `verify`: the report on a folder of logs.

use std::{collections::BTreeMap, io::Write, path::Path};

use serde::Serialize;

use super::{Failure, Format, UNSOUND};
use crate::verify::{Federation, Finding, SiteEpsilon, Verdict, verify};

#[derive(Debug, Serialize)]
struct Document<'a> {
    verdict: &'a str,
    findings: &'a [Finding],
    notes: &'a [String],
    epsilon: &'a BTreeMap<String, SiteEpsilon>,
    federations: &'a [Federation],
    rounds: u64,
    rounds_recomputed: u64,
    journal_records: u64,
    ledgers: u64,
}

pub(super) fn run(folder: &Path, format: Format, out: &mut dyn Write) -> Result<u8, Failure> {
    let verdict = verify(folder)?;
    let word = if verdict.is_sound() { "sound" } else { "unsound" };
    match format {
        Format::Json => {
            let document = Document {
                verdict: word,
                findings: &verdict.findings,
                notes: &verdict.notes,
                epsilon: &verdict.epsilon,
                federations: &verdict.federations,
                rounds: verdict.rounds,
                rounds_recomputed: verdict.rounds_recomputed,
                journal_records: verdict.journal_records,
                ledgers: verdict.ledgers,
            };
            writeln!(out, "{}", serde_json::to_string(&document)?)?;
        }
        Format::Text => write_report(word, &verdict, out)?,
    }
    Ok(if verdict.is_sound() { 0 } else { UNSOUND })
}

fn write_report(word: &str, verdict: &Verdict, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "verdict: {word}")?;
    writeln!(
        out,
        "{} journal records, {} ledgers, {} rounds closed, {} of them computed again bit for bit",
        verdict.journal_records, verdict.ledgers, verdict.rounds, verdict.rounds_recomputed
    )?;
    for federation in &verdict.federations {
        writeln!(
            out,
            "federation `{}`, plan {}: ask the consortium whether its key is {} and its coordinator's {}",
            plain(&federation.name),
            federation.plan,
            federation.consortium,
            federation.coordinator
        )?;
    }
    for Finding { file, record, problem, .. } in &verdict.findings {
        match record {
            Some(record) => writeln!(out, "finding: `{}`, record {record}: {}", plain(file), plain(problem))?,
            None => writeln!(out, "finding: `{}`: {}", plain(file), plain(problem))?,
        }
    }
    for note in &verdict.notes {
        writeln!(out, "note: {}", plain(note))?;
    }
    if verdict.epsilon.is_empty() {
        return Ok(());
    }
    let width = verdict.epsilon.keys().map(|name| name.chars().count()).max().unwrap_or(0).max("site".len());
    writeln!(
        out,
        "\n{:width$}  {:>10}  {:>11}  {:>8}  {:>8}  {:>8}  {:>9}  unit",
        "site", "add/remove", "replace-one", "ceiling", "delta", "releases", "abandoned"
    )?;
    for (name, spent) in &verdict.epsilon {
        let number = |value: Option<f64>| value.map_or_else(|| "none".to_owned(), |value| value.to_string());
        writeln!(
            out,
            "{:width$}  {:>10.6}  {:>11.6}  {:>8}  {:>8}  {:>8}  {:>9}  {}",
            plain(name),
            spent.add_remove,
            spent.replace_one,
            number(spent.epsilon_max),
            number(spent.delta),
            spent.releases,
            spent.abandoned,
            spent.unit
        )?;
    }
    Ok(())
}

/// Text from a log, so that it cannot command the reader's terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
