//! Programs as processes of their own: started with the commands that the guide names, their words in their party's log,
//! ended with the demonstration whatever ends it.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
};

use super::disk::{self, DiskError};
use crate::programs::Program;

/// How many lines of a log are shown when its program fails.
const LAST_LINES: usize = 12;

/// A program could not be started or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It did not start.
    #[error("cannot start `{command}` for {party}")]
    Start {
        /// Whose.
        party: String,
        /// What.
        command: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It cannot be watched.
    #[error("cannot watch `{command}` of {party}")]
    Watch {
        /// Whose.
        party: String,
        /// What.
        command: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It ended in another way than it should.
    #[error(
        "`{command}` of {party} ended ({status}). The last lines of its log:\n{tail}\nThe whole log is `{}`. When the cause is mended, run the demonstration again: it replaces its folder", log.display()
    )]
    Failed {
        /// Whose.
        party: String,
        /// What.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of the log.
        tail: String,
        /// Where the log is.
        log: PathBuf,
    },
    /// The log cannot be written.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// A command line of a party.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    /// Whose.
    pub(crate) party: String,
    /// Which program.
    pub(crate) program: Program,
    /// Its arguments.
    pub(crate) args: Vec<OsString>,
    /// Where its words go.
    pub(crate) log: PathBuf,
}

impl Invocation {
    /// A command line; paths and words alike.
    pub(crate) fn new(party: &str, program: Program, log: &Path, args: &[&dyn AsRef<OsStr>]) -> Self {
        let args = args.iter().map(|arg| arg.as_ref().to_owned()).collect();
        Self { party: party.into(), program, args, log: log.into() }
    }

    /// As a user would type it.
    pub(crate) fn command(&self) -> String {
        let args = self.args.iter().map(|arg| arg.to_string_lossy());
        let quoted = args.map(|arg| if arg.contains(' ') { format!("'{arg}'") } else { arg.into_owned() });
        std::iter::once(self.program.name().to_owned()).chain(quoted).collect::<Vec<_>>().join(" ")
    }

    /// The error of this command line having ended with `status`.
    pub(crate) fn failed(&self, status: ExitStatus) -> ChildError {
        let (party, command, log) = (self.party.clone(), self.command(), self.log.clone());
        ChildError::Failed { party, command, status, tail: last_lines(&self.log), log }
    }

    fn io(&self, started: bool) -> impl FnOnce(io::Error) -> ChildError {
        let (party, command) = (self.party.clone(), self.command());
        move |source| match started {
            false => ChildError::Start { party, command, source },
            true => ChildError::Watch { party, command, source },
        }
    }
}

/// Starts programs.
#[derive(Clone, Debug)]
pub(crate) struct Launcher {
    /// This executable, which is all of them.
    pub(crate) executable: PathBuf,
    /// Threads for the computations of each program.
    pub(crate) threads: usize,
}

impl Launcher {
    fn spawn(&self, invocation: &Invocation, stdout: Stdio, stderr: Stdio) -> Result<(Child, ChildStdin), ChildError> {
        let mut log = disk::append(&invocation.log)?;
        // The log explains itself; if it cannot be written the program will say so.
        let _ = writeln!(log, "$ {}", invocation.command());
        let mut child = Command::new(&self.executable)
            .args(["as", "--tethered", invocation.program.verb()])
            .args(&invocation.args)
            .env("RAYON_NUM_THREADS", self.threads.to_string())
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .map_err(invocation.io(false))?;
        let tether = child.stdin.take().expect("standard input was asked for as a pipe");
        Ok((child, tether))
    }

    /// Starts a program that runs beside this one.
    pub(crate) fn start(&self, invocation: Invocation) -> Result<Running, ChildError> {
        let words = || Ok::<_, ChildError>(Stdio::from(disk::append(&invocation.log)?));
        let (child, tether) = self.spawn(&invocation, words()?, words()?)?;
        Ok(Running { child, invocation, _tether: tether, ended: None })
    }

