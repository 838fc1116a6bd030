//! The built program on a disk that takes no more: sites hear "try again", the program runs on, and once there is space
//! it works without a restart. A file-size limit (RLIMIT_FSIZE with SIGXFSZ ignored) stands for the full disk.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use semisam_shared::{message::Response, round::Rejection};

use crate::rig::*;

/// Kills the program if the test fails before it ends.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn prlimit(arguments: &[&str]) -> bool {
    let done = Command::new("prlimit").args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}

fn listening(consortium: &Consortium) -> SocketAddr {
    let since = Instant::now();
    loop {
        let text = std::fs::read_to_string(consortium.folder().address()).unwrap_or_default();
        if let Ok(address) = text.trim().parse() {
            return address;
        }
        assert!(since.elapsed() < SOON, "the program does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_waited_out() {
    if !prlimit(&["--version"]) {
        eprintln!("skipped: this machine has no `prlimit`");
        return;
    }
    let consortium = Consortium::new(1, 1, 3600);
    let node = consortium.enrol("north");
    let limit = std::fs::metadata(consortium.folder().journal()).expect("there").len() + 10;
    let script = format!("trap '' XFSZ; exec prlimit --fsize={limit}:unlimited \"$@\"");
    let child = Command::new("sh")
        .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_semisam-coordinator"), "serve", "--dir"])
        .arg(consortium.folder().root())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut program = Program(child.expect("started"));
    let address = listening(&consortium);
    let connection = node.dial(address).await.expect("connected");
    for _ in 0..2 {
        assert_eq!(ask(&connection, &node.hello()).await, Response::Rejected(Rejection::Storage));
    }
    let pid = program.0.id().to_string();
    assert!(prlimit(&["--pid", &pid, "--fsize=unlimited:unlimited"]), "the limit is lifted");
    node.train(&node.connect(address).await).await;
    assert!(
        matches!(node.submit(&connection, 1).await, Sent::Rejected(Rejection::NotJoined)),
        "hello was refused here"
    );
    let connection = node.connect(address).await;
    assert!(matches!(node.submit(&connection, 1).await, Sent::Accepted(_)));
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("ran").success());
    let since = Instant::now();
    let status = loop {
        match program.0.try_wait().expect("waited") {
            Some(status) => break status,
            None => assert!(since.elapsed() < SOON, "it stops at SIGTERM"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(status.code(), Some(0));
    assert!(!consortium.folder().address().exists());
    let mut log = String::new();
    std::io::Read::read_to_string(&mut program.0.stderr.take().expect("piped"), &mut log).expect("read");
    assert_eq!(log.matches("free some space").count(), 1, "said once, with the remedy: {log}");
}
