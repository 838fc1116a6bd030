//! What came out, as a table for people and as the document of DESIGN, section 6 (`summary.json`).

use std::{collections::BTreeMap, fmt::Write, path::PathBuf};

use serde::Serialize;

use super::{
    chaos::{Kill, checks::Checks},
    scores::Case,
    verdict::{Spent, Verdict},
};

/// What a demonstration came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Rounds that were closed.
    pub rounds: u32,
    /// Rounds that the plan has.
    pub rounds_planned: u32,
    /// How many hospitals took part.
    pub hospitals: usize,
    /// Seconds from the first to the last.
    pub wall_s: f64,
    /// Seconds of the rounds alone.
    pub rounds_s: f64,
    /// Which start was used.
    pub start: String,
    /// Where the scans come from.
    pub scans: String,
    /// The plan's digest.
    pub plan: String,
    /// The noise multiplier of the plan.
    pub noise_multiplier: f64,
    /// Overlap with the truth on held-out scans.
    pub dice: Dice,
    /// Surface distance on held-out scans, where defined.
    pub hd95_mm: Hd95,
    /// What each hospital has spent, as the auditor computes it.
    pub epsilon: BTreeMap<String, Spent>,
    /// The auditor's word.
    pub audit: Audit,
    /// Where everything is.
    pub outputs: Outputs,
    /// What was killed, and what held all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chaos: Option<ChaosReport>,
    /// Scores of each held-out scan, by hospital.
    pub held_out: BTreeMap<String, BeforeAfter<Vec<Case>>>,
}

/// A figure of the starting model and of the last one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BeforeAfter<T> {
    /// Of the starting model.
    pub before: T,
    /// Of the last model.
    pub after: T,
}

/// Dice, overall and by hospital.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dice {
    /// Of the starting model, over all held-out scans.
    pub before: f64,
    /// Of the last model, over all held-out scans.
    pub after: f64,
    /// By hospital.
    pub per_site: BTreeMap<String, BeforeAfter<f64>>,
}

/// HD95, overall and by hospital.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hd95 {
    /// Of the starting model.
    pub before: Option<f64>,
    /// Of the last model.
    pub after: Option<f64>,
    /// By hospital.
    pub per_site: BTreeMap<String, BeforeAfter<Option<f64>>>,
}

/// The auditor's word.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Audit {
    /// `sound` or `unsound`.
    pub verdict: String,
    /// What is wrong.
    pub findings: Vec<serde_json::Value>,
    /// Models that the auditor computed again from their updates.
    pub rounds_recomputed: u64,
}

/// Where everything is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outputs {
    /// The last model.
    pub model: PathBuf,
    /// The coordinator's journal.
    pub journal: PathBuf,
    /// The hospitals' ledgers.
    pub ledgers: Vec<PathBuf>,
    /// Prediction of the last model and truth.
    pub picture: PathBuf,
    /// Prediction of the starting model and truth.
    pub picture_before: PathBuf,
    /// This document.
    pub summary: PathBuf,
}

/// What was killed, and what held.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChaosReport {
    /// The seed of the schedule.
    pub seed: u64,
    /// What was killed when.
    pub kills: Vec<Kill>,
    /// What held.
    pub checks: Checks,
}

impl Audit {
    /// The auditor's word without its figures.
    pub(crate) fn of(verdict: &Verdict) -> Self {
        let Verdict { verdict, findings, rounds_recomputed, .. } = verdict.clone();
        Self { verdict, findings, rounds_recomputed }
    }
}

impl Summary {
    /// Whether the auditor is content, and every check of `--chaos` holds.
    pub fn sound(&self) -> bool {
        self.audit.verdict == "sound" && self.chaos.as_ref().is_none_or(|chaos| chaos.checks.hold())
    }

    /// Whether all rounds of the plan were run.
    pub fn complete(&self) -> bool {
        self.rounds == self.rounds_planned
    }

