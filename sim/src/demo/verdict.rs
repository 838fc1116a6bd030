//! What the auditor says, by the auditor's own program in a process of its own.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    children::{ChildError, Invocation, Launcher},
    layout::Layout,
};
use crate::programs::Program;

/// There is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum VerdictError {
    /// The program could not be run.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// It wrote something else.
    #[error("`semisam-audit verify` gave no verdict: see `{}`", log.display())]
    Unreadable {
        /// Its log.
        log: PathBuf,
        /// What is wrong with its document.
        #[source]
        source: serde_json::Error,
    },
}

/// What the auditor found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// `sound` or `unsound`.
    pub(crate) verdict: String,
    /// What is wrong.
    pub(crate) findings: Vec<serde_json::Value>,
    /// What each site has spent, by its name.
    pub(crate) epsilon: BTreeMap<String, Spent>,
    /// How many models were computed again from their updates, bit for bit.
    #[serde(default)]
    pub(crate) rounds_recomputed: u64,
}

/// What a hospital has spent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// Epsilon where one patient's contribution is zeroed out.
    pub add_remove: Option<f64>,
    /// Epsilon where one patient is exchanged for another.
    pub replace_one: Option<f64>,
    /// The delta of both.
    pub delta: Option<f64>,
    /// Releases that were lost in a crash, and stay spent.
    #[serde(default)]
    pub abandoned: u64,
}

/// Runs `semisam-audit verify` on everything that the demonstration wrote.
pub(crate) fn audit(launcher: &Launcher, layout: &Layout) -> Result<Verdict, VerdictError> {
    let log = layout.root().join("audit.txt");
    let args: [&dyn AsRef<std::ffi::OsStr>; 4] = [&"verify", &layout.root(), &"--format", &"json"];
    let invocation = Invocation::new("the auditor", Program::Audit, &log, &args);
    let (status, document) = launcher.finish(&invocation)?;
    // An unsound folder is an exit code of 2 and a document all the same; anything else is no verdict.
    if !matches!(status.code(), Some(0 | 2)) {
        return Err(invocation.failed(status).into());
    }
    serde_json::from_str(&document).map_err(|source| VerdictError::Unreadable { log, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_auditors_document_is_read_with_whatever_else_it_says() {
        let text = r#"{"verdict":"sound","findings":[],"notes":["n"],"epsilon":{"hospital-a":{"site":"00","cohort":"c",
            "unit":"patient","add_remove":7.98,"replace_one":19.1,"delta":1e-5,"epsilon_max":10,"releases":10,
            "abandoned":1,"refused":0}},"rounds":10,"rounds_recomputed":10,"journal_records":60,"ledgers":3}"#;
        let verdict: Verdict = serde_json::from_str(text).expect("read");
        assert_eq!(verdict.verdict, "sound");
        assert_eq!(verdict.epsilon["hospital-a"].replace_one, Some(19.1));
        assert_eq!((verdict.epsilon["hospital-a"].abandoned, verdict.rounds_recomputed), (1, 10));
    }
}
