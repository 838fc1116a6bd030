//! Several classes from label files to masks: which value is which class, scores of each, mirrored windows and largest parts.
//! One test needs only what the programs make; the other uses a real CT with 41 organs, where the shared folder is at hand.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use semisam_node::data::{components::keep_largest, nifti::read_labels};
use serde_json::Value;
use tempfile::TempDir;

use crate::running::{Argument, Ended, finish, node};

/// Liver, spleen and stomach, aorta and muscles of the back; all else is background.
const MAP: &str = "5=1,1=2,6=2,52=3,86=4,87=4,other=0";

fn shared() -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let folder = PathBuf::from(std::env::var("SEMISAM_SHARED").unwrap_or_else(|_| default.to_owned()));
    if folder.join("data").is_dir() {
        return Some(folder);
    }
    assert_ne!(std::env::var("SEMISAM_REQUIRE_SHARED").as_deref(), Ok("1"), "no shared folder");
    eprintln!("skipped: no shared folder");
    None
}

fn json(command: &str, arguments: &[Argument<'_>]) -> Ended {
    let first: [Argument<'_>; 3] = [&"--format", &"json", &command];
    finish("node", &first.into_iter().chain(arguments.iter().copied()).collect::<Vec<_>>())
}

fn values(mask: &Path) -> BTreeSet<u8> {
    read_labels(mask).expect("a mask").values.into_iter().collect()
}

/// The entries of classes in a line of scores or of a prediction.
fn classes(line: &Value) -> &Vec<Value> {
    line["classes"].as_array().unwrap_or_else(|| panic!("no classes: {line}"))
}

#[test]
fn a_real_ct_is_trained_scored_and_segmented_with_the_values_of_its_labels() {
    let Some(shared) = shared() else { return };
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let (data, out, scan) = (path("scans"), path("student"), path("scans/images/ct.nii.gz"));
    for (kind, name) in [("images", "totalsegmentator_ct.nii.gz"), ("labels", "totalsegmentator_ct_labels.nii.gz")] {
        fs::create_dir_all(data.join(kind)).expect("a folder");
        fs::copy(shared.join("data/vendor").join(name), data.join(kind).join("ct.nii.gz")).expect("a scan");
    }
    let checked = node!("data", "check", data).done().out;
    assert!(checked.contains("--map 1=1,") && checked.contains("117=41"), "{checked}");

    let small: [Argument<'_>; 6] = [&"--patch", &"32,32,16", &"--spacing", &"6", &"--device", &"cpu"];
    let training: Vec<Argument<'_>> = [&"--data" as Argument<'_>, &data, &"--out", &out, &"--steps", &"200"]
        .into_iter()
        .chain([&"--method" as Argument<'_>, &"supervised", &"--base-filters", &"4"])
        .chain(small)
        .collect();
    let train = |map: &[Argument<'_>]| json("train", &[&training, map].concat());
    let refused = train(&[]).says(1, &["labels/ct.nii.gz", "class 117", "--map"]);
    assert_eq!(refused.err.matches("class 117").count(), 1, "said once: {}", refused.err);
    train(&[&"--map", &"5=1,1=2"]).says(1, &["labels/ct.nii.gz", "has no class", "other=0"]);
    train(&[&"--map", &"5=1,1=3"]).says(64, &["no value is named for class 2"]);
    let last = &train(&[&"--map", &MAP]).done().lines().pop().expect("scores");
    let given: Vec<&Value> = classes(last).iter().map(|class| &class["value"]).collect();
    assert_eq!(given, [5, 1, 52, 86]);
    let dice = |class: usize| classes(last)[class]["dice"].as_f64().expect("a score");
    assert!(dice(0) > 0.5 && dice(3) > 0.2, "it knows the liver and the muscles it was trained on: {last}");

    let model = out.join("model.safetensors");
    let with: Vec<Argument<'_>> = [&"--model" as Argument<'_>, &model].into_iter().chain(small).collect();
    let evaluation: [Argument<'_>; 4] = [&"--data", &data, &"--map", &MAP];
    let lines = json("evaluate", &[&with[..], &evaluation].concat()).done().lines();
    assert_eq!(lines.len(), 2, "a case and the mean");
    assert_eq!(lines[1]["dice_of_classes"], last["dice_of_classes"], "the same scan, the same student");
    json("evaluate", &[&with[..], &evaluation[..2]].concat()).says(1, &["class 117", "--map"]);
    json("evaluate", &[&with[..], &evaluation[..2], &[&"--map", &"5=1,other=0"]].concat()).says(1, &["has 5"]);

    let [plain, large] = ["plain.nii.gz", "large.nii.gz"].map(path);
    let predict = |mask: &Path, more: &[Argument<'_>]| {
        json("predict", &[&with[..], &[&"--in", &scan, &"--out", &mask], more].concat()).done().json()
    };
    predict(&plain, &[]);
    let found = values(&plain);
    assert!(
        found.is_subset(&BTreeSet::from([0, 1, 2, 3, 4])) && found.contains(&1),
        "without a map classes are written"
    );
    let picture = path("picture.png");
    let told = predict(
        &large,
        &[&"--map", &MAP, &"--flips", &"--largest-component", &"--overlap", &"0.25", &"--preview", &picture],
    );
    assert_eq!((&told["flips"], &told["largest_component"]), (&"xy".into(), &true.into()));
    let found = values(&large);
    assert!(found.is_subset(&BTreeSet::from([0, 5, 1, 52, 86])) && found.is_superset(&BTreeSet::from([5, 86])));
    assert!(keep_largest(&mut read_labels(&plain).expect("a mask")) > 0, "there was something to remove");
    assert_eq!(keep_largest(&mut read_labels(&large).expect("a mask")), 0, "one part of each class");
    let voxels = read_labels(&large).expect("a mask").values;
    for class in classes(&told) {
        let count = voxels.iter().filter(|value| class["value"] == **value).count();
        assert_eq!(class["voxels"], count, "{class}");
    }
    assert!(fs::read(picture).expect("a picture").starts_with(b"\x89PNG"));
}

#[test]
fn organs_without_gaps_need_no_map() {
    let folder = TempDir::new().expect("a folder");
    let [data, out] = ["scans", "student"].map(|name| folder.path().join(name));
    let [recipe, count] = [["--recipe", "abdominal-organs"], ["--count", "2"]];
    let ([a, b], [c, d]) = (recipe, count);
    node!("data", "synth", "--out", data, a, b, c, d, "--shape", "24", "24", "20", "--spacing", "8", "8", "8").done();
    let checked = json("data", &[&"check", &data]).done().lines();
    let count = checked.iter().filter_map(|line| line["classes"].as_array()).map(Vec::len).max().expect("labels");
    assert!(count > 2, "several organs");
    let small: [Argument<'_>; 6] = [&"--patch", &"16,16,16", &"--spacing", &"8", &"--device", &"cpu"];
    let number = count.to_string();
    let training: [Argument<'_>; 10] =
        [&"--data", &data, &"--out", &out, &"--steps", &"2", &"--base-filters", &"2", &"--classes", &number];
    let last = json("train", &[&training[..], &small].concat()).done().lines().pop().expect("scores");
    assert_eq!(classes(&last).len(), count - 1);
    assert!(last["dice"].is_number() && last["cases"] == 2, "{last}");
    let model = out.join("model.safetensors");
    let gaps: [Argument<'_>; 6] = [&"--model", &model, &"--data", &data, &"--stride", &"16,24,16"];
    json("evaluate", &[&gaps[..], &small].concat()).says(1, &["`stride`", "every voxel"]);
}
