//! The command line: `demo` is what happens when nothing is said.
//!
//! Exit codes: 0 done, 1 failed, 2 the auditor (or a check of `--chaos`) says unsound or canaries contradict the claim, 64
//! wrong usage.

mod audit;
mod bench;

use std::{
    error::Error,
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand, ValueEnum};

use semisam_node::data::recipe::View;
use semisam_shared::{causes, listener::Listener};

use crate::{
    cli::{audit::AuditArgs, bench::BenchCommand},
    demo::{self, Options, cohorts::Dealing, progress::Progress, start::Anatomy},
    programs::{self, Program},
};

const DONE: u8 = 0;
const FAILED: u8 = 1;
const UNSOUND: u8 = 2;
const USAGE: u8 = 64;

/// A whole federation on one machine, with the real programs.
#[derive(Debug, Parser)]
#[command(name = "semisam-sim", version, about, after_help = "Without a command, `demo` runs.")]
struct Cli {
    /// What goes to standard output: a table for people, or one JSON document.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Hospitals with scans, a consortium, real programs, private rounds, scores, and the auditor's verdict.
    Demo(DemoArgs),
    /// Looks for canaries in what the release path lets out, and fails if it finds more than the ledger's epsilon allows.
    Audit(AuditArgs),
    /// Trains many times and makes a table.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Becomes another program.
    #[command(hide = true)]
    As(AsArgs),
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Where everything is written; an earlier demonstration there is replaced.
    #[arg(long, default_value = "semisam-demo")]
    out: PathBuf,
    /// A folder of real scans with `images/` and `labels/`; without it, synthetic scans are made.
    #[arg(long)]
    data: Option<PathBuf>,
    /// How many hospitals [default: 3, with --data 4, with --smallest 2].
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=26))]
    hospitals: Option<u32>,
    /// How many rounds [default: as the recipe says].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Seed of scans, starting model and training (never of privacy noise, which cannot be repeated).
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Kill programs at moments drawn from this seed, start them again, and check that nothing was lost.
    #[arg(long, value_name = "SEED")]
    chaos: Option<u64>,
    /// Voxel size to which scans are brought, in millimetres.
    #[arg(long, value_name = "MM", value_parser = spacing)]
    spacing: Option<f64>,
    /// How the scans of --data are given to hospitals.
    #[arg(long, value_enum, default_value_t = Dealing::RoundRobin)]
    deal: Dealing,
    /// Start from a student that knows the anatomy of --data, instead of a weakly trained one: a file, or the name of a shipped
    /// student.
    #[arg(long, value_name = "FILE|NAME", requires = "data", requires = "recipe", conflicts_with = "smallest")]
    init: Option<PathBuf>,
    /// The page of that anatomy, which the basis is made of: a file, or the name of a shipped recipe.
    #[arg(long, value_name = "FILE|NAME", requires = "init")]
    recipe: Option<String>,
    /// How voxels of the scans are stored, where they do not say so: R or L, A or P, S or I. May be repeated.
    #[arg(long, value_parser = View::flips, value_name = "RAS", requires = "init")]
    axes: Vec<[bool; 3]>,
    /// Two hospitals, two rounds, tiny scans: shows that everything works, in half a minute.
    #[arg(long)]
    smallest: bool,
}

impl DemoArgs {
    fn anatomy(&self) -> Option<Anatomy> {
        let (model, recipe) = (self.init.clone()?, self.recipe.clone()?);
        Some(Anatomy { model, recipe, axes: self.axes.clone() })
    }
}

#[derive(Debug, Args)]
struct AsArgs {
    /// End when standard input closes.
    #[arg(long)]
    tethered: bool,
    /// Which program, and what it is told. One list, so that every word after the program's name is that program's.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "PROGRAM")]
    line: Vec<OsString>,
}

impl AsArgs {
    /// The program and its arguments.
    fn program(&self) -> Option<(Program, Vec<OsString>)> {
        let (name, args) = self.line.split_first()?;
        Some((Program::from_str(name.to_str()?, false).ok()?, args.to_vec()))
    }
}

/// `as` was not followed by a program.
#[derive(Debug, thiserror::Error)]
#[error("`as` is followed by a program: node, coordinator or audit")]
struct NoProgram;

/// Runs the command line and returns the exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match Cli::try_parse_from(with_default_verb(args.into_iter().collect())) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print(); // stderr, or stdout for --help; nobody is left to tell if that fails
            return if error.use_stderr() { USAGE } else { DONE };
        }
    };
    match cli.verb {
        Verb::As(args) => {
            if args.tethered {
                programs::tether();
            }
            match args.program() {
                Some((program, args)) => program.main(args),
                None => {
                    complain(&NoProgram);
                    USAGE
                }
            }
        }
        Verb::Demo(args) => demonstrate(&args, cli.format, &mut Listener::new(io::stdout().lock())),
        Verb::Bench(command) => bench::run(&command, &mut Listener::new(io::stdout().lock())),
        Verb::Audit(args) => audit::run(&args, cli.format, &mut Listener::new(io::stdout().lock())),
    }
}

