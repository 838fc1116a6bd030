//! What an audit found, as a table for people and as one document for programs.

use std::fmt::{self, Write};

use serde::Serialize;

use super::{
    LONG, Options,
    answers::Answers,
    cohort::PATIENTS,
    one_run::{CONFIDENCE, OneRun},
    one_shot::Estimate,
};

/// What no audit can say, so every report says it.
const LIMIT: &str = "An audit can refute a claim. It never certifies one: a better attacker may exist.";

/// What the ledger claims.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Claim {
    /// What the ledger charged (zCDP, add/remove).
    pub rho: f64,
    /// The mu of a Gaussian mechanism with this rho.
    pub mu: f64,
    /// Epsilon of the ledger: a patient's contribution zeroed out.
    pub epsilon_add_remove: f64,
    /// Epsilon of the ledger: a patient exchanged for another.
    pub epsilon_replace_one: f64,
    /// The smallest epsilon (add/remove) of Gaussian noise with this mu, which the ledger's is never below.
    pub epsilon_gaussian: f64,
}

/// Many canaries, each in or out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ManyCanaries {
    /// How many.
    pub canaries: usize,
    /// Their length in units of the clip norm.
    pub length: f64,
    /// Hospitals among which they were dealt.
    pub hospitals: usize,
    /// How many were guessed.
    pub guesses: usize,
    /// How many guesses were right.
    pub right: usize,
    /// How sure the bound is.
    pub confidence: f64,
    /// Epsilon is at least this.
    pub epsilon_lower_bound: f64,
    /// The bound if every guess had been right: a larger epsilon cannot be seen with so few canaries.
    pub most_it_can_show: f64,
}

/// Canary clients of one length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CanaryClients {
    /// How many.
    pub clients: usize,
    /// Their length in units of the clip norm.
    pub length: f64,
    /// How far they stand out.
    pub mu: f64,
    /// The standard error of mu.
    pub standard_error: f64,
    /// Epsilon of a Gaussian mechanism with this mu.
    pub epsilon: f64,
    /// From where on mu contradicts the claim.
    pub mu_limit: f64,
}

/// Questions that were asked twice.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Twice {
    /// Whether the same question got the same bytes.
    pub same_bytes: bool,
    /// Mean squared difference of two rounds: 1 where noise is fresh and of the promised size.
    pub variance: f64,
    /// The least that fresh noise gives.
    pub variance_limit: f64,
}

/// A way in which the claim can be contradicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// More canaries were found than the claim allows.
    OneRun,
    /// Canaries of the clip norm stand out too far: there is too little noise.
    ShortClients,
    /// Canaries above the clip norm stand out too far: there is too little noise, or no clip.
    LongClients,
    /// A question that is asked again gets other bytes.
    SameBytes,
    /// Two rounds share noise, or it is too small.
    FreshNoise,
}

/// What an audit found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// `consistent` or `contradicted`.
    pub verdict: &'static str,
    /// Whose presence the noise hides.
    pub unit: &'static str,
    /// Of the audited plan.
    pub noise_multiplier: f64,
    /// Releases that every canary took part in.
    pub rounds: u32,
    /// The delta of every epsilon.
    pub delta: f64,
    /// Length of a released vector.
    pub coordinates: usize,
    /// Patients besides canaries.
    pub ordinary_patients: usize,
    /// Seed of cohort, canaries and coins.
    pub seed: u64,
    /// What the ledger claims.
    pub claim: Claim,
    /// The audit in one run.
    pub one_run: ManyCanaries,
    /// One-shot canary clients: of the clip norm, and far above it.
    pub one_shot: [CanaryClients; 2],
    /// Questions that were asked twice.
    pub answers: Twice,
    /// What contradicts the claim.
    pub contradictions: Vec<Check>,
    /// What no audit can say.
    pub limit: &'static str,
    /// How long it took.
    pub seconds: f64,
}

