//! The command line: words to stderr, data to stdout, exit codes 0 done, 1 failed, 2 refused or unsound, 64 usage,
//! 75 try again (sysexits.h).

use std::{
    error::Error,
    ffi::OsString,
    io::{self, IsTerminal, Write},
    path::PathBuf,
};

use clap::{Parser, Subcommand, ValueEnum};
use semisam_shared::{chain::file::ChainFileError, listener::Listener};
use serde::Serialize;

use crate::{driver::whole, enrol::EnrolError, found::FoundError, journal::JournalError};

mod begin;
mod serve;
mod show;

/// Runs the rounds of a federation and publishes its models.
#[derive(Debug, Parser)]
#[command(name = "semisam-coordinator", version, about, max_term_width = 100)]
struct Arguments {
    /// What stands on stdout: text for people, or JSON
    #[arg(long, global = true, value_enum, default_value = "text")]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Debug, clap::Args)]
struct Place {
    /// The coordinator's folder
    #[arg(long, default_value = "coordinator")]
    dir: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Found a federation: keys, certificates, signed plan, first model
    Init(begin::Init),
    /// Issue a site's certificate from its request
    Enroll(begin::Enroll),
    /// Exclude a site, at once and for good; also while the coordinator serves
    Revoke(begin::Revoke),
    /// Serve the sites until Ctrl-C; the next start resumes
    Serve(serve::Serve),
    /// Show the signed plan, its digest, and what it costs
    Plan(Place),
    /// Show how far the federation is
    Status(Place),
    /// Work with the published models
    #[command(subcommand)]
    Model(Model),
    /// Copy a model to a file (safetensors with PyTorch names)
    Export(show::Export),
}

#[derive(Debug, Subcommand)]
enum Model {
    /// List every published model
    List(Place),
}

/// What a failed command says and returns.
#[derive(Debug)]
struct Failure {
    code: u8,
    text: String,
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { code: code_of(&error), text: whole(&error) }
    }
}

/// The exit code for an error: what may pass is 75, what is refused or unsound is 2, the rest is 1.
fn code_of(error: &(dyn Error + 'static)) -> u8 {
    let mut next = Some(error);
    while let Some(error) = next {
        match error.downcast_ref::<ChainFileError>() {
            Some(ChainFileError::Locked { .. }) => return 75,
            Some(ChainFileError::Record { .. }) => return 2,
            _ => {}
        }
        if let Some(JournalError::Rule { .. }) = error.downcast_ref() {
            return 2;
        }
        if let Some(FoundError::Exists(_)) = error.downcast_ref() {
            return 2;
        }
        if let Some(EnrolError::Revoked(_) | EnrolError::NameTaken { .. }) = error.downcast_ref() {
            return 2;
        }
        // A transparent error has no source of its own: look inside.
        next = inner(error).or_else(|| error.source());
    }
    1
}

fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    use crate::{driver::DriverError, server::ServerError, status::StatusError};
    if let Some(ServerError::Driver(inner)) = error.downcast_ref() {
        return Some(inner);
    }
    if let Some(DriverError::Journal(inner)) = error.downcast_ref() {
        return Some(inner);
    }
    if let Some(StatusError::Journal(inner)) = error.downcast_ref() {
        return Some(inner);
    }
    match error.downcast_ref() {
        Some(JournalError::Chain(inner)) => Some(inner),
        _ => None,
    }
}

/// Where the data of a command goes, and in which form.
struct Output<'a> {
    format: Format,
    out: &'a mut dyn Write,
}

impl Output<'_> {
    /// The document, or the text that says the same to people.
    fn document(&mut self, document: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        let line = match self.format {
            Format::Json => serde_json::to_string(document)?,
            Format::Text => text(),
        };
        writeln!(self.out, "{}", line.trim_end())?;
        Ok(self.out.flush()?)
    }
}

/// Runs the program, and returns its exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    run(args, &mut Listener::new(io::stdout().lock()))
}

/// Runs the program with its data going to `out`, and returns its exit code.
pub fn run(args: impl IntoIterator<Item = OsString>, out: &mut dyn Write) -> u8 {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print(); // stderr, or stdout for --help; nobody is left to tell if that fails
            return if error.use_stderr() { 64 } else { 0 };
        }
    };
    log_to_stderr();
    match dispatch(arguments.command, &mut Output { format: arguments.format, out }) {
        Ok(()) => 0,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "semisam-coordinator: {}", failure.text);
            failure.code
        }
    }
}

fn dispatch(command: Command, output: &mut Output<'_>) -> Result<(), Failure> {
    match command {
        Command::Init(arguments) => begin::init(&arguments, output),
        Command::Enroll(arguments) => begin::enroll(&arguments, output),
        Command::Revoke(arguments) => begin::revoke(&arguments, output),
        Command::Serve(arguments) => serve::serve(&arguments, output),
        Command::Plan(place) => show::plan(&place, output),
        Command::Status(place) => show::status(&place, output),
        Command::Model(Model::List(place)) => show::models(&place, output),
        Command::Export(arguments) => show::export(&arguments, output),
    }
}

/// `RUST_LOG` chooses what is said (`info` by default), `SEMISAM_LOG=json` makes it JSON lines.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let outcome = match std::env::var("SEMISAM_LOG").as_deref() {
        Ok("json") => log.json().try_init(),
        _ => log.with_target(false).with_ansi(io::stderr().is_terminal()).try_init(),
    };
    drop(outcome); // a program that runs this one inside itself has set up its own log
}
