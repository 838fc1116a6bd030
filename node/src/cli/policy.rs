//! `semisam-node policy show|set|approve`: what this hospital allows, and which plans its data protection officer approved.

use std::path::PathBuf;

use semisam_shared::{clock, ids::Digest};
use serde_json::json;

use super::{Dir, Exit, Failure, Format, Rim, approve};
use crate::{config, privacy::book, site_folder::SiteFolder};

/// Commands on the policy.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Policy {
    /// Show the policy in force, and whether policy.toml differs
    Show(Dir),
    /// Put policy.toml into force: record it in the ledger
    Set(Dir),
    /// Approve the coordinator's plan, if it is the one with this digest and within policy
    Approve(Approve),
}

/// Arguments of `policy approve`.
#[derive(Clone, Debug, clap::Args)]
pub struct Approve {
    /// The plan's digest, as the consortium told it over another channel
    pub digest: Digest,
    #[command(flatten)]
    pub(super) site: Dir,
    /// Who approves [default: `approver` of node.toml]
    #[arg(long)]
    pub approver: Option<String>,
}

impl Policy {
    pub(super) fn run(self, rim: &mut Rim<'_>) -> Result<Exit, Failure> {
        match self {
            Policy::Show(Dir { dir }) => show(&SiteFolder::open(&dir)?, rim),
            Policy::Set(Dir { dir }) => set(&SiteFolder::open(&dir)?, rim),
            Policy::Approve(command) => approve::run(&command, rim),
        }
    }
}

fn rows(policy: &semisam_shared::policy::Policy) -> Vec<(&'static str, String)> {
    let architectures: Vec<String> = policy.architectures.iter().map(Digest::to_string).collect();
    vec![
        ("epsilon at most, over all plans (add/remove)", policy.epsilon_max.to_string()),
        ("at delta", policy.delta.to_string()),
        ("noise multiplier at least", policy.noise_multiplier_min.to_string()),
        ("patients at least", policy.patients_min.to_string()),
        ("rounds at most", policy.rounds_max.to_string()),
        ("architectures", if architectures.is_empty() { "any".into() } else { architectures.join(" ") }),
    ]
}

fn show(folder: &SiteFolder, rim: &mut Rim<'_>) -> Result<Exit, Failure> {
    let path: PathBuf = folder.policy_file();
    let in_force = book::sound(&folder.ledger())?.ledger.policy;
    let written = config::load_policy(&path);
    let same = written.as_ref().is_ok_and(|written| Some(written) == in_force.as_ref());
    if rim.format == Format::Json {
        rim.json(&json!({"policy": in_force, "file": path, "file_in_force": same}))?;
        return Ok(Exit::Done);
    }
    match &in_force {
        Some(policy) => rim.table(&rows(policy))?,
        None => writeln!(rim.out, "no policy is in force: semisam-node policy set")?,
    }
    match written {
        Err(error) => tracing::warn!("{error}"),
        Ok(_) if !same => {
            tracing::warn!(
                "`{}` differs from the policy in force: `semisam-node policy set` records it",
                path.display()
            );
        }
        Ok(_) => {}
    }
    Ok(Exit::Done)
}

fn set(folder: &SiteFolder, rim: &mut Rim<'_>) -> Result<Exit, Failure> {
    let policy = config::load_policy(&folder.policy_file())?;
    let mut book = folder.book()?;
    let changed = book.ledger().policy.as_ref() != Some(&policy);
    if changed {
        book.policy(policy.clone(), clock::now())?;
    }
    for (digest, approval) in &book.ledger().approved {
        for objection in policy.objections(&approval.plan.plan) {
            tracing::warn!("approved plan {} can no longer be served: {objection}", digest.short());
        }
    }
    if rim.format == Format::Json {
        rim.json(&json!({"policy": policy, "changed": changed}))?;
        return Ok(Exit::Done);
    }
    rim.table(&rows(&policy))?;
    writeln!(rim.out, "{}", if changed { "recorded in the ledger, in force" } else { "was in force already" })?;
    Ok(Exit::Done)
}