impl Report {
    pub(crate) fn new(
        options: Options,
        claim: Claim,
        one_run: OneRun,
        one_shot: [Estimate; 2],
        answers: Answers,
        seconds: f64,
    ) -> Self {
        let [short, long] = one_shot;
        let checks = [
            (one_run.bound.epsilon > claim.epsilon_add_remove, Check::OneRun),
            (short.mu > short.limit, Check::ShortClients),
            (long.mu > long.limit, Check::LongClients),
            (!answers.same_bytes, Check::SameBytes),
            (answers.variance < answers.least, Check::FreshNoise),
        ];
        let contradictions: Vec<Check> = checks.into_iter().filter(|(wrong, _)| *wrong).map(|(_, c)| c).collect();
        let clients = |Estimate { length, clients, mu, standard_error, epsilon, limit }| CanaryClients {
            clients,
            length,
            mu,
            standard_error,
            epsilon,
            mu_limit: limit,
        };
        Self {
            verdict: if contradictions.is_empty() { "consistent" } else { "contradicted" },
            unit: "patient",
            noise_multiplier: options.noise_multiplier,
            rounds: options.rounds,
            delta: options.delta,
            coordinates: options.coordinates,
            ordinary_patients: PATIENTS,
            seed: options.seed,
            claim,
            one_run: ManyCanaries {
                canaries: options.canaries,
                length: LONG,
                hospitals: one_run.hospitals,
                guesses: one_run.bound.guesses,
                right: one_run.bound.right,
                confidence: CONFIDENCE,
                epsilon_lower_bound: one_run.bound.epsilon,
                most_it_can_show: one_run.most,
            },
            one_shot: one_shot.map(clients),
            answers: Twice {
                same_bytes: answers.same_bytes,
                variance: answers.variance,
                variance_limit: answers.least,
            },
            contradictions,
            limit: LIMIT,
            seconds,
        }
    }

    /// Whether nothing contradicts the claim.
    pub fn consistent(&self) -> bool {
        self.contradictions.is_empty()
    }

    /// The document on one line.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("figures are finite")
    }

    /// The same for people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a text cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut dyn Write) -> fmt::Result {
        let Claim { epsilon_add_remove, epsilon_replace_one, epsilon_gaussian, mu, .. } = self.claim;
        let rounds = if self.rounds == 1 { "1 round".to_owned() } else { format!("{} rounds", self.rounds) };
        writeln!(out, "Canaries through the release path of this program, as patients beside {PATIENTS} others:")?;
        writeln!(
            out,
            "{rounds}, noise multiplier {:.4}, {} coordinates, delta {:e}, seed {}.\n",
            self.noise_multiplier, self.coordinates, self.delta, self.seed
        )?;
        writeln!(
            out,
            "the ledger claims  epsilon {epsilon_add_remove:.3} (add/remove), that is {epsilon_replace_one:.3} (replace one)"
        )?;
        writeln!(out, "Gaussian noise so  epsilon {epsilon_gaussian:.3} (add/remove), mu {mu:.3}\n")?;
        writeln!(out, "{:37}  {:37}  {:21}  finding", "check", "measured", "contradicts the claim")?;
        self.write_checks(out)?;
        let most = self.one_run.most_it_can_show;
        if most <= epsilon_add_remove {
            writeln!(
                out,
                "\nThe first check could not show more than epsilon {most:.3}: for this claim it takes more --canaries, or a \
                 smaller --delta."
            )?;
        }
        writeln!(out, "\nverdict: {} ({:.1} s). {LIMIT}", self.verdict, self.seconds)
    }

    fn write_checks(&self, out: &mut dyn Write) -> fmt::Result {
        let mut line = |check: Check, what: String, measured: String, limit: String| {
            let finding = if self.contradictions.contains(&check) { "CONTRADICTED" } else { "consistent" };
            writeln!(out, "{what:37}  {measured:37}  {limit:21}  {finding}")
        };
        let run = &self.one_run;
        line(
            Check::OneRun,
            format!("who was in, {} canaries", run.canaries),
            format!("epsilon >= {:.3} ({} of {} right)", run.epsilon_lower_bound, run.right, run.guesses),
            format!("epsilon >= {:.3}", self.claim.epsilon_add_remove),
        )?;
        for (check, seen) in [Check::ShortClients, Check::LongClients].into_iter().zip(&self.one_shot) {
            let length =
                if seen.length > 1.0 { format!("{} times the clip norm", seen.length) } else { "the clip norm".into() };
            line(
                check,
                format!("{} clients of {length}", seen.clients),
                format!("mu {:.3} +- {:.3}, epsilon {:.3}", seen.mu, seen.standard_error, seen.epsilon),
                format!("mu above {:.3}", seen.mu_limit),
            )?;
        }
        let same = if self.answers.same_bytes { "the same bytes" } else { "other bytes" };
        line(Check::SameBytes, "the same question again".into(), same.into(), "other bytes".into())?;
        line(
            Check::FreshNoise,
            "noise of another round".into(),
            format!("variance {:.4} of the promised", self.answers.variance),
            format!("variance below {:.4}", self.answers.variance_limit),
        )
    }
}
