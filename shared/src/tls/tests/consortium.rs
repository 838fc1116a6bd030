//! A consortium in a temporary folder, and the log lines of the whole test program.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
    sync::{Mutex, Once, PoisonError},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    clock,
    ids::{SiteId, UnixMillis},
    issue::{self, Authority, Role},
    tls::TlsFiles,
};

const DAY: u64 = 86_400;

/// An authority, and the folder of everything that it signed.
pub(crate) struct Consortium {
    pub(crate) dir: TempDir,
    pub(crate) authority: Authority,
}

impl Consortium {
    pub(crate) fn new(name: &str) -> Self {
        capture_logs();
        let dir = TempDir::new().unwrap();
        let authority = issue::new_authority(name, 3650, moment(-400)).unwrap();
        fs::write(dir.path().join("authority.crt"), &authority.certificate_pem).unwrap();
        Self { dir, authority }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn site(&self, name: &str) -> (TlsFiles, SiteId) {
        self.party(name, &Role::Site, 0, 90)
    }

    pub(crate) fn coordinator(&self) -> TlsFiles {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        self.party("coordinator", &Role::Coordinator { names }, 0, 90).0
    }

    /// A party whose certificate is made `after` days from now, for `days` days.
    pub(crate) fn party(&self, name: &str, role: &Role, after: i64, days: u32) -> (TlsFiles, SiteId) {
        let request = issue::new_request(name).unwrap();
        let Authority { certificate_pem, key_pem } = &self.authority;
        let certificate =
            issue::sign_request(certificate_pem, key_pem, &request.csr_pem, role, days, moment(after)).unwrap();
        let files = TlsFiles {
            authority: self.path("authority.crt"),
            certificate: self.path(&format!("{name}.crt")),
            key: self.path(&format!("{name}.key")),
        };
        fs::write(&files.certificate, certificate).unwrap();
        issue::write_private(&files.key, &request.key_pem).unwrap();
        (files, request.site)
    }
}

/// Now, moved by some days.
pub(crate) fn moment(days: i64) -> UnixMillis {
    let shift = i64::try_from(DAY * 1000).unwrap() * days;
    UnixMillis(clock::now().0.saturating_add_signed(shift))
}

/// The first log line that holds all of `parts`, which may still have to be written.
pub(crate) fn logged(parts: &[&str]) -> String {
    let start = Instant::now();
    loop {
        let text = String::from_utf8(lock().clone()).unwrap();
        if let Some(line) = text.lines().find(|line| parts.iter().all(|part| line.contains(part))) {
            return line.to_owned();
        }
        assert!(start.elapsed() < Duration::from_secs(15), "no log line has all of {parts:?} in:\n{text}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

fn lock() -> std::sync::MutexGuard<'static, Vec<u8>> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

fn capture_logs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing_subscriber::fmt().with_ansi(false).with_writer(|| Sink).with_max_level(tracing::Level::INFO).init();
    });
}

struct Sink;

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
