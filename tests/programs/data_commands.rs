//! `semisam-node data` and `metrics` on the fixtures: exit codes, and the fields that DESIGN promises.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::running::{become_program, finish_command, node};

/// A file below tests/fixtures.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures")).join(name)
}

/// What `data check` says about one file.
pub(crate) fn checked(file: &Path) -> Value {
    node!("--format", "json", "data", "check", file).done().json()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|value| value.as_f64().expect("a number")).collect()
}

fn close(one: &[f64], other: &[f64], tolerance: f64) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| (a - b).abs() <= tolerance)
}

#[test]
fn check_tells_axes_shape_and_spacing_of_every_file() {
    let manifest = fs::read(fixture("nifti/geometry/manifest.json")).expect("a fixture");
    let manifest: Vec<Value> = serde_json::from_slice(&manifest).expect("a list");
    let lines = node!("--format", "json", "data", "check", fixture("nifti/geometry")).done().lines();
    assert_eq!(lines.len(), manifest.len());
    for expected in &manifest {
        let name = expected["file"].as_str().expect("a name");
        let line = lines.iter().find(|line| line["file"].as_str().is_some_and(|file| file.ends_with(name)));
        let line = line.unwrap_or_else(|| panic!("{name} is not mentioned"));
        assert_eq!((&line["ok"], &line["error"]), (&true.into(), &Value::Null), "{line}");
        assert_eq!((&line["axes"], &line["shape"]), (&expected["axcodes"], &expected["shape"]), "{line}");
        let sorted = |value: &Value| {
            let mut spacing = numbers(value);
            spacing.sort_by(f64::total_cmp);
            spacing
        };
        assert!(close(&sorted(&line["spacing_mm"]), &sorted(&expected["ras_spacing_mm"]), 1e-4), "{line}");
    }
}

#[test]
fn check_names_every_malformed_file_and_fails() {
    let folder = fixture("nifti/malformed");
    let ended = node!("--format", "json", "data", "check", folder).with_code(1);
    let lines = ended.lines();
    let mut files: Vec<PathBuf> =
        fs::read_dir(&folder).expect("a fixture").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert_eq!(lines.len(), files.len());
    for (line, file) in lines.iter().zip(&files) {
        assert_eq!((&line["ok"], line["file"].as_str()), (&false.into(), file.to_str()));
        let error = line["error"].as_str().expect("a reason");
        assert!(error.contains(&file.display().to_string()), "{error}");
    }
    let text = node!("data", "check", folder).with_code(1).out;
    assert_eq!(text.lines().filter(|line| line.starts_with("BAD")).count(), files.len(), "{text}");
}

#[test]
fn canonical_turns_every_orientation_to_ras() {
    let folder = TempDir::new().expect("a folder");
    let manifest = fs::read(fixture("nifti/geometry/manifest.json")).expect("a fixture");
    let manifest: Vec<Value> = serde_json::from_slice(&manifest).expect("a list");
    for expected in &manifest {
        let input = fixture("nifti/geometry").join(expected["file"].as_str().expect("a name"));
        let out = folder.path().join("canonical.nii.gz");
        let line = node!("--format", "json", "data", "canonical", input, "--out", out).done().json();
        let written = checked(&out);
        for line in [&line, &written] {
            assert_eq!((&line["axes"], &line["shape"]), (&"RAS".into(), &expected["ras_shape"]), "{line}");
            assert!(close(&numbers(&line["spacing_mm"]), &numbers(&expected["ras_spacing_mm"]), 1e-4), "{line}");
        }
    }
    let scan = fixture("nifti/geometry/02_LIA_uint8_plain.nii");
    node!("data", "canonical", scan, "--out", scan).says(1, &["is the scan itself", "--out"]);
}

