//! How a command ends: an exit code, and for a failure its whole chain of causes.

use std::{
    error::Error,
    fmt,
    io::{self, Write},
};

use semisam_shared::causes;

/// The exit codes of every program of this project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// Failed.
    Failed,
    /// Refused by rules, policy or trust, or found unsound.
    Refused,
    /// Wrong usage.
    Usage,
    /// Try again later.
    TryAgain,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Refused => 2,
            Exit::Usage => 64,
            Exit::TryAgain => 75,
        }
    }
}

/// Why a command did not do what was asked. Every error becomes one with exit code 1, unless it says otherwise.
pub struct Failure {
    exit: Exit,
    error: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// `error`, with another exit code.
    pub fn with_exit(exit: Exit, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { exit, error: error.into() }
    }

    /// Rules, policy or trust forbid it.
    pub fn refused(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::with_exit(Exit::Refused, error)
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Says what happened and why on standard error.
    pub fn report(self) -> Exit {
        let _ = writeln!(io::stderr(), "error: {self}");
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&causes::in_words(self.error.as_ref()).join("\n  because: "))
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failure({:?}, {self})", self.exit)
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { exit: Exit::Failed, error: error.into() }
    }
}
