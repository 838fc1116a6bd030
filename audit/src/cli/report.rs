//! `report`: an audit as a page for people who decide, or as a document for programs.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;

use super::{Failure, Format, UNSOUND};
use crate::report::Report;

#[derive(Debug, Args)]
pub(super) struct Question {
    /// The folder of a coordinator, of a node, or one that holds several of them.
    folder: PathBuf,
    /// Where the page goes; it is replaced if it is there. Needed unless `--format json` asks for the document alone.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(question: &Question, format: Format, out: &mut dyn Write) -> Result<u8, Failure> {
    if question.out.is_none() && format == Format::Text {
        return Err(Failure::Usage("`--out report.html` is missing: where does the page go?".into()));
    }
    let report = Report::on(&question.folder)?;
    if let Some(path) = &question.out {
        write(path, &report.to_html()?)?;
    }
    match (format, &question.out) {
        (Format::Json, _) => writeln!(out, "{}", serde_json::to_string(&report)?)?,
        (Format::Text, Some(path)) => {
            writeln!(
                out,
                "verdict: {}{}, {} findings; the report is in `{}`",
                report.verdict,
                if report.is_sound() && !report.complete { " as far as it goes" } else { "" },
                report.findings.len(),
                path.display()
            )?;
        }
        (Format::Text, None) => {}
    }
    Ok(if report.is_sound() { 0 } else { UNSOUND })
}

/// Beside its place first, so that a full disk leaves no half of a report.
fn write(path: &Path, page: &str) -> Result<(), anyhow::Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let beside = path.with_file_name(name);
    let write = || fs::write(&beside, page).and_then(|()| fs::rename(&beside, path));
    let failed = || format!("cannot write `{}`: check that its folder exists and can be written", path.display());
    write().with_context(failed)
}
