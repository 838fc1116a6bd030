//! `semisam-node policy approve DIGEST`: a data protection officer's word that this hospital takes part in a plan.
//!
//! The digest comes from the consortium over another channel, so that whoever controls the coordinator cannot put
//! another plan in its place. The plan is told in words, with what it costs, before it is recorded.

use std::time::Duration;

use semisam_shared::{
    clock,
    ids::{Digest, PublicKey, UnixMillis},
    ledger::Ledger,
    plan::{Plan, PlanError, ReleaseSpace, SignedPlan, Unit},
};
use serde_json::json;

use super::{Exit, Failure, Format, Rim, budget::Cost, policy::Approve};
use crate::{
    client::{Client, ClientError, Welcome},
    config::NodeConfig,
    model::shipped,
    privacy::book::{Book, BookError},
    site_folder::SiteFolder,
};

/// How long a closed connection may take to say so.
const HANG_UP: Duration = Duration::from_millis(50);

/// A plan was not approved.
#[derive(Debug, thiserror::Error)]
pub enum ApproveError {
    /// Nobody stands for it.
    #[error("who approves? name the data protection officer with `--approver`, or as `approver` in node.toml")]
    NoApprover,
    /// The site has no certificate.
    #[error(
        "this site has no certificate yet: send `tls/request.csr` to the consortium, then run `semisam-node enroll`"
    )]
    NotEnrolled,
    /// The coordinator has another plan.
    #[error(
        "the coordinator's plan has the digest {found}, not {named}: compare the digest with the consortium by telephone before you approve anything"
    )]
    OtherPlan {
        /// What was named.
        named: Digest,
        /// What the coordinator has.
        found: Digest,
    },
    /// It is approved with another coordinator's key.
    #[error("plan {plan} was approved with another coordinator's key: ask the consortium whether its key has changed")]
    OtherCoordinator {
        /// The plan.
        plan: Digest,
    },
    /// The plan has no digest.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Policy forbids it, or the ledger took no record.
    #[error(transparent)]
    Book(#[from] BookError),
}

/// Records that `approver` approved the plan with this digest. Answers false if it was approved before.
///
/// # Errors
/// If it is another plan, not signed, against the policy (the refusal is then recorded), or cannot be recorded.
pub fn approve_plan(
    book: &mut Book,
    plan: SignedPlan,
    coordinator: PublicKey,
    named: Digest,
    approver: &str,
    now: UnixMillis,
) -> Result<bool, ApproveError> {
    let found = plan.plan.digest()?;
    if found != named {
        return Err(ApproveError::OtherPlan { named, found });
    }
    if let Some(approval) = book.ledger().approved.get(&found) {
        let same = approval.coordinator == coordinator;
        return if same { Ok(false) } else { Err(ApproveError::OtherCoordinator { plan: found }) };
    }
    match book.approve(plan, coordinator, approver, now) {
        Ok(_) => Ok(true),
        Err(BookError::Forbidden(violation)) => {
            book.refused(found, None, &violation.to_string(), now)?;
            Err(BookError::Forbidden(violation).into())
        }
        Err(other) => Err(other.into()),
    }
}

