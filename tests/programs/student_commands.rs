//! Local work with a student, no federation needed: parity with the original network, then train, evaluate, predict.

use std::{fs, io, process::Stdio};

use semisam_shared::weights::{Tensor, Weights};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    data_commands::{checked, fixture},
    federation::{initial_model, scans, train},
    running::{become_program, node},
};

/// Tolerances of the comparison with PyTorch: absolute for what the network says, relative for gradients.
const ABSOLUTE: f64 = 1e-4;
const RELATIVE: f64 = 1e-3;

#[test]
fn imported_weights_compute_what_the_original_computes() {
    let (weights, reference) = (fixture("vnet/vnet_tiny.safetensors"), fixture("vnet/vnet_tiny_io.safetensors"));
    let ended = node!(
        "--format",
        "json",
        "student",
        "verify",
        "--weights",
        weights,
        "--reference",
        reference,
        "--device",
        "cpu"
    );
    let outputs = ended.done().json()["outputs"].as_array().expect("a list").clone();
    let gradients = outputs.iter().filter(|output| output["name"].as_str().is_some_and(|name| name.contains("grad")));
    assert!(gradients.count() > 100 && outputs.iter().any(|output| output["name"] == "logits"));
    for output in &outputs {
        let error = |field: &str| output[field].as_f64().unwrap_or(f64::INFINITY);
        let gradient = output["name"].as_str().is_some_and(|name| name.contains("grad"));
        // Where the true gradient is zero, a relative error has no meaning.
        let fits = if gradient {
            error("max_rel_error") <= RELATIVE || error("max_abs_error") <= 1e-6
        } else {
            error("max_abs_error") <= ABSOLUTE
        };
        assert!(fits, "{output}");
    }
}

#[test]
fn train_evaluate_and_predict_follow_one_another() {
    let folder = TempDir::new().expect("a folder");
    let [data, out, mask, picture] =
        ["scans", "student", "mask.nii.gz", "picture.png"].map(|name| folder.path().join(name));
    scans(&data, 3);
    let reports = train(&data, &out, "12").lines();
    let (last, reports) = reports.split_last().expect("reports");
    assert!(reports.len() == 2 && reports.iter().all(|report| report["loss"].is_f64()), "{reports:?}");
    assert!(reports[1]["step"] == 12 && reports[1]["seconds"].is_number());
    assert!(last["dice"].is_number() && last["scored_on"] == "training", "{last}");

    let model = out.join("model.safetensors");
    let lines = node!(
        "--format",
        "json",
        "evaluate",
        "--model",
        model,
        "--data",
        data,
        "--patch",
        "16,16,16",
        "--spacing",
        "4"
    );
    let lines = lines.done().lines();
    let (mean, cases) = lines.split_last().expect("cases");
    assert_eq!((&mean["case"], &mean["cases"]), (&"mean".into(), &cases.len().into()));
    let dice: Vec<f64> = cases.iter().map(|case| case["dice"].as_f64().expect("a score")).collect();
    let average = dice.iter().sum::<f64>() / dice.len() as f64;
    assert!((mean["dice"].as_f64().expect("a score") - average).abs() < 1e-12);
    assert!((last["dice"].as_f64().expect("a score") - average).abs() < 1e-12, "the same scans, the same student");

    let scan = fs::read_dir(data.join("images")).expect("scans").next().expect("one").expect("an entry").path();
    let told = node!(
        "--format",
        "json",
        "predict",
        "--model",
        model,
        "--in",
        scan,
        "--out",
        mask,
        "--preview",
        picture,
        "--patch",
        "16,16,16",
        "--spacing",
        "4"
    );
    let told = told.done().json();
    same_grid(&checked(&scan), &checked(&mask));
    assert_eq!(told["mask"].as_str(), mask.to_str());
    let png = fs::read(&picture).expect("a picture");
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.len() > 500);
}

#[track_caller]
fn same_grid(scan: &Value, mask: &Value) {
    for field in ["axes", "shape", "spacing_mm"] {
        assert_eq!(scan[field], mask[field], "{field}");
    }
}

#[test]
fn a_mask_lies_on_the_grid_of_its_scan_however_that_is_stored() {
    let folder = TempDir::new().expect("a folder");
    let model = folder.path().join("model.safetensors");
    fs::write(&model, initial_model()).expect("written");
    for name in ["01_LPS_int16_slope.nii.gz", "03_PSR_uint16_qform_only.nii.gz", "08_LPS_float32_oblique.nii.gz"] {
        let (scan, mask) = (fixture("nifti/geometry").join(name), folder.path().join(format!("mask-{name}")));
        node!("predict", "--model", model, "--in", scan, "--out", mask, "--patch", "16,16,16", "--spacing", "4").done();
        same_grid(&checked(&scan), &checked(&mask));
        // Same place in the world: only then do the scores of the mask with itself turned to RAS+ agree.
        let turned = folder.path().join("turned.nii.gz");
        node!("data", "canonical", mask, "--out", turned).done();
        let scores = node!("--format", "json", "metrics", mask, turned).done().json();
        assert_eq!(scores["dice"], 1.0, "{name}: {scores}");
    }
}

#[test]
fn an_empty_mask_is_said() {
    let folder = TempDir::new().expect("a folder");
    let [model, mask] = ["model.safetensors", "mask.nii.gz"].map(|name| folder.path().join(name));
    let scan = fixture("nifti/geometry/00_RAS_float32_plain.nii.gz");
    let mut blind: Vec<(String, Tensor)> = Weights::from_safetensors(initial_model())
        .expect("weights")
        .iter()
        .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
        .collect();
    let bias = blind.iter_mut().find(|(name, _)| name == "out_conv.bias").expect("the last bias");
    bias.1.values = vec![1e6, 0.0];
    fs::write(&model, Weights::new(blind).expect("whole").to_safetensors().expect("bytes")).expect("written");
    let told = node!("predict", "--model", model, "--in", scan, "--out", mask, "--patch", "16,16,16", "--spacing", "4");
    let told = told.done();
    assert!(told.err.contains("00_RAS_float32_plain.nii.gz") && told.err.contains("mask is empty"), "{told:?}");
    assert!(told.out.contains(": 0 voxels") && mask.exists(), "{told:?}");
}

#[test]
fn a_reader_who_left_stops_no_training() {
    let folder = TempDir::new().expect("a folder");
    let [data, out] = ["scans", "student"].map(|name| folder.path().join(name));
    scans(&data, 4);
    let (gone, lines) = io::pipe().expect("a pipe");
    drop(gone);
    let mut program = become_program("node");
    program.args(["train", "--steps", "2", "--base-filters", "2", "--patch", "16,16,16", "--spacing", "4", "--data"]);
    let ended = program.arg(&data).arg("--out").arg(&out).stdin(Stdio::null()).stdout(lines).output().expect("it runs");
    let words = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && !words.contains("error") && out.join("model.safetensors").exists(), "{words}");
}
