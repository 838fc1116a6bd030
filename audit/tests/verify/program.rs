//! The program as a person or a script calls it.

use std::{ffi::OsString, fs, process::Command};

use semisam_audit::cli::run;
use serde_json::Value;

use crate::federation::finished;

/// Exit code, results, words.
pub(crate) fn call(arguments: &[&str]) -> (u8, String, String) {
    let (mut out, mut words) = (Vec::new(), Vec::new());
    let arguments = std::iter::once("semisam-audit").chain(arguments.iter().copied()).map(OsString::from);
    let code = run(arguments, &mut out, &mut words);
    (code, String::from_utf8(out).expect("text"), String::from_utf8(words).expect("text"))
}

#[test]
fn a_sound_folder_exits_with_0_and_an_unsound_one_with_2() {
    let folder = finished();
    let path = folder.path("").display().to_string();
    let (code, out, words) = call(&["verify", &path, "--format", "json"]);
    assert_eq!((code, words.as_str(), out.lines().count()), (0, "", 1));
    let document: Value = serde_json::from_str(&out).expect("json");
    assert_eq!(
        (&document["verdict"], &document["rounds"], &document["ledgers"]),
        (&"sound".into(), &3.into(), &3.into())
    );
    assert_eq!(document["findings"], Value::Array(vec![]));
    assert!(document["notes"].is_array() && document["journal_records"].as_u64() > Some(10));
    for field in ["add_remove", "replace_one", "delta", "releases", "abandoned"] {
        assert!(document["epsilon"]["north"][field].is_number(), "{field}: {document}");
    }
    assert_eq!(document["epsilon"]["north"]["site"].as_str().map(str::len), Some(64));
    let lines = folder.lines("north/ledger.jsonl");
    folder.write_lines("north/ledger.jsonl", &lines[..4]);
    let (code, out, _) = call(&["--format", "json", "verify", &path]);
    let document: Value = serde_json::from_str(&out).expect("json");
    assert_eq!((code, &document["verdict"]), (2, &"unsound".into()));
    let first = &document["findings"][0];
    assert!(first["file"].is_string() && first["record"].is_number() && first["problem"].is_string(), "{first}");
}

#[test]
fn people_get_a_table_and_no_control_characters() {
    let folder = finished();
    let path = folder.path("").display().to_string();
    let (code, out, _) = call(&["verify", &path]);
    assert_eq!(code, 0);
    assert!(out.starts_with("verdict: sound\n") && out.contains("replace-one") && out.contains("north"), "{out}");
    fs::write(folder.path("coordinator/store/\u{1b}[31m"), b"x").expect("written");
    let (_, out, _) = call(&["verify", &path]);
    assert!(out.contains("note: ") && !out.contains('\u{1b}'), "{out}");
}

#[test]
fn a_reader_who_left_changes_neither_verdict_nor_words() {
    let folder = finished();
    let check = || {
        let (gone, results) = std::io::pipe().expect("a pipe");
        drop(gone);
        let mut program = Command::new(env!("CARGO_BIN_EXE_semisam-audit"));
        let ended = program.arg("verify").arg(folder.path("")).stdout(results).output().expect("the program runs");
        (ended.status.code(), String::from_utf8(ended.stderr).expect("text"))
    };
    assert_eq!(check(), (Some(0), String::new()));
    let lines = folder.lines("north/ledger.jsonl");
    folder.write_lines("north/ledger.jsonl", &lines[..4]);
    assert_eq!(check(), (Some(2), String::new()));
}

#[test]
fn what_cannot_be_checked_exits_with_1_and_a_reason() {
    let empty = tempfile::tempdir().expect("folder");
    let path = empty.path().display().to_string();
    let (code, out, words) = call(&["verify", &path]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(words.contains("no `journal.jsonl`") && words.contains(&path), "{words}");
    let (code, _, words) = call(&["verify", &format!("{path}/absent")]);
    assert!(code == 1 && words.contains("absent"), "{words}");
}

#[test]
fn wrong_usage_exits_with_64_and_help_with_0() {
    for wrong in [vec![], vec!["verify"], vec!["nonsense"], vec!["verify", "a", "--format", "xml"]] {
        let (code, out, words) = call(&wrong);
        assert!(code == 64 && out.is_empty() && !words.is_empty(), "{wrong:?}: {code} {out} {words}");
    }
    let (code, out, _) = call(&["--help"]);
    assert!(code == 0 && out.contains("verify") && out.contains("epsilon"), "{out}");
}
