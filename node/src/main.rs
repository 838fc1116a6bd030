//! semisam-node: see [`semisam_node::cli`].

fn main() -> std::process::ExitCode {
    semisam_kernels::memory::keep_what_is_freed();
    semisam_node::cli::main(std::env::args_os()).into()
}
