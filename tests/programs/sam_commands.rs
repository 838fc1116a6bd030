//! A generalist by command: parity with the original, refusals by name, and masks that land where the points were put.

use std::{fs, path::Path};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    data_commands::{checked, fixture},
    running::node,
};

fn checkpoint() -> std::path::PathBuf {
    fixture("sam_med3d/sam_med3d_tiny.pth")
}

fn segment(scan: &Path, point: &str, mask: &Path) -> Value {
    let checkpoint = checkpoint();
    node!(
        "--format",
        "json",
        "sam",
        "segment",
        "--checkpoint",
        checkpoint,
        "--in",
        scan,
        "--point",
        point,
        "--out",
        mask
    )
    .done()
    .json()
}

#[test]
fn a_published_checkpoint_computes_what_the_original_computes() {
    let reference = fixture("sam_med3d/sam_med3d_tiny_io.safetensors");
    let verify = node!("--format", "json", "sam", "verify", "--checkpoint", checkpoint(), "--reference", reference);
    let outputs = verify.done().json()["outputs"].as_array().expect("a list").clone();
    assert_eq!(outputs.len(), 30);
    for output in outputs {
        let most = if output["name"].as_str().is_some_and(|name| name.ends_with("logits")) { 1e-4 } else { 1e-5 };
        assert!(output["max_abs_error"].as_f64().is_some_and(|error| error <= most), "{output}");
    }
}

#[test]
fn a_mask_is_the_same_however_its_scan_is_stored() {
    let folder = TempDir::new().expect("a folder");
    let [mask, turned, canonical, of_canonical] =
        ["mask.nii.gz", "turned.nii.gz", "canonical.nii.gz", "of_canonical.nii.gz"]
            .map(|name| folder.path().join(name));
    for name in ["01_LPS_int16_slope.nii.gz", "03_PSR_uint16_qform_only.nii.gz", "08_LPS_float32_oblique.nii.gz"] {
        let scan = fixture("nifti/geometry").join(name);
        let stored = checked(&scan);
        let extents: Vec<i64> = stored["shape"].as_array().expect("a list").iter().filter_map(Value::as_i64).collect();
        let point: Vec<i64> = extents.iter().enumerate().map(|(axis, extent)| extent / 2 + axis as i64 - 1).collect();
        // The same voxel with the axes turned to RAS+.
        let mut ras = [0; 3];
        for (axis, letter) in stored["axes"].as_str().expect("letters").chars().enumerate() {
            let (target, turned) = match letter {
                'R' => (0, false),
                'L' => (0, true),
                'A' => (1, false),
                'P' => (1, true),
                'S' => (2, false),
                _ => (2, true),
            };
            ras[target] = if turned { extents[axis] - 1 - point[axis] } else { point[axis] };
        }
        let text = |point: &[i64]| point.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
        let told = segment(&scan, &text(&point), &mask);
        assert!(told["foreground_voxels"].as_u64().is_some_and(|voxels| voxels > 0), "{told}");
        let of_mask = checked(&mask);
        for field in ["axes", "shape", "spacing_mm"] {
            assert_eq!(stored[field], of_mask[field], "{name}: {field}");
        }
        node!("data", "canonical", scan, "--out", canonical).done();
        segment(&canonical, &text(&ras), &of_canonical);
        node!("data", "canonical", mask, "--out", turned).done();
        let dice = node!("--format", "json", "metrics", turned, of_canonical).done().json()["dice"].as_f64();
        assert!(dice.is_some_and(|dice| dice > 0.999), "{name}: {dice:?}");
    }
}

#[test]
fn points_accumulate_and_a_picture_is_drawn() {
    let folder = TempDir::new().expect("a folder");
    let [one, two, picture] = ["one.nii.gz", "two.nii.gz", "picture.png"].map(|name| folder.path().join(name));
    let scan = fixture("nifti/geometry/00_RAS_float32_plain.nii.gz");
    segment(&scan, "3,4,5", &one);
    let checkpoint = checkpoint();
    let told = node!(
        "--format",
        "json",
        "sam",
        "segment",
        "--checkpoint",
        checkpoint,
        "--in",
        scan,
        "--point",
        "3,4,5",
        "--point",
        "6,5,4:-",
        "--out",
        two,
        "--preview",
        picture
    );
    assert_eq!(told.done().json()["points"], serde_json::json!(["3,4,5", "6,5,4:-"]));
    assert!(fs::read(&picture).expect("a picture").starts_with(b"\x89PNG\r\n\x1a\n"));
}

#[test]
fn an_embedding_has_the_shape_of_the_network() {
    let folder = TempDir::new().expect("a folder");
    let out = folder.path().join("embedding.safetensors");
    let scan = fixture("nifti/geometry/00_RAS_float32_plain.nii.gz");
    let told = node!("--format", "json", "sam", "embed", "--checkpoint", checkpoint(), "--in", scan, "--out", out);
    let told = told.done().json();
    assert_eq!(told["shape"], serde_json::json!([1, 48, 4, 4, 4]));
    assert_eq!(told["view"]["shape"], serde_json::json!([64, 64, 64]));
    let bytes = fs::read(&out).expect("a file");
    let weights = semisam_shared::weights::Weights::from_safetensors(&bytes).expect("tensors");
    assert_eq!(weights.get("image_embedding").expect("there").shape, [1, 48, 4, 4, 4]);
    assert_eq!(weights.get("affine").expect("there").shape, [4, 4]);
}

#[test]
fn what_people_do_wrong_is_named() {
    let folder = TempDir::new().expect("a folder");
    let mask = folder.path().join("mask.nii.gz");
    let scan = fixture("nifti/geometry/01_LPS_int16_slope.nii.gz");
    let (good, student, text) = (checkpoint(), fixture("vnet/vnet_tiny.safetensors"), fixture("metrics/expected.json"));
    let absent = folder.path().join("absent.nii");
    let run = |checkpoint: &Path, scan: &Path, point: &str| {
        node!("sam", "segment", "--checkpoint", checkpoint, "--in", scan, "--point", point, "--out", mask)
    };
    run(&good, &scan, "500,1,2").says(1, &["`500,1,2`", "LPS"]);
    run(&good, &scan, "-1,1,2").says(1, &["`-1,1,2`"]);
    run(&good, &scan, "1,2").says(64, &["i,j,k"]);
    run(&student, &scan, "1,1,1").says(1, &["vnet_tiny", "missing", "`image_encoder.", "`block_eight.conv.0.bias`"]);
    run(&text, &scan, "1,1,1").says(1, &["expected.json"]);
    run(&good, &absent, "1,1,1").says(1, &["absent.nii"]);
    run(&good, &fixture("nifti/malformed/nan_affine.nii"), "1,1,1").says(1, &["nan_affine.nii"]);
    let reference = fixture("vnet/vnet_tiny_io.safetensors");
    node!("sam", "verify", "--checkpoint", good, "--reference", reference).says(1, &["`image`", "vnet_tiny_io"]);
    assert!(!mask.exists());
}