    /// Runs a program to its end and returns what it wrote to standard output, whatever its exit code.
    pub(crate) fn finish(&self, invocation: &Invocation) -> Result<(ExitStatus, String), ChildError> {
        let (child, tether) = self.spawn(invocation, Stdio::piped(), Stdio::piped())?;
        let output = child.wait_with_output().map_err(invocation.io(true))?;
        drop(tether);
        // Words come last, because a failure is told at their end.
        let mut log = disk::append(&invocation.log)?;
        let _ = log.write_all(&output.stdout).and_then(|()| log.write_all(&output.stderr));
        Ok((output.status, String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// Runs a program that must end well.
    pub(crate) fn succeed(&self, invocation: &Invocation) -> Result<String, ChildError> {
        match self.finish(invocation)? {
            (status, text) if status.success() => Ok(text),
            (status, _) => Err(invocation.failed(status)),
        }
    }
}

/// A program that runs. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    invocation: Invocation,
    _tether: ChildStdin,
    ended: Option<ExitStatus>,
}

impl Running {
    /// Whether it has ended, and well.
    ///
    /// # Errors
    /// If it ended in any other way.
    pub(crate) fn done(&mut self) -> Result<bool, ChildError> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().map_err(self.invocation.io(true))?;
        }
        match self.ended {
            None => Ok(false),
            Some(status) if status.success() => Ok(true),
            Some(status) => Err(self.invocation.failed(status)),
        }
    }

    /// Ends it at once, without a chance to tidy up (SIGKILL on Unix), and returns what would start it again.
    pub(crate) fn kill(mut self) -> Result<Invocation, ChildError> {
        self.child.kill().and_then(|()| self.child.wait()).map_err(self.invocation.io(true))?;
        Ok(self.invocation.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.is_none() {
            // It may have ended by itself meanwhile, and then there is nothing to kill.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn last_lines(log: &Path) -> String {
    let text = disk::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(LAST_LINES)..];
    shown.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn launcher(folder: &Path) -> Launcher {
        use std::os::unix::fs::PermissionsExt;
        let script = folder.join("program");
        // Stands in for this executable: `$4` is the first argument after `as --tethered node`.
        let text =
            "#!/bin/sh\ncase $4 in\nwait) exec cat;;\nfail) echo 'the cause' >&2; exit 3;;\n*) echo said $4;;\nesac\n";
        std::fs::write(&script, text).expect("written");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("executable");
        Launcher { executable: script, threads: 1 }
    }

    fn invocation(folder: &Path, word: &str) -> Invocation {
        Invocation::new("hospital-a", Program::Node, &folder.join("log.txt"), &[&word])
    }

    #[test]
    fn a_program_that_fails_is_named_with_its_last_words() {
        let folder = tempfile::tempdir().expect("a folder");
        let launcher = launcher(folder.path());
        assert_eq!(launcher.succeed(&invocation(folder.path(), "this")).expect("ends well"), "said this\n");
        let error = launcher.succeed(&invocation(folder.path(), "fail")).expect_err("fails").to_string();
        for part in
            ["semisam-node fail", "hospital-a", "exit status: 3", "the cause", "log.txt", "run the demonstration again"]
        {
            assert!(error.contains(part), "{part}: {error}");
        }
        let log = disk::read_text(&folder.path().join("log.txt")).expect("a log");
        assert!(log.starts_with("$ semisam-node this\nsaid this\n$ semisam-node fail\n"), "{log}");
    }

    #[test]
    fn a_killed_program_can_be_started_again_and_none_is_left_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let launcher = launcher(folder.path());
        let mut running = launcher.start(invocation(folder.path(), "wait")).expect("starts");
        assert!(!running.done().expect("runs"));
        let again = running.kill().expect("killed");
        let mut running = launcher.start(again).expect("starts again");
        let pid = running.child.id();
        assert!(!running.done().expect("runs"));
        drop(running);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
