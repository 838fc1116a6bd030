//! `plan`, `status`, `model list`, `export`: what there is to see. None of them takes the journal's lock.

use std::{fmt::Write, path::PathBuf};

use clap::Args;
use semisam_shared::{clock, decimal::Decimal};
use serde_json::json;

use super::{Failure, Output, Place};
use crate::{
    folder::Folder,
    status::{Known, PlanStatus, State, Status},
};

fn read(place: &Place) -> Result<(Folder, Known), Failure> {
    let folder = Folder::open(&place.dir)?;
    let known = Known::read(&folder)?;
    Ok((folder, known))
}

pub(super) fn plan(place: &Place, output: &mut Output<'_>) -> Result<(), Failure> {
    let (_, known) = read(place)?;
    let plan = known.plan()?;
    let pretty = serde_json::to_string_pretty(&plan.plan)?;
    output.document(&plan, || plan_text(&plan, &pretty))
}

fn plan_text(status: &PlanStatus, pretty: &str) -> String {
    let privacy = &status.plan.privacy;
    let show = |value: Option<Decimal>| value.map_or_else(|| "unbounded".to_owned(), |value| value.to_string());
    let cost = &status.epsilon;
    let unit = serde_json::to_value(cost.unit).ok().and_then(|unit| unit.as_str().map(str::to_owned));
    format!(
        "{pretty}\n\nplan     {}\nsigned   by the consortium's key {}\npromise  to each {}, after all {} rounds, at delta {}:\n\
         \x20        epsilon {} if its contribution is zeroed out (add/remove)\n\
         \x20        epsilon {} if it is exchanged for another (replace-one)\n\
         one round costs epsilon {} (add/remove), {} (replace-one)\nupdate   {} bytes a site and round",
        status.digest,
        status.key,
        unit.unwrap_or_default(),
        status.plan.rounds,
        privacy.delta,
        show(cost.add_remove),
        show(cost.replace_one),
        show(status.one_round.add_remove),
        show(status.one_round.replace_one),
        status.plan.update_bytes()
    )
}

pub(super) fn status(place: &Place, output: &mut Output<'_>) -> Result<(), Failure> {
    let (_, known) = read(place)?;
    let status = known.status(clock::now());
    output.document(&status, || status_text(&status))
}

fn status_text(status: &Status) -> String {
    let state = match status.state {
        State::Waiting => "waiting for sites",
        State::Open => "open",
        State::Folding => "folding",
        State::Finished => "finished",
    };
    let mut text = format!(
        "plan      {} (`{}`)\nround     {} of {}, {state}\nmodel     {}\n",
        status.plan, status.name, status.round, status.rounds, status.model
    );
    if let Some(deadline) = status.deadline {
        text += &format!("deadline  {deadline}\n");
    }
    let have = status.sites.iter().filter(|site| site.in_open_round).count();
    text += &format!(
        "sites     {} joined, quorum {}, {have} updates in the open round\n",
        status.sites.len(),
        status.quorum
    );
    for site in &status.sites {
        let now = if site.in_open_round { ", done in this round" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "  {}  {:<8} {:>4} rounds{now}  `{}`",
            site.site.short(),
            site.presence,
            site.contributed,
            site.name
        );
    }
    text
}

pub(super) fn models(place: &Place, output: &mut Output<'_>) -> Result<(), Failure> {
    let (_, known) = read(place)?;
    let models = known.models();
    output.document(&json!({ "models": models }), || {
        let line = |model: &crate::status::ModelStatus| {
            let from = if model.contributors.is_empty() { "initial".into() } else { model.contributors.join(", ") };
            format!("{:>5}  {}  {}  {from}", model.round, model.model, model.at)
        };
        models.iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

#[derive(Debug, Args)]
pub(super) struct Export {
    #[command(flatten)]
    place: Place,
    /// Where to write the model
    #[arg(long)]
    out: PathBuf,
    /// The model after this round; 0 is the initial one, the newest if not given
    #[arg(long)]
    round: Option<u32>,
}

pub(super) fn export(arguments: &Export, output: &mut Output<'_>) -> Result<(), Failure> {
    let (folder, known) = read(&arguments.place)?;
    let model = known.export(&folder, arguments.round, &arguments.out)?;
    let document = json!({ "round": model.round, "model": model.model, "out": arguments.out });
    output.document(&document, || {
        format!("model {} (round {}) is in `{}`", model.model, model.round, arguments.out.display())
    })
}