    /// The document on one line.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("names are texts and figures are finite")
    }

    /// The document for `summary.json`.
    pub(crate) fn json_pretty(&self) -> String {
        serde_json::to_string_pretty(self).expect("names are texts and figures are finite")
    }

    /// The same for people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a text cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut dyn Write) -> std::fmt::Result {
        writeln!(out, "\n{} hospitals, {}; the start was {}.", self.hospitals, self.scans, self.start)?;
        let (rounds, planned) = (self.rounds, self.rounds_planned);
        writeln!(out, "{rounds} of {planned} rounds in {:.0} s, {:.0} s in all.\n", self.rounds_s, self.wall_s)?;
        writeln!(
            out,
            "{:12}  {:>11}  {:>10}  {:>15}  {:>14}  {:>20}  {:>21}",
            "held out",
            "Dice before",
            "Dice after",
            "HD95 before, mm",
            "HD95 after, mm",
            "epsilon (add/remove)",
            "epsilon (replace one)"
        )?;
        let distance = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
        for (site, dice) in &self.dice.per_site {
            let spent = self.epsilon.get(site);
            let epsilon = |pick: fn(&Spent) -> Option<f64>| {
                spent.and_then(pick).map_or("-".to_owned(), |epsilon| format!("{epsilon:.3}"))
            };
            let hd95 = self.hd95_mm.per_site.get(site);
            writeln!(
                out,
                "{site:12}  {:>11.3}  {:>10.3}  {:>15}  {:>14}  {:>20}  {:>21}",
                dice.before,
                dice.after,
                distance(hd95.and_then(|hd95| hd95.before)),
                distance(hd95.and_then(|hd95| hd95.after)),
                epsilon(|spent| spent.add_remove),
                epsilon(|spent| spent.replace_one),
            )?;
        }
        let (before, after) = (distance(self.hd95_mm.before), distance(self.hd95_mm.after));
        writeln!(
            out,
            "{:12}  {:>11.3}  {:>10.3}  {before:>15}  {after:>14}",
            "overall", self.dice.before, self.dice.after
        )?;
        if let Some(delta) = self.epsilon.values().find_map(|spent| spent.delta) {
            writeln!(
                out,
                "\nepsilon is each patient's, at delta {delta:e}; the noise multiplier is {}.",
                self.noise_multiplier
            )?;
        }
        self.outputs.write(out)?;
        if let Some(chaos) = &self.chaos {
            chaos.write(out)?;
        }
        let recomputed = self.audit.rounds_recomputed;
        writeln!(out, "\nverdict of semisam-audit: {} ({recomputed} rounds computed again)", self.audit.verdict)?;
        for finding in &self.audit.findings {
            writeln!(out, "  {finding}")?;
        }
        Ok(())
    }
}

impl Outputs {
    fn write(&self, out: &mut dyn Write) -> std::fmt::Result {
        writeln!(out, "\nmodel     {}", self.model.display())?;
        writeln!(out, "picture   {} (prediction red, truth green)", self.picture.display())?;
        writeln!(out, "journal   {}", self.journal.display())?;
        for ledger in &self.ledgers {
            writeln!(out, "ledger    {}", ledger.display())?;
        }
        writeln!(out, "summary   {}", self.summary.display())
    }
}

