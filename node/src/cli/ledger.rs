//! `semisam-node ledger verify`: chain, signatures and rules of this site's own ledger, and its payloads.
//!
//! `semisam-audit verify` checks the same without trusting this program.

use std::{io, path::Path};

use semisam_shared::{accounting::Adjacency, ids::Digest};
use serde::Serialize;

use super::{Dir, Exit, Failure, Format, Rim, budget::Cost};
use crate::{
    privacy::{book, release::payload_path},
    site_folder::SiteFolder,
};

/// Commands on the ledger.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Ledger {
    /// Check every record against chain, signature and rules
    Verify(Dir),
}

/// Something is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// In which file.
    pub file: String,
    /// In which record, counted from 0.
    pub record: u64,
    /// What.
    pub problem: String,
}

/// What the check found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// `sound` or `unsound`.
    pub verdict: &'static str,
    /// How many sound records there are.
    pub records: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What the sound records spent.
    pub epsilon: Cost,
}

impl Ledger {
    pub(super) fn run(self, rim: &mut Rim<'_>) -> Result<Exit, Failure> {
        let Ledger::Verify(Dir { dir }) = self;
        let verdict = verify(&SiteFolder::open(&dir)?)?;
        if rim.format == Format::Json {
            rim.json(&verdict)?;
        } else {
            rim.table(&[
                ("verdict", verdict.verdict.to_owned()),
                ("records", verdict.records.to_string()),
                ("epsilon spent", verdict.epsilon.in_words()),
            ])?;
            for Finding { file, record, problem } in &verdict.findings {
                writeln!(rim.out, "`{file}`, record {record}: {problem}")?;
            }
        }
        Ok(if verdict.findings.is_empty() { Exit::Done } else { Exit::Refused })
    }
}

/// Checks the ledger of a site, and every payload that may still be sent. Changes nothing.
///
/// # Errors
/// If the ledger cannot be read at all.
pub fn verify(folder: &SiteFolder) -> Result<Verdict, Failure> {
    let path = folder.ledger();
    let reading = book::reading(&path)?;
    let mut findings = Vec::new();
    let mut found = |file: &Path, record: u64, problem: String| {
        findings.push(Finding { file: file.display().to_string(), record, problem });
    };
    if let Some((record, problem)) = reading.finding {
        found(&path, record, problem);
    } else if reading.torn > 0 {
        let problem = format!(
            "{} bytes of an unfinished record stand at the end: a crash leaves that, and the next start of the node \
             cuts it off; if it comes back, the file was changed",
            reading.torn
        );
        found(&path, reading.records, problem);
    }
    match &reading.ledger.owner {
        None => found(&path, 0, "there is no first record".into()),
        Some(owner) if owner.key != folder.signing_key()?.public() => {
            found(&path, 0, "it is not signed by this folder's `signing.key`".into());
        }
        Some(_) => {}
    }
    for committed in reading.ledger.releases.values().filter(|release| release.receipt.is_none()) {
        let payload = payload_path(&folder.payloads(), committed.payload);
        match std::fs::read(&payload) {
            Ok(bytes) if Digest::of(&bytes) == committed.payload => {}
            Ok(_) => found(&payload, committed.commit, "it is not the update that was committed".into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                found(&payload, committed.commit, "the update that was committed is missing".into());
            }
            Err(error) => found(&payload, committed.commit, format!("it cannot be read: {error}")),
        }
    }
    let delta = reading.ledger.policy.as_ref().map_or(0.0, |policy| policy.delta.get());
    let epsilon = Cost {
        rho: reading.ledger.spent.value(),
        add_remove: reading.ledger.epsilon(Adjacency::AddRemove),
        replace_one: reading.ledger.epsilon(Adjacency::ReplaceOne),
        delta,
    };
    let verdict = if findings.is_empty() { "sound" } else { "unsound" };
    Ok(Verdict { verdict, records: reading.records, findings, epsilon: epsilon.rounded_up() })
}
