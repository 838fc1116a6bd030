//! The command line of `semisam-audit`.
//!
//! Exit codes: 0 sound or done, 1 could not check, 2 unsound or refused by a policy, 64 wrong usage. Results go to standard output, words to
//! standard error.

use std::{ffi::OsString, io::Write, path::PathBuf};

use clap::{Parser, Subcommand, ValueEnum};
use semisam_shared::{causes, listener::Listener};

mod epsilon;
mod plan;
mod report;
mod verify;

/// The exit code of a folder that is unsound.
pub const UNSOUND: u8 = 2;

/// The exit code of a plan that a policy does not allow.
pub const REFUSED: u8 = 2;

/// The exit code of a command line that makes no sense.
pub const USAGE: u8 = 64;

/// Re-computes offline, from the logs alone, what privacy was spent, by whom, for what.
#[derive(Debug, Parser)]
#[command(name = "semisam-audit", version)]
struct Arguments {
    /// How results are written.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check every journal, ledger, plan and store in and below a folder.
    ///
    /// Exit code 0: sound. 2: unsound, with what is wrong. 1: could not be checked. Take copies of the ledgers before
    /// that of the journal if the programs are running, so that the journal knows everything that the ledgers know.
    Verify {
        /// The folder of a coordinator, of a node, or one that holds several of them.
        folder: PathBuf,
    },
    /// Check a folder, and write what was found for people who decide: one HTML file without anything outside it.
    ///
    /// Exit codes as for `verify`: an unsound folder gets a report, too. The same folder always gives the same report.
    Report(report::Question),
    /// What a plan would cost and be worth, and whether a policy allows it, before anybody trains.
    ///
    /// Exit code 0: allowed, or no policy was given. 2: the policy refuses it, with the rules that do.
    Plan(plan::Question),
    /// What releases with a given noise cost.
    Epsilon(epsilon::Question),
}

/// Why a command did not succeed.
#[derive(Debug)]
enum Failure {
    /// The arguments do not make sense together.
    Usage(String),
    /// Something could not be done.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Failed(error.into())
    }
}

/// Runs the program; `arguments` begin with its name. Answers the exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    run(arguments, &mut Listener::new(std::io::stdout().lock()), &mut std::io::stderr().lock())
}

/// [`main`] with results and words going elsewhere.
pub fn run(arguments: impl IntoIterator<Item = OsString>, out: &mut dyn Write, words: &mut dyn Write) -> u8 {
    // Nobody is left to be told if words cannot be written.
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(help) if !help.use_stderr() => return u8::from(write!(out, "{help}").is_err()),
        Err(error) => {
            let _ = write!(words, "{error}");
            return USAGE;
        }
    };
    let done = match arguments.command {
        Command::Verify { folder } => verify::run(&folder, arguments.format, out),
        Command::Report(question) => report::run(&question, arguments.format, out),
        Command::Plan(question) => plan::run(&question, arguments.format, out),
        Command::Epsilon(question) => epsilon::run(&question, arguments.format, out),
    };
    match done {
        Ok(code) => code,
        Err(Failure::Usage(problem)) => {
            let _ = writeln!(words, "error: {problem}");
            USAGE
        }
        Err(Failure::Failed(error)) => {
            let _ = writeln!(words, "error: {}", causes::in_words(error.as_ref()).join(": "));
            1
        }
    }
}
