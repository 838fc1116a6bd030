//! `init`, `enroll`, `revoke`: who takes part.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use semisam_shared::clock;
use serde_json::json;

use super::{Failure, Output, Place};
use crate::{
    disk::{self, DiskError},
    enrol,
    folder::Folder,
    found::{self, Founding},
    status::Known,
};

#[derive(Debug, Args)]
pub(super) struct Init {
    #[command(flatten)]
    place: Place,
    /// The plan: TOML, without digests (see deploy/plan.toml)
    #[arg(long)]
    plan: PathBuf,
    /// The model before round 1 (safetensors)
    #[arg(long)]
    model: PathBuf,
    /// The basis of the release space (safetensors), if the plan has one
    #[arg(long)]
    basis: Option<PathBuf>,
    /// The UDP address to listen on
    #[arg(long, default_value = "127.0.0.1:7443")]
    listen: SocketAddr,
    /// DNS name or IP address by which hospitals call the coordinator; may be given several times
    #[arg(long, value_name = "DNS-OR-IP")]
    name: Vec<String>,
}

pub(super) fn init(arguments: &Init, output: &mut Output<'_>) -> Result<(), Failure> {
    let founding = Founding {
        plan: arguments.plan.clone(),
        model: arguments.model.clone(),
        basis: arguments.basis.clone(),
        listen: arguments.listen,
        names: arguments.name.clone(),
    };
    let root = &arguments.place.dir;
    let founded = found::found(root, &founding, clock::now())?;
    let authority = Folder::new(root).authority_certificate();
    let document = json!({
        "dir": root,
        "plan": founded.digest,
        "name": founded.plan.name,
        "coordinator": founded.coordinator,
        "consortium": founded.consortium,
        "listen": arguments.listen.to_string(),
        "names": founded.names,
        "authority": authority,
    });
    output.document(&document, || {
        format!(
            "plan       {}\nfounded    `{}` in `{}`\nreached as {}\nnext       enroll each hospital with its request: \
             semisam-coordinator enroll --dir {} --request hospital.csr",
            founded.digest,
            founded.plan.name,
            root.display(),
            founded.names.join(", "),
            root.display()
        )
    })
}

#[derive(Debug, Args)]
pub(super) struct Enroll {
    #[command(flatten)]
    place: Place,
    /// The site's request (PEM), made by `semisam-node init`
    #[arg(long)]
    request: PathBuf,
    /// Where to write the certificate for the site, besides the coordinator's own copy
    #[arg(long)]
    out: Option<PathBuf>,
    /// How many days the certificate is valid
    #[arg(long, default_value_t = 90)]
    days: u32,
}

pub(super) fn enroll(arguments: &Enroll, output: &mut Output<'_>) -> Result<(), Failure> {
    let folder = Folder::open(&arguments.place.dir)?;
    let request = &arguments.request;
    let text = std::fs::read_to_string(request).map_err(DiskError::at("read", request))?;
    let enrolled = enrol::enrol(&folder, &text, arguments.days, clock::now())?;
    if let Some(out) = &arguments.out {
        disk::write(out, enrolled.pem.as_bytes())?;
    }
    let certificate = arguments.out.as_ref().unwrap_or(&enrolled.certificate);
    let authority = folder.authority_certificate();
    let document = json!({
        "name": enrolled.name,
        "site": enrolled.site,
        "certificate": certificate,
        "authority": authority,
        "days": arguments.days,
    });
    output.document(&document, || {
        format!(
            "name  {}\nsite  {}\nCompare the site number with the hospital by telephone before you send `{}` and `{}`.",
            enrolled.name,
            enrolled.site,
            certificate.display(),
            authority.display()
        )
    })
}

#[derive(Debug, Args)]
pub(super) struct Revoke {
    #[command(flatten)]
    place: Place,
    /// The site: the name in its certificate, or its number of 64 hex digits
    site: String,
}

pub(super) fn revoke(arguments: &Revoke, output: &mut Output<'_>) -> Result<(), Failure> {
    let folder = Folder::open(&arguments.place.dir)?;
    let known = Known::read(&folder)?;
    let site = enrol::find(&folder, known.federation(), &arguments.site)?;
    let mut revoked = folder.read_revoked()?;
    if !revoked.contains(&site) {
        revoked.push(site);
        folder.write_revoked(&revoked)?;
    }
    let member = known.federation().members.get(&site);
    let document = json!({ "site": site, "name": member.map(|member| &member.name), "revoked": true });
    output.document(&document, || {
        format!("site {site} is excluded; a coordinator that serves takes note within a second")
    })
}
