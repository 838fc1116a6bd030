//! Founds the consortium and enrols the hospitals, with the commands of the guide (`certs/README.md`), in its order.
//!
//! What passes between folders is what would pass between houses: a request one way, a certificate and the authority's
//! certificate the other. Private keys stay where they were made.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use semisam_shared::{
    ids::Digest,
    plan::{PlanError, SignedPlan},
};

use super::{
    children::{ChildError, Invocation, Launcher, Running},
    disk::{self, DiskError},
    layout::{Hospital, Layout},
};
use crate::programs::Program;

/// How long the coordinator may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// The consortium could not be founded.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// A program failed.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// The file system said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The coordinator does not say where it listens.
    #[error("the coordinator did not listen within {} s: see `{}`", PATIENCE.as_secs(), log.display())]
    Silent {
        /// Its log.
        log: PathBuf,
    },
    /// The plan on disk is not readable.
    #[error("the plan `{}` cannot be read back", path.display())]
    Plan {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// The plan on disk has no digest.
    #[error(transparent)]
    Digest(#[from] PlanError),
}

/// The consortium's files for [`found`].
pub(crate) struct Charter<'a> {
    /// The plan without digests.
    pub(crate) plan: &'a Path,
    /// The starting model.
    pub(crate) model: &'a Path,
    /// The public basis.
    pub(crate) basis: &'a Path,
}

/// A coordinator that listens.
#[derive(Debug)]
pub(crate) struct Founded {
    /// The process.
    pub(crate) running: Running,
    /// Where it listens: `ip:port`.
    pub(crate) address: String,
    /// The plan's digest.
    pub(crate) plan: Digest,
    /// What starts it again at the same address.
    pub(crate) again: Invocation,
}

/// The log of the consortium.
pub(crate) fn consortium_log(layout: &Layout) -> PathBuf {
    layout.consortium().join("log.txt")
}

fn coordinator(layout: &Layout, args: &[&dyn AsRef<std::ffi::OsStr>]) -> Invocation {
    Invocation::new("the consortium", Program::Coordinator, &consortium_log(layout), args)
}

fn node(hospital: &Hospital, args: &[&dyn AsRef<std::ffi::OsStr>]) -> Invocation {
    Invocation::new(&hospital.name, Program::Node, &hospital.log(), args)
}

/// Makes the consortium's keys, signs the plan and starts the coordinator on a free port of this machine.
pub(crate) fn found(launcher: &Launcher, layout: &Layout, charter: &Charter<'_>) -> Result<Founded, EnrolmentError> {
    let folder = layout.coordinator();
    let Charter { plan, model, basis } = charter;
    launcher.succeed(&coordinator(
        layout,
        &[
            &"init",
            &"--dir",
            &folder,
            &"--plan",
            plan,
            &"--model",
            model,
            &"--basis",
            basis,
            &"--listen",
            &"127.0.0.1:0",
            &"--name",
            &"127.0.0.1",
        ],
    ))?;
    let digest = plan_digest(&folder.join("plan.json"))?;
    let serve =
        |address: &str| coordinator(layout, &[&"serve", &"--dir", &folder, &"--listen", &address, &"--until-done"]);
    let mut running = launcher.start(serve("127.0.0.1:0"))?;
    let begun = Instant::now();
    let address = loop {
        let written = disk::read_text(&folder.join("address")).unwrap_or_default();
        if written.trim().parse::<std::net::SocketAddr>().is_ok() {
            break written.trim().to_owned();
        }
        running.done()?;
        if begun.elapsed() > PATIENCE {
            return Err(EnrolmentError::Silent { log: consortium_log(layout) });
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let again = serve(&address);
    Ok(Founded { running, address, plan: digest, again })
}

fn plan_digest(path: &Path) -> Result<Digest, EnrolmentError> {
    let text = disk::read(path)?;
    let signed: SignedPlan =
        serde_json::from_slice(&text).map_err(|source| EnrolmentError::Plan { path: path.into(), source })?;
    Ok(signed.plan.digest()?)
}

/// Enrols one hospital, and has its data protection officer approve the plan by its digest.
pub(crate) fn enrol(
    launcher: &Launcher,
    layout: &Layout,
    founded: &Founded,
    hospital: &Hospital,
) -> Result<(), EnrolmentError> {
    let Hospital { name, .. } = hospital;
    let (folder, scans) = (hospital.node(), hospital.scans());
    launcher.succeed(&node(
        hospital,
        &[&"init", &"--dir", &folder, &"--name", name, &"--coordinator", &founded.address, &"--data", &scans],
    ))?;

    let request = layout.requests().join(format!("{name}.csr"));
    disk::copy(&folder.join("tls/request.csr"), &request)?;
    let issued = layout.certificates().join(format!("{name}.pem"));
    launcher.succeed(&coordinator(
        layout,
        &[&"enroll", &"--dir", &layout.coordinator(), &"--request", &request, &"--out", &issued],
    ))?;

    let (certificate, authority) = (hospital.received("certificate.pem"), hospital.received("authority.pem"));
    disk::copy(&issued, &certificate)?;
    disk::copy(&layout.coordinator().join("consortium/authority.pem"), &authority)?;
    launcher.succeed(&node(
        hospital,
        &[&"enroll", &"--dir", &folder, &"--certificate", &certificate, &"--authority", &authority],
    ))?;
    let digest = founded.plan.to_string();
    let approver = format!("data protection officer of {name} (demonstration)");
    launcher
        .succeed(&node(hospital, &[&"policy", &"approve", &digest, &"--dir", &folder, &"--approver", &approver]))?;
    Ok(())
}

/// The command that takes part in all rounds.
pub(crate) fn run_node(hospital: &Hospital) -> Invocation {
    node(hospital, &[&"run", &"--dir", &hospital.node()])
}

/// The command that writes the newest model to a file.
pub(crate) fn export(layout: &Layout, out: &Path) -> Invocation {
    coordinator(layout, &[&"export", &"--dir", &layout.coordinator(), &"--out", &out])
}