/// The plan in words: what it does, whom it protects, what it costs here.
pub fn in_words(plan: &Plan, digest: Digest, ledger: &Ledger) -> Vec<(&'static str, String)> {
    let privacy = &plan.privacy;
    let coordinates = privacy.release.coordinates();
    let noise_to_signal =
        privacy.noise_multiplier.get() * (coordinates as f64).sqrt() / f64::from(privacy.expected_patients);
    let released = match &privacy.release {
        ReleaseSpace::All { .. } => format!("all {coordinates} weights"),
        ReleaseSpace::Tensors { names, .. } => format!("{coordinates} weights of {} tensors", names.len()),
        ReleaseSpace::Basis { .. } => format!("{coordinates} coordinates in a public basis"),
    };
    let unit = match privacy.unit {
        Unit::Patient => "one patient: all scans of that patient at this hospital",
        Unit::Hospital => "this hospital as a whole, not each patient",
    };
    let delta = ledger.policy.as_ref().map_or(privacy.delta, |policy| policy.delta).get();
    let all = plan.rho_in_all();
    let mut rows = vec![
        ("plan", plan.name.clone()),
        ("digest", digest.to_string()),
        ("rounds", plan.rounds.to_string()),
        ("quorum", format!("{} sites", plan.quorum)),
        ("protected unit", unit.to_owned()),
        ("released each round", released),
        ("clip norm", privacy.clip_norm.to_string()),
        ("noise multiplier", privacy.noise_multiplier.to_string()),
        ("expected patients of a site", privacy.expected_patients.to_string()),
        (
            "noise to signal of one site alone",
            format!("{noise_to_signal:.2} (above 1 the noise is longer than the signal)"),
        ),
        ("epsilon of one round", Cost::of(plan.rho_per_round(), delta).in_words()),
        ("epsilon of all rounds", Cost::of(all, delta).in_words()),
    ];
    for generalist in plan.training.guidance.iter().flat_map(|guidance| &guidance.generalists) {
        let whose = match shipped::named(*generalist) {
            Some(name) => format!("`{name}`, which comes with this program"),
            None => format!("the generalist whose file has SHA-256 {generalist}"),
        };
        rows.push(("asked about scans without labels", whose));
    }
    if delta != privacy.delta.get() {
        rows.push(("epsilon of all rounds, at its delta", Cost::of(all, privacy.delta.get()).in_words()));
    }
    rows.push(("epsilon spent here so far", Cost::of(ledger.spent, delta).in_words()));
    rows.push(("epsilon spent here after all rounds", Cost::of(ledger.spent.plus(all), delta).in_words()));
    if let Some(policy) = &ledger.policy {
        rows.push(("the policy's ceiling", format!("{} add/remove", policy.epsilon_max)));
    }
    rows
}

pub(super) fn run(command: &Approve, rim: &mut Rim<'_>) -> Result<Exit, Failure> {
    let folder = SiteFolder::open(&command.site.dir)?;
    let config = folder.config()?;
    let approver = command.approver.clone().or(config.approver.clone()).ok_or(ApproveError::NoApprover)?;
    if !folder.is_enrolled() {
        return Err(Failure::refused(ApproveError::NotEnrolled));
    }
    let mut book = folder.book()?;
    let (plan, welcome) = fetch(&folder, &config, &book).map_err(|error| {
        let exit = if error.may_pass() { Exit::TryAgain } else { Exit::Refused };
        Failure::with_exit(exit, error)
    })?;
    let found = plan.plan.digest()?;
    let rows = in_words(&plan.plan, found, book.ledger());
    if rim.format == Format::Text {
        rim.table(&rows)?;
    }
    let whole = Cost::of(plan.plan.rho_in_all(), plan.plan.privacy.delta.get());
    let name = plan.plan.name.clone();
    let asked = plan.plan.training.guidance.iter().flat_map(|guidance| &guidance.generalists);
    let asks = asked.into_iter().any(|generalist| shipped::named(*generalist).is_none());
    let new = approve_plan(&mut book, plan, welcome.coordinator, command.digest, &approver, clock::now())
        .map_err(Failure::refused)?;
    if rim.format == Format::Json {
        let coordinator = welcome.coordinator;
        rim.json(&json!({
            "digest": found, "name": name, "approver": approver, "coordinator": coordinator, "epsilon": whole, "recorded": new,
        }))?;
        return Ok(Exit::Done);
    }
    let said = if new { "approved, recorded in the ledger" } else { "was approved already" };
    if asks {
        writeln!(rim.out, "copy the files of the generalists into `{}`", folder.generalists().display())?;
    }
    writeln!(rim.out, "{said}; now: semisam-node run --dir {}", command.site.dir.display())?;
    Ok(Exit::Done)
}

fn fetch(folder: &SiteFolder, config: &NodeConfig, book: &Book) -> Result<(SignedPlan, Welcome), ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| ClientError::File {
        action: "start the network for",
        path: folder.path().into(),
        source,
    })?;
    runtime.block_on(async {
        let client = Client::new(&folder.tls(), &config.coordinator, &config.server_name)?;
        let session = client.connect(book.key(), book.head()).await?;
        let (plan, welcome) = (session.plan().await?, session.welcome);
        drop(session);
        // So that the coordinator hears that we hung up, rather than waiting for us to time out.
        tokio::time::sleep(HANG_UP).await;
        Ok((plan, welcome))
    })
}
