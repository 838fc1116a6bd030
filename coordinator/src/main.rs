//! semisam-coordinator

fn main() -> std::process::ExitCode {
    semisam_coordinator::cli::main(std::env::args_os()).into()
}
