//! Programs as processes. Every one is this package's executable under another name (`semisam-sim as node ..`), which runs
//! the same entry points as the programs that users install. None outlives the test that started it.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long anything may take: far longer than it does, even where several tests share one processor.
pub(crate) const PATIENCE: Duration = Duration::from_secs(150);

/// A word or path of a command line.
pub(crate) type Argument<'a> = &'a dyn AsRef<OsStr>;

/// Runs `semisam-node` to its end.
macro_rules! node {
    ($($argument:expr),* $(,)?) => { $crate::running::finish("node", &[$(&$argument),*]) };
}

/// Runs `semisam-coordinator` to its end.
macro_rules! coordinator {
    ($($argument:expr),* $(,)?) => { $crate::running::finish("coordinator", &[$(&$argument),*]) };
}

/// Runs `semisam-audit` to its end.
macro_rules! audit {
    ($($argument:expr),* $(,)?) => { $crate::running::finish("audit", &[$(&$argument),*]) };
}

pub(crate) use {audit, coordinator, node};

/// The executable, about to become `program`.
pub(crate) fn become_program(program: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_semisam-sim"));
    command.args(["as", program]);
    plain(&mut command);
    command
}

/// `program` where no file may grow beyond `kibibytes`: writing more fails as it does on a full disk. `None` where this
/// machine has no shell that can set such a limit.
pub(crate) fn on_full_disk(kibibytes: u64, program: &str, arguments: &[Argument<'_>]) -> Option<Ended> {
    let shell = Command::new("bash").args(["-c", "ulimit -f 1024"]).stderr(Stdio::null()).status();
    if !shell.is_ok_and(|status| status.success()) {
        return None;
    }
    let mut command = Command::new("bash");
    let script = format!("trap '' XFSZ; ulimit -f {kibibytes}; exec \"$@\"");
    command.args(["-c", &script, "bash", env!("CARGO_BIN_EXE_semisam-sim"), "as", program]).args(arguments);
    plain(&mut command);
    Some(finish_command(command))
}

fn plain(command: &mut Command) {
    command.env("RAYON_NUM_THREADS", "2").env("NO_COLOR", "1");
    for variable in ["RUST_LOG", "SEMISAM_LOG", "SEMISAM__LISTEN"] {
        command.env_remove(variable);
    }
}

/// Runs `program` to its end.
pub(crate) fn finish(program: &str, arguments: &[Argument<'_>]) -> Ended {
    let mut command = become_program(program);
    command.args(arguments);
    finish_command(command)
}

/// Runs `semisam-sim` itself to its end.
pub(crate) fn finish_sim(arguments: &[Argument<'_>]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_semisam-sim"));
    plain(command.args(arguments));
    finish_command(command)
}

/// Runs a command to its end; it reads nothing.
pub(crate) fn finish_command(mut command: Command) -> Ended {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let (out, err) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let code = wait(&mut child, &format!("{command:?}"));
    let text = |reader: JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&reader.join().expect("a reader does not panic")).into_owned()
    };
    Ended { command: format!("{command:?}"), code, out: text(out), err: text(err) }
}

fn drain(stream: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            stream.read_to_end(&mut bytes).expect("output can be read");
        }
        bytes
    })
}

/// The exit code; none after a signal.
fn wait(child: &mut Child, what: &str) -> Option<i32> {
    let since = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return status.code();
        }
        if since.elapsed() > PATIENCE {
            child.kill().expect("a child can be killed");
            panic!("{what} did not end");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// What a program did.
#[derive(Debug)]
pub(crate) struct Ended {
    command: String,
    /// None after a signal.
    pub(crate) code: Option<i32>,
    /// Data.
    pub(crate) out: String,
    /// Words.
    pub(crate) err: String,
}

impl Ended {
    /// It ended well.
    #[track_caller]
    pub(crate) fn done(self) -> Self {
        self.with_code(0)
    }

    /// It ended with this exit code.
    #[track_caller]
    pub(crate) fn with_code(self, code: i32) -> Self {
        let Self { command, err, out, .. } = &self;
        assert_eq!(self.code, Some(code), "{command}\nstderr: {err}\nstdout: {out}");
        assert!(!err.contains("panicked"), "{command}\n{err}");
        self
    }

    /// It ended with this exit code, and its words contain all of these.
    #[track_caller]
    pub(crate) fn says(self, code: i32, parts: &[&str]) -> Self {
        let ended = self.with_code(code);
        for part in parts {
            assert!(ended.err.contains(part), "`{part}` is missing\n{}\nstderr: {}", ended.command, ended.err);
        }
        ended
    }

    /// The one JSON document on standard output.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}\n{}\n{}", self.command, self.out))
    }

    /// The JSON lines on standard output.
    #[track_caller]
    pub(crate) fn lines(&self) -> Vec<Value> {
        let line = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}\n{line}"));
        self.out.lines().map(line).collect()
    }
}

/// A program that runs beside the test. Killed when dropped; it also ends when this process does.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
    _tether: ChildStdin,
}

impl Running {
    /// Starts `program`; its words are added to `log`.
    pub(crate) fn start(program: &str, arguments: &[Argument<'_>], log: &Path) -> Self {
        let words = File::options().create(true).append(true).open(log).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_semisam-sim"));
        command.args(["as", "--tethered", program]).args(arguments);
        plain(&mut command);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(words);
        let mut child = command.spawn().expect("the program starts");
        let tether = child.stdin.take().expect("a pipe was asked for");
        Self { child, log: log.into(), _tether: tether }
    }

    /// Sends a signal: `STOP`, `CONT`, `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let line = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &line]).status().expect("a shell").success(), "{line}");
    }

    /// Ends it at once: SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Waits for its end, and answers the exit code; none after a signal.
    pub(crate) fn ended(mut self) -> Option<i32> {
        let what = format!("the program of `{}`", self.log.display());
        wait(&mut self.child, &what)
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// What it has said so far.
    pub(crate) fn words(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself meanwhile, and then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks until `found` finds something, often enough to strike between two records that are milliseconds apart.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(since.elapsed() < PATIENCE, "{what}: did not happen");
        thread::sleep(Duration::from_micros(500));
    }
}
