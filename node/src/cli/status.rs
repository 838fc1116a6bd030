//! `semisam-node status`: how this site stands, from its own folder alone.

use semisam_shared::{clock, ids::RoundNumber};
use serde::Serialize;

use super::{Dir, Exit, Failure, Format, Rim, budget::Account};
use crate::{privacy::book, site_folder::SiteFolder};

/// Arguments of `status`.
#[derive(Clone, Debug, clap::Args)]
pub struct Status {
    #[command(flatten)]
    site: Dir,
}

/// The site's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// Until when it is valid.
    pub valid_until: Option<String>,
    /// How many days are left.
    pub days_left: Option<u64>,
    /// What is wrong with it.
    pub problem: Option<String>,
}

/// Releases, over all plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Releases {
    /// Paid for and on disk.
    pub committed: usize,
    /// Confirmed by the coordinator.
    pub acked: usize,
}

/// How the site stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standing {
    /// What people call it.
    pub name: String,
    /// Its number.
    pub site: String,
    /// Whether a certificate was installed.
    pub enrolled: bool,
    /// The certificate.
    pub certificate: Certificate,
    /// Where the coordinator is.
    pub coordinator: String,
    /// How many plans are approved.
    pub plans_approved: usize,
    /// Releases.
    pub releases: Releases,
    /// The newest round that was released.
    pub last_round: Option<RoundNumber>,
    /// How many records the ledger has.
    pub records: u64,
    /// When the last one was written.
    pub last_record: Option<String>,
    /// What was spent and what is left.
    pub budget: Account,
}

impl Status {
    pub(super) fn run(self, rim: &mut Rim<'_>) -> Result<Exit, Failure> {
        let standing = standing(&SiteFolder::open(&self.site.dir)?)?;
        if rim.format == Format::Json {
            rim.json(&standing)?;
            return Ok(Exit::Done);
        }
        let Standing { certificate, releases, budget, .. } = &standing;
        let valid = match (&certificate.problem, &certificate.valid_until, certificate.days_left) {
            (Some(problem), ..) => problem.clone(),
            (None, Some(until), Some(days)) => format!("valid until {until} ({days} days left)"),
            _ => "none yet: send tls/request.csr to the consortium, then `semisam-node enroll`".into(),
        };
        let last = standing.last_round.map_or("none".to_owned(), |round| round.to_string());
        rim.table(&[
            ("name", standing.name.clone()),
            ("site number", standing.site.clone()),
            ("certificate", valid),
            ("coordinator", standing.coordinator.clone()),
            ("plans approved", standing.plans_approved.to_string()),
            ("releases", format!("{} committed, {} confirmed", releases.committed, releases.acked)),
            ("last round", last),
            ("ledger", format!("{} records", standing.records)),
            ("epsilon spent", budget.spent.in_words()),
            ("epsilon left", budget.left.in_words()),
        ])?;
        Ok(Exit::Done)
    }
}

/// How a site stands.
///
/// # Errors
/// If its folder or ledger cannot be used.
pub fn standing(folder: &SiteFolder) -> Result<Standing, Failure> {
    let config = folder.config()?;
    let reading = book::sound(&folder.ledger())?;
    let budget = Account::of(&reading.ledger);
    let releases = &reading.ledger.releases;
    let newest = releases.iter().max_by_key(|(_, committed)| committed.commit);
    Ok(Standing {
        name: config.name,
        site: budget.site.clone(),
        enrolled: folder.is_enrolled(),
        certificate: certificate(folder),
        coordinator: config.coordinator,
        plans_approved: reading.ledger.approved.len(),
        releases: Releases {
            committed: releases.len(),
            acked: releases.values().filter(|release| release.receipt.is_some()).count(),
        },
        last_round: newest.map(|(query, _)| query.round),
        records: reading.records,
        last_record: reading.last.map(|at| at.to_string()),
        budget,
    })
}

fn certificate(folder: &SiteFolder) -> Certificate {
    if !folder.is_enrolled() {
        return Certificate::default();
    }
    let now = clock::now();
    match folder.tls().check(now) {
        Ok(identity) => Certificate {
            valid_until: Some(identity.not_after.to_string()),
            days_left: Some(identity.not_after.0.saturating_sub(now.0) / 86_400_000),
            problem: None,
        },
        Err(error) => Certificate { problem: Some(error.to_string()), ..Certificate::default() },
    }
}
