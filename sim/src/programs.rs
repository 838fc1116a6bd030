//! The programs of a federation inside this executable: `semisam-sim as node run ..` is `semisam-node run ..`.
//!
//! So one build is all that a demonstration needs, and what runs is the code that hospitals run, each program in a
//! process of its own.

use std::{
    ffi::OsString,
    io::{self, Read},
};

/// One of the programs of a federation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Program {
    /// The hospital's.
    Node,
    /// The consortium's.
    Coordinator,
    /// The auditor's.
    Audit,
}

impl Program {
    /// The name under which users know it.
    pub fn name(self) -> &'static str {
        match self {
            Program::Node => "semisam-node",
            Program::Coordinator => "semisam-coordinator",
            Program::Audit => "semisam-audit",
        }
    }

    /// How this executable is told to become it.
    pub fn verb(self) -> &'static str {
        match self {
            Program::Node => "node",
            Program::Coordinator => "coordinator",
            Program::Audit => "audit",
        }
    }

    /// Runs the program with `args` (without its name) and returns its exit code.
    pub fn main(self, args: Vec<OsString>) -> u8 {
        let args = std::iter::once(OsString::from(self.name())).chain(args);
        match self {
            Program::Node => semisam_node::cli::main(args),
            Program::Coordinator => semisam_coordinator::cli::main(args),
            Program::Audit => semisam_audit::cli::main(args),
        }
    }
}

/// Ends this process as soon as standard input closes, which happens when whoever holds its other end dies, however
/// that came about. So no program outlives the demonstration that started it.
pub fn tether() {
    std::thread::spawn(|| {
        let mut ignored = [0; 64];
        while matches!(io::stdin().read(&mut ignored), Ok(count) if count > 0) {}
        std::process::exit(75);
    });
}
