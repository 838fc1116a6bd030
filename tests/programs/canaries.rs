//! The empirical audit as a user runs it: the built program, its exit codes, its document, and ledgers that an auditor reads.

use tempfile::TempDir;

use crate::running::{audit, finish_sim};

#[test]
fn a_sound_program_is_consistent_and_its_ledgers_are_sound() {
    let folder = TempDir::new().expect("a folder");
    let out = folder.path().join("audit");
    let small = ["--canaries", "400", "--clients", "64", "--coordinates", "1000"];
    let mut line: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"audit", &"--format", &"json", &"--out", &out];
    line.extend(small.iter().map(|word| word as &dyn AsRef<std::ffi::OsStr>));
    let report = finish_sim(&line).done().json();
    assert_eq!((&report["verdict"], &report["contradictions"]), (&"consistent".into(), &serde_json::json!([])));
    assert_eq!((&report["unit"], &report["one_run"]["canaries"]), (&"patient".into(), &400.into()));
    let verdict = audit!("verify", out, "--format", "json").done().json();
    assert_eq!(verdict["verdict"], "sound");
    assert_eq!(verdict["ledgers"], 4, "{verdict}");
    let charged = verdict["epsilon"]["one-run-1"]["add_remove"].as_f64().expect("an epsilon");
    let claimed = report["claim"]["epsilon_add_remove"].as_f64().expect("an epsilon");
    assert!((charged - claimed).abs() < 2e-6, "the auditor says {charged}, the claim is {claimed}");
    finish_sim(&line).says(1, &["not empty"]);
    finish_sim(&[&"audit", &"--claim-epsilon", &"0"]).says(64, &["epsilon"]);
}
