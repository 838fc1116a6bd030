//! What a consortium prepares before it federates: the basis of a plan, and a measurement of what its noise leaves.

use std::{fs, path::Path, process::Command};

use semisam_shared::weights::Weights;
use tempfile::TempDir;

use crate::running::{coordinator, finish_command, node};

/// A small plan, of the same form as the sample.
fn plan(path: &Path) {
    let sample = include_str!("../../deploy/plan.toml");
    let small = sample
        .replace("rounds = 4 ", "rounds = 2 ")
        .replace("base_filters = 4", "base_filters = 2")
        .replace("groups = 4", "groups = 2")
        .replace("spacing_mm = [2.5, 2.5, 2.5]", "spacing_mm = [4.0, 4.0, 4.0]")
        .replace("patch = [64, 48, 32]", "patch = [16, 16, 16]")
        .replace("local_steps = 16", "local_steps = 1");
    fs::write(path, small).expect("written");
}

/// A folder with `plan.toml` and `start.safetensors`.
fn prepared() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    plan(&folder.path().join("plan.toml"));
    let start = folder.path().join("start.safetensors");
    let small = ["--spacing", "4", "--patch", "16,16,16", "--base-filters", "2", "--steps", "2", "--device", "cpu"];
    let [a, b, c, d, e, f, g, h, i, j] = small;
    node!("student", "pretrain", "--recipe", "anything", "--out", start, a, b, c, d, e, f, g, h, i, j).done();
    folder
}

#[test]
fn a_basis_is_orthonormal_repeatable_and_says_its_clip_norm() {
    let folder = prepared();
    let path = |name: &str| folder.path().join(name);
    let (plan, start) = (path("plan.toml"), path("start.safetensors"));
    let make = |out: &Path, directions: &str, patients: &str| {
        node!(
            "--format",
            "json",
            "student",
            "basis",
            "--plan",
            plan,
            "--model",
            start,
            "--recipe",
            "anything",
            "--directions",
            directions,
            "--patients",
            patients,
            "--out",
            out
        )
    };
    let told = make(&path("one"), "4", "6").done().json();
    assert_eq!(told["directions"], 4);
    assert!(told["clip_norm"].as_f64().is_some_and(|norm| norm > 0.0), "{told}");
    make(&path("two"), "4", "6").done();
    let bytes = fs::read(path("one")).expect("a basis");
    assert!(bytes == fs::read(path("two")).expect("a basis"), "the same command gives the same file");
    let basis = Weights::from_safetensors(&bytes).expect("weights");
    let tensor = basis.get("basis").expect("a tensor of this name");
    let rows: Vec<&[f32]> = tensor.values.chunks_exact(tensor.shape[1]).collect();
    assert_eq!((rows.len(), tensor.shape[0]), (4, 4));
    for (i, a) in rows.iter().enumerate() {
        for (j, b) in rows.iter().enumerate() {
            let product: f64 = a.iter().zip(*b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            // as exact as half precision, whose rounding is a share of 2^-11 of each number
            assert!((product - f64::from(u8::from(i == j))).abs() < 1.0 / 1024.0, "{i} {j}: {product}");
        }
    }
    make(&path("none"), "8", "6").says(1, &["8 directions", "span only"]);
    let text = fs::read_to_string(&plan).expect("written");
    fs::write(&plan, text.replace("space = \"basis\"", "space = \"all\"")).expect("written");
    make(&path("none"), "4", "6").says(1, &["plan.toml", "space = \"basis\""]);
    fs::write(&plan, text.replace("[4.0, 4.0, 4.0]", "[4.0, 4.0, 2.0]")).expect("written");
    make(&path("none"), "4", "6").says(1, &["cubes"]);
    fs::write(&plan, text.replace("classes = 2", "classes = 3")).expect("written");
    make(&path("none"), "4", "6").says(1, &["2 classes", "has 3"]);
    assert!(!path("none").exists(), "nothing is written where something is wrong");
}

/// From the README alone: a shipped name, a basis, and a coordinator that takes both.
#[test]
fn what_comes_with_the_program_founds_a_federation() {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let (start, basis, plan) = (path("new/initial.safetensors"), path("basis.safetensors"), path("plan.toml"));
    let told = node!("--format", "json", "student", "export", "--model", "left-atrium-student", "--out", start).done();
    assert_eq!((&told.json()["base_filters"], &told.json()["classes"]), (&4.into(), &2.into()));
    let sample = include_str!("../../deploy/plan.toml");
    fs::write(&plan, sample.replace("local_steps = 16", "local_steps = 1")).expect("written");
    let [a, b] = ["--directions", "2"];
    let recipe = ["--recipe", "left-atrium", "--axes", "LPS", "--patients", "3"];
    let [c, d, e, f, g, h] = recipe;
    node!("student", "basis", "--plan", plan, "--model", start, a, b, c, d, e, f, g, h, "--out", basis).done();
    let dir = path("coordinator");
    coordinator!("init", "--dir", dir, "--plan", plan, "--model", start, "--basis", basis).done();
    let generalist = "small-generalist";
    node!("student", "export", "--model", generalist, "--out", path("none")).says(1, &["V-Net"]);
}

#[test]
fn a_measurement_fills_its_table_keeps_its_ledgers_promise_and_goes_on_where_it_was() {
    let folder = prepared();
    let path = |name: &str| folder.path().join(name);
    let measure_with = |labelled: &str, seeds: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_semisam-sim"));
        command.args(["bench", "privacy", "--synthetic", "4", "--hospitals", "2", "--labelled", labelled]);
        command.args(["--recipe", "anything", "--axes", "RAS", "--directions", "3", "--synthetic-patients", "5"]);
        command.args(["--epsilon", "8", "--alone-steps", "2", "--tune-steps", "1", "--seeds", seeds]);
        command.arg("--plan").arg(path("plan.toml")).arg("--init").arg(path("start.safetensors"));
        command.arg("--out").arg(path("results"));
        finish_command(command)
    };
    measure_with("4,5", "1").says(1, &["--labelled 5", "(4)"]);
    let measure = |seeds: &str| measure_with("4,1", seeds);
    let first = measure("1").done();
    for row in ["each hospital alone", "federation without privacy", "private federation, epsilon 8, then each"] {
        assert!(first.out.contains(row), "{row}: {}", first.out);
    }
    assert!(!first.out.contains(" - |"), "every cell is measured: {}", first.out);
    let spent = first.err.lines().filter_map(|line| line.split("at most epsilon ").nth(1)?.trim().parse::<f64>().ok());
    let spent: Vec<f64> = spent.collect();
    assert!(spent.len() == 2 && spent.iter().all(|spent| *spent > 7.9 && *spent <= 8.0), "{}", first.err);
    let record = || fs::read_to_string(path("results/runs.jsonl")).expect("a record");
    let before = record();
    assert_eq!(before.lines().count(), 10, "two numbers of labels, five rows: {before}");
    assert_eq!(measure("1").done().out, first.out);
    assert_eq!(record(), before, "nothing is measured twice");
    // the last line is lost in a crash: only that is measured again
    let lines: Vec<&str> = before.lines().collect();
    fs::write(path("results/runs.jsonl"), lines[..9].join("\n") + "\n").expect("written");
    measure("1").done();
    assert_eq!(record().lines().count(), 10);
}