impl ChaosReport {
    fn write(&self, out: &mut dyn Write) -> std::fmt::Result {
        writeln!(out, "\nchaos with seed {}: {} programs were killed and started again", self.seed, self.kills.len())?;
        for kill in &self.kills {
            let met = if kill.met { "" } else { ", but came too late" };
            writeln!(out, "  {:6.1} s  {:12} round {}, {}{met}", kill.at_s, kill.program, kill.round, kill.moment)?;
        }
        if self.checks.hold() {
            return writeln!(
                out,
                "  no round lost, nothing counted twice, no release charged twice, the same bytes everywhere"
            );
        }
        self.checks.problems.iter().try_for_each(|problem| writeln!(out, "  problem: {problem}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::chaos::Moment;

    fn summary() -> Summary {
        let site = |before, after| BTreeMap::from([("hospital-a".to_owned(), BeforeAfter { before, after })]);
        let spent = Spent { add_remove: Some(7.98), replace_one: Some(19.1), delta: Some(1e-5), abandoned: 0 };
        let hd95 = BTreeMap::from([("hospital-a".to_owned(), BeforeAfter { before: None, after: Some(7.5) })]);
        Summary {
            rounds: 10,
            rounds_planned: 10,
            hospitals: 1,
            wall_s: 100.0,
            rounds_s: 60.0,
            start: "weakly trained".into(),
            scans: "synthetic scans".into(),
            plan: "00".into(),
            noise_multiplier: 1.9,
            dice: Dice { before: 0.4, after: 0.7, per_site: site(0.4, 0.7) },
            hd95_mm: Hd95 { before: None, after: Some(7.5), per_site: hd95 },
            epsilon: BTreeMap::from([("hospital-a".to_owned(), spent)]),
            audit: Audit { verdict: "sound".into(), findings: vec![], rounds_recomputed: 10 },
            outputs: Outputs {
                model: "demo/model.safetensors".into(),
                journal: "demo/journal.jsonl".into(),
                ledgers: vec!["demo/ledger.jsonl".into()],
                picture: "demo/prediction.png".into(),
                picture_before: "demo/prediction-before.png".into(),
                summary: "demo/summary.json".into(),
            },
            chaos: None,
            held_out: BTreeMap::new(),
        }
    }

    #[test]
    fn the_document_has_the_fields_of_the_contract() {
        let document: serde_json::Value = serde_json::from_str(&summary().json()).expect("JSON");
        for pointer in [
            "/rounds",
            "/hospitals",
            "/wall_s",
            "/dice/before",
            "/dice/after",
            "/dice/per_site/hospital-a/before",
            "/dice/per_site/hospital-a/after",
            "/epsilon/hospital-a/add_remove",
            "/epsilon/hospital-a/replace_one",
            "/epsilon/hospital-a/delta",
        ] {
            assert!(document.pointer(pointer).is_some_and(serde_json::Value::is_number), "{pointer}");
        }
        for pointer in
            ["/audit/verdict", "/outputs/model", "/outputs/journal", "/outputs/ledgers/0", "/outputs/picture"]
        {
            assert!(document.pointer(pointer).is_some_and(serde_json::Value::is_string), "{pointer}");
        }
        assert!(document.get("chaos").is_none());
    }

    #[test]
    fn the_kills_are_in_the_document_and_a_check_that_fails_is_unsound() {
        let kill = Kill { at_s: 1.5, program: "coordinator".into(), moment: Moment::WhileFolding, round: 1, met: true };
        let report = ChaosReport { seed: 9, kills: vec![kill], checks: Checks::default() };
        let mut summary = Summary { chaos: Some(report), ..summary() };
        let document: serde_json::Value = serde_json::from_str(&summary.json()).expect("JSON");
        assert_eq!(document.pointer("/chaos/seed"), Some(&9.into()));
        assert_eq!(document.pointer("/chaos/kills/0/program"), Some(&"coordinator".into()));
        assert_eq!(document.pointer("/chaos/kills/0/moment"), Some(&"while-folding".into()));
        assert!(document.pointer("/chaos/checks/same_bytes").is_some());
        assert!(summary.sound());
        summary.chaos.as_mut().expect("set").checks.problems.push("a round was lost".into());
        assert!(!summary.sound() && summary.table().contains("a round was lost"));
    }

    #[test]
    fn the_table_says_what_a_person_wants_to_know() {
        let text = summary().table();
        for part in ["hospital-a", "0.400", "0.700", "7.980", "19.100", "sound", "demo/model.safetensors", "delta 1e-5"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        let unsound = Summary { audit: Audit { verdict: "unsound".into(), ..summary().audit }, rounds: 9, ..summary() };
        assert!(!unsound.sound() && !unsound.complete());
    }
}