#[test]
fn metrics_are_those_of_the_reference() {
    let expected = fs::read(fixture("metrics/expected.json")).expect("a fixture");
    let expected: Vec<Value> = serde_json::from_slice(&expected).expect("a list");
    let same = ["dice", "jaccard"].map(|name| (name.to_owned(), name.to_owned()));
    let distances = ["mm", "vox"].into_iter().flat_map(|unit| {
        let names = [
            ("hd95_pooled", "hd95"),
            ("asd_pred_to_truth", "asd"),
            ("asd_truth_to_pred", "asd_reverse"),
            ("assd", "assd"),
            ("hd", "hd"),
        ];
        names.map(|(theirs, ours)| (format!("{theirs}_{unit}"), format!("{ours}_{unit}")))
    });
    let names: Vec<(String, String)> = same.into_iter().chain(distances).collect();
    for (case, expected) in expected.iter().enumerate() {
        let [prediction, truth] = ["pred", "truth"].map(|kind| fixture(&format!("metrics/case0{case}_{kind}.nii.gz")));
        let found = node!("--format", "json", "metrics", prediction, truth).done().json();
        for (theirs, ours) in &names {
            assert!(found.get(ours).is_some(), "case {case}: there is no `{ours}`");
            match (expected[theirs].as_f64(), found[ours].as_f64()) {
                (Some(expected), Some(found)) => {
                    assert!((expected - found).abs() < 1e-6, "case {case}: {ours} {found}")
                }
                (expected, found) => assert_eq!(expected, found, "case {case}: {ours}"),
            }
        }
    }
}

#[test]
fn a_synthetic_hospital_is_sound_and_the_same_each_time() {
    let folder = TempDir::new().expect("a folder");
    let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
    for out in [&one, &two] {
        let made = node!(
            "--format",
            "json",
            "data",
            "synth",
            "--out",
            out,
            "--patients",
            "4",
            "--labelled",
            "1",
            "--shape",
            "12",
            "10",
            "9",
            "--spacing",
            "2",
            "3",
            "4",
            "--seed",
            "5"
        );
        let made = made.done().json();
        assert_eq!((&made["patients"], &made["labelled_patients"]), (&4.into(), &1.into()));
        let lines = node!("--format", "json", "data", "check", out).done().lines();
        let images: Vec<&Value> =
            lines.iter().filter(|line| line["file"].as_str().is_some_and(|file| file.contains("images"))).collect();
        assert_eq!(images.len() as u64, made["scans"].as_u64().expect("a count"));
        for image in images {
            let (mut shape, mut spacing) = (numbers(&image["shape"]), numbers(&image["spacing_mm"]));
            shape.sort_by(f64::total_cmp);
            spacing.sort_by(f64::total_cmp);
            assert!(close(&shape, &[9.0, 10.0, 12.0], 0.0) && close(&spacing, &[2.0, 3.0, 4.0], 1e-4), "{image}");
        }
    }
    let same = Command::new("diff").arg("-r").args([&one, &two]).status().expect("diff");
    assert!(same.success(), "one seed, two hospitals");
}

#[test]
fn a_full_standard_output_is_a_failure_and_a_closed_one_is_not_a_crash() {
    let full = Path::new("/dev/full");
    if !full.exists() {
        return;
    }
    let [prediction, truth] = ["pred", "truth"].map(|kind| fixture(&format!("metrics/case00_{kind}.nii.gz")));
    let mut shell = Command::new("sh");
    let program = become_program("node");
    shell.args(["-c", "exec \"$@\" >/dev/full", "sh"]).arg(program.get_program()).args(program.get_args());
    shell.arg("metrics").args([&prediction, &truth]);
    finish_command(shell).says(1, &["cannot print the result"]);
    let mut shell = Command::new("bash");
    shell.args(["-c", "set -o pipefail; \"$@\" | (exec <&-; sleep 1)", "bash"]);
    shell.arg(program.get_program()).args(program.get_args()).arg("metrics").args([&prediction, &truth]);
    finish_command(shell).done();
}
