//! The command line of `semisam-node`: one file below `cli/` for each command.
//!
//! Results go to standard output, as text for people or as JSON with `--format json`; words and logs go to standard error.
//! Exit codes: 0 done, 1 failed, 2 refused or unsound, 64 wrong usage, 75 try again later.

use std::{
    ffi::OsString,
    fmt,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use clap::{Parser, Subcommand, ValueEnum};
use semisam_kernels::simd;
use semisam_shared::listener::Listener;
use serde::Serialize;
use tracing_subscriber::EnvFilter;

pub mod approve;
pub mod bench;
pub mod budget;
pub mod data;
pub mod enroll;
pub mod evaluate;
mod guides;
pub mod init;
pub mod ledger;
pub mod masks;
mod outcome;
pub mod policy;
pub mod predict;
mod progress;
mod replacing;
pub mod run;
pub mod sam;
pub mod scores;
mod signals;
pub mod status;
pub mod storage;
pub mod student;
pub mod train;
mod viewing;

pub use outcome::{Exit, Failure};
pub use viewing::{Viewing, parse_patch, print, resolve};

/// A hospital's node: trains on scans that never leave, and releases clipped, noised, paid-for updates only.
#[derive(Debug, Parser)]
#[command(name = "semisam-node", version, arg_required_else_help = true)]
struct Arguments {
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

/// What can be asked for.
#[derive(Debug, Subcommand)]
enum Command {
    /// Make the folder of a new site: keys, certificate request, policy, ledger
    Init(init::Init),
    /// Install the certificate that the consortium made from the request
    Enroll(enroll::Enroll),
    /// Show or record the policy, approve a plan
    #[command(subcommand)]
    Policy(policy::Policy),
    /// What was spent, what is left, what the next round costs
    Budget(budget::Budget),
    /// How this site stands
    Status(status::Status),
    /// Check the ledger
    #[command(subcommand)]
    Ledger(ledger::Ledger),
    /// Take part in the federation until all its rounds are done
    Run(run::Run),
    /// Check, convert or synthesise scans
    #[command(subcommand)]
    Data(data::DataCommand),
    /// Compare two segmentations
    Metrics(data::MetricsArgs),
    /// Train a student on local scans, without a federation
    Train(Box<train::TrainArgs>),
    /// Score a student on labelled scans
    Evaluate(evaluate::EvaluateArgs),
    /// Segment a scan
    Predict(predict::PredictArgs),
    /// Pre-train a student on synthetic anatomy; check imported weights against the original implementation
    Student(student::StudentArgs),
    /// Use a generalist on its own: segment from points, embed, score; pre-train a small one; compare a SAM-Med3D
    #[command(subcommand)]
    Sam(sam::SamCommand),
    /// Measure speed and memory of this machine
    Bench(bench::BenchArgs),
}

impl Command {
    fn run(self, rim: &mut Rim<'_>) -> Result<Exit, Failure> {
        match self {
            Command::Init(command) => command.run(rim),
            Command::Enroll(command) => command.run(rim),
            Command::Policy(command) => command.run(rim),
            Command::Budget(command) => command.run(rim),
            Command::Status(command) => command.run(rim),
            Command::Ledger(command) => command.run(rim),
            Command::Run(command) => command.run(rim),
            Command::Data(command) => Ok(data::run_data(&command, rim.format, rim.out)?),
            Command::Metrics(command) => Ok(data::run_metrics(&command, rim.format, rim.out)?),
            Command::Train(command) => train_until_stopped(&command, rim),
            Command::Evaluate(command) => done(evaluate::run(&command, rim.format, rim.out)?),
            Command::Predict(command) => done(predict::run(&command, rim.format, rim.out)?),
            Command::Student(command) => Ok(student::run(&command, rim.format, rim.out, &*signals::flag()?)?),
            Command::Sam(command) => sam_until_stopped(&command, rim),
            Command::Bench(command) => done(bench::run(&command, rim.format, rim.out)?),
        }
    }
}

fn done((): ()) -> Result<Exit, Failure> {
    Ok(Exit::Done)
}

/// Local training stops cleanly on Ctrl-C and goes on at the next start.
fn train_until_stopped(args: &train::TrainArgs, rim: &mut Rim<'_>) -> Result<Exit, Failure> {
    let stop = signals::flag()?;
    train::run(args, rim.format, rim.out, &stop)?;
    Ok(if stop.load(Ordering::Relaxed) { Exit::TryAgain } else { Exit::Done })
}

/// Pre-training of a generalist stops cleanly on Ctrl-C and goes on at the next start; what else a generalist does is not
/// interrupted by it before it is done.
fn sam_until_stopped(command: &sam::SamCommand, rim: &mut Rim<'_>) -> Result<Exit, Failure> {
    let stop = match command {
        sam::SamCommand::Pretrain(_) => signals::flag()?,
        _ => Arc::default(),
    };
    sam::run(command, rim.format, rim.out, &stop)?;
    Ok(if stop.load(Ordering::Relaxed) { Exit::TryAgain } else { Exit::Done })
}

/// Where the site's folder is.
#[derive(Clone, Debug, clap::Args)]
pub struct Dir {
    /// The site's folder
    #[arg(long, default_value = "node")]
    pub dir: PathBuf,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Where results go.
pub struct Rim<'a> {
    /// How.
    pub format: Format,
    /// Standard output, or a buffer.
    pub out: &'a mut dyn Write,
}

impl Rim<'_> {
    /// One JSON document, on one line.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn json<T: Serialize>(&mut self, document: &T) -> io::Result<()> {
        writeln!(self.out, "{}", serde_json::to_string(document)?)
    }

    /// Lines of a label and a value, aligned.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn table<L: fmt::Display, V: fmt::Display>(&mut self, rows: &[(L, V)]) -> io::Result<()> {
        let label = |row: &(L, V)| row.0.to_string();
        let width = rows.iter().map(|row| label(row).chars().count()).max().unwrap_or(0);
        rows.iter().try_for_each(|row| writeln!(self.out, "{:width$}  {}", label(row), row.1))
    }
}

/// Does what `args` ask for, and answers the exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let mut out = Listener::new(io::stdout().lock());
    let exit = match Arguments::try_parse_from(args) {
        Ok(arguments) => {
            start_log();
            let mut rim = Rim { format: arguments.format, out: &mut out };
            let asked = std::env::var(simd::VARIABLE).ok();
            match simd::choose(asked.as_deref()) {
                Ok(_) => arguments.command.run(&mut rim).unwrap_or_else(Failure::report),
                Err(unknown) => Failure::with_exit(Exit::Usage, unknown).report(),
            }
        }
        Err(error) => usage(&error, &mut out),
    };
    let _ = out.flush();
    exit.code()
}

/// Help and version are answers; everything else is wrong usage.
fn usage(error: &clap::Error, out: &mut dyn Write) -> Exit {
    let text = error.render();
    if error.use_stderr() {
        let _ = if io::stderr().is_terminal() {
            write!(io::stderr(), "{}", text.ansi())
        } else {
            write!(io::stderr(), "{text}")
        };
        return Exit::Usage;
    }
    let _ = write!(out, "{text}");
    Exit::Done
}

/// Logs go to standard error: `RUST_LOG` chooses what, `SEMISAM_LOG=json` makes lines for programs.
fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    // A second start within one process keeps the first log.
    let _ = if std::env::var_os("SEMISAM_LOG").is_some_and(|value| value == "json") {
        log.json().try_init()
    } else {
        log.with_ansi(io::stderr().is_terminal()).try_init()
    };
}

#[cfg(test)]
mod tests;
