//! The entry point of `semisam-audit`; everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    semisam_audit::cli::main(std::env::args_os()).into()
}
