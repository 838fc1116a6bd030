//! semisam-sim: everything is in [`semisam_sim::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(semisam_sim::cli::main(std::env::args_os()))
}