fn demonstrate(args: &DemoArgs, format: Format, out: &mut dyn Write) -> u8 {
    let options = Options {
        out: args.out.clone(),
        data: args.data.clone(),
        hospitals: args.hospitals,
        rounds: args.rounds,
        seed: args.seed,
        chaos: args.chaos,
        spacing_mm: args.spacing,
        dealing: args.deal,
        anatomy: args.anatomy(),
        smallest: args.smallest,
    };
    let summary = match demo::run(&options, &Progress::on_stderr()) {
        Ok(summary) => summary,
        Err(error) => {
            complain(&error);
            return FAILED;
        }
    };
    let written = match format {
        Format::Text => write!(out, "{}", summary.table()),
        Format::Json => writeln!(out, "{}", summary.json()),
    };
    if let Err(error) = written.and_then(|()| out.flush()) {
        complain(&error);
        return FAILED;
    }
    match (summary.sound(), summary.complete()) {
        (false, _) => UNSOUND,
        (true, false) => FAILED,
        (true, true) => DONE,
    }
}

fn spacing(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(mm) if (0.2..=20.0).contains(&mm) => Ok(mm),
        _ => Err("a voxel size is a number from 0.2 to 20".into()),
    }
}

fn complain(error: &dyn Error) {
    // A closed standard error leaves nobody to tell.
    let _ = writeln!(io::stderr(), "error: {}", causes::in_words(error).join("\n  because: "));
}

/// Puts `demo` before the options of a command line that names no command.
fn with_default_verb(mut args: Vec<OsString>) -> Vec<OsString> {
    let mut first = 1;
    while let Some(arg) = args.get(first).and_then(|arg| arg.to_str()) {
        match arg {
            "--format" => first += 2,
            _ if arg.starts_with("--format=") => first += 1,
            _ => break,
        }
    }
    let named = args.get(first).is_some_and(|arg| {
        let text = arg.to_string_lossy();
        !text.starts_with('-') || ["-h", "--help", "-V", "--version"].contains(&text.as_ref())
    });
    if !named {
        args.insert(args.len().min(1), "demo".into());
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(with_default_verb(line.split(' ').map(OsString::from).collect()))
    }

    #[test]
    fn demo_is_what_happens_when_nothing_is_said() {
        for line in ["semisam-sim", "semisam-sim demo", "semisam-sim --format json", "semisam-sim --format=json demo"] {
            let cli = parse(line).expect("understood");
            assert!(matches!(cli.verb, Verb::Demo(DemoArgs { seed: 1, chaos: None, .. })), "{line}");
        }
        let cli = parse("semisam-sim --hospitals 4 --out demo --format json").expect("understood");
        let Verb::Demo(args) = cli.verb else { panic!("a demonstration") };
        assert_eq!((args.hospitals, args.out, cli.format), (Some(4), PathBuf::from("demo"), Format::Json));
    }

    #[test]
    fn everything_after_the_program_belongs_to_it() {
        let cli = parse("semisam-sim as --tethered node run --dir x --format json").expect("understood");
        let Verb::As(args) = cli.verb else { panic!("another program") };
        assert!(args.tethered);
        let (program, args) = args.program().expect("a program");
        assert!(program == Program::Node && args == ["run", "--dir", "x", "--format", "json"], "{args:?}");
        for line in ["semisam-sim as audit --format json verify x", "semisam-sim as audit --help -V --tethered"] {
            let cli = parse(line).expect("understood");
            let (Verb::As(args), Format::Text) = (cli.verb, cli.format) else { panic!("{line}") };
            let (program, args) = args.program().expect("a program");
            assert!(
                program == Program::Audit && args.join(std::ffi::OsStr::new(" ")) == line.split_at(21).1,
                "{args:?}"
            );
        }
    }

    #[test]
    fn an_audit_has_one_claim_in_range() {
        let options = |line: &str| {
            let Verb::Audit(args) = parse(line).expect("understood").verb else { panic!("an audit") };
            args.options()
        };
        let usual = options("semisam-sim audit").expect("in reach");
        assert!((usual.noise_multiplier - 1.07).abs() < 0.01 && usual.rounds == 1, "{usual:?}");
        assert_eq!(options("semisam-sim audit --noise-multiplier 2").expect("given").noise_multiplier, 2.0);
        let four = options("semisam-sim audit --rounds 4").expect("in reach").noise_multiplier;
        assert!((four / usual.noise_multiplier - 2.0).abs() < 1e-5, "{four}");
        assert_eq!(options("semisam-sim audit --claim-epsilon 9000").expect("little noise").noise_multiplier, 0.1);
        for line in ["--claim-epsilon 3 --noise-multiplier 2", "--noise-multiplier 0.01", "--delta 1", "--canaries 5"] {
            assert!(parse(&format!("semisam-sim audit {line}")).is_err(), "{line}");
        }
        for claim in ["0", "-1", "NaN", "1e-9"] {
            let line = ["semisam-sim", "audit", &format!("--claim-epsilon={claim}")].map(OsString::from);
            assert_eq!(main(line), USAGE, "{claim}");
        }
    }

    #[test]
    fn nonsense_is_wrong_usage() {
        for line in [
            "semisam-sim dance",
            "semisam-sim --hospitals 1",
            "semisam-sim demo --spacing 0",
            "semisam-sim -x",
            "semisam-sim demo --init left-atrium-student --recipe left-atrium",
            "semisam-sim demo --data x --init left-atrium-student",
            "semisam-sim bench privacy --out x",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert_eq!(main(["semisam-sim", "dance"].map(OsString::from)), USAGE);
        assert_eq!(main(["semisam-sim", "as", "dance"].map(OsString::from)), USAGE);
        assert_eq!(main(["semisam-sim", "--version"].map(OsString::from)), DONE);
    }
}
