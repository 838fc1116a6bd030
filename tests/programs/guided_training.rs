//! Training with a generalist: labels that are declared away are never opened, embeddings are kept and found, and what is
//! missing is named.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{
    data_commands::fixture,
    federation::scans,
    running::{Argument, Ended, finish, node},
};

const SMALL: [&str; 8] = ["--base-filters", "2", "--patch", "16,16,16", "--spacing", "4", "--device", "cpu"];

/// Trains the smallest student for `steps` with `more`.
fn train(data: &Path, out: &Path, steps: &str, more: &[Argument<'_>]) -> Ended {
    let first: [Argument<'_>; 9] =
        [&"--format", &"json", &"train", &"--data", &data, &"--out", &out, &"--steps", &steps];
    let small = SMALL.iter().map(|word| word as Argument<'_>);
    finish("node", &first.into_iter().chain(small).chain(more.iter().copied()).collect::<Vec<_>>())
}

fn model(out: &Path) -> Vec<u8> {
    fs::read(out.join("model.safetensors")).expect("a model")
}

fn labels(data: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(data.join("labels")).expect("labels").map(|file| file.expect("a file").path());
    let mut labels: Vec<PathBuf> = files.collect();
    labels.sort();
    labels
}

/// spec/semisam.md, E1, from outside: with the labels of scans that are declared unlabelled turned to noise, then to
/// something that cannot be read at all, every method trains the same student to the last bit.
#[test]
fn e01_labels_of_scans_declared_unlabelled_are_never_opened() {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let (data, first, generalist) = (path("scans"), path("first"), fixture("sam_med3d/sam_med3d_tiny.pth"));
    scans(&data, 5);
    train(&data, &first, "60", &[&"--method", &"supervised", &"--learning-rate", &"0.1"]).done();
    let start = first.join("model.safetensors");
    let go = |name: &str, method: &str| {
        let guided: [Argument<'_>; 12] = [
            &"--generalist",
            &generalist,
            &"--generalist-agreement",
            &"0",
            &"--generalist-consensus",
            &"0",
            &"--generalist-weight",
            &"1",
            &"--refresh",
            &"2",
            &"--prompt-confidence",
            &"0.5",
        ];
        let out = path(&format!("{method}-{name}"));
        let plain: [Argument<'_>; 6] = [&"--method", &method, &"--init", &start, &"--labels", &"1"];
        let more: Vec<Argument<'_>> =
            plain.into_iter().chain(guided.into_iter().filter(|_| method.starts_with("semisam"))).collect();
        let told = train(&data, &out, "20", &more).done().lines();
        (model(&out), told)
    };
    let methods = ["supervised", "mean-teacher", "ua-mt", "semisam", "semisam-plus", "semisam-o1"];
    let before = methods.map(|method| go("before", method));
    for (method, (_, told)) in methods.iter().zip(&before) {
        let spoken = told[..2].iter().any(|report| report["generalist"].as_f64().is_some_and(|loss| loss > 0.0));
        assert_eq!(spoken, ["semisam", "semisam-plus"].contains(method), "{method}: {told:?}");
        assert_eq!(told[told.len() - 1]["scored_on"], "training", "{method}");
    }
    let labels = labels(&data);
    assert!(labels.len() > 2, "some are declared away");
    for label in &labels[1..] {
        fs::write(label, b"noise").expect("written");
    }
    for (method, (expected, _)) in methods.iter().zip(&before) {
        assert!(go("noise", method).0 == *expected, "{method}");
    }
    // and where they are not declared away they are opened, and refused
    let told = train(&data, &path("all"), "20", &[&"--method", &"supervised"]);
    assert_ne!(told.code, Some(0), "{}", told.err);
    for label in &labels[1..] {
        fs::remove_file(label).expect("removed");
        fs::create_dir(label).expect("a folder in its place");
    }
    for (method, (expected, _)) in methods.iter().zip(&before) {
        assert!(go("unreadable", method).0 == *expected, "{method}");
    }
}

#[test]
fn embeddings_are_kept_and_give_the_same_student() {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let (data, first, generalist) = (path("scans"), path("first"), fixture("sam_med3d/sam_med3d_tiny.pth"));
    scans(&data, 6);
    train(&data, &first, "60", &[&"--method", &"supervised", &"--learning-rate", &"0.1"]).done();
    let start = first.join("model.safetensors");
    let go = |name: &str, storage: &[Argument<'_>]| {
        let guided: [Argument<'_>; 10] = [
            &"--method",
            &"semisam",
            &"--init",
            &start,
            &"--labels",
            &"1",
            &"--generalist",
            &generalist,
            &"--generalist-agreement",
            &"0",
        ];
        train(&data, &path(name), "12", &guided.into_iter().chain(storage.iter().copied()).collect::<Vec<_>>()).done();
        model(&path(name))
    };
    let cache = path("cache");
    let kept: [Argument<'_>; 2] = [&"--cache", &cache];
    let expected = go("none", &[&"--no-cache"]);
    assert!(go("cold", &kept) == expected);
    let count = || fs::read_dir(cache.join("embeddings")).expect("embeddings").count();
    let embeddings = count();
    assert!(embeddings > 1);
    assert!(go("warm", &kept) == expected && count() == embeddings);
}

/// The way where nothing can be downloaded: a small generalist from synthetic scans alone guides a student.
#[test]
fn a_small_generalist_of_ones_own_guides_a_student() {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let (data, first, small) = (path("scans"), path("first"), path("small.safetensors"));
    scans(&data, 5);
    let ended = node!(
        "sam",
        "pretrain",
        "--recipe",
        "blobs",
        "--out",
        small,
        "--steps",
        "4",
        "--spacing",
        "4",
        "--patch",
        "16,16,16",
        "--widths",
        "4,4,8,8",
        "--calibration",
        "2",
        "--device",
        "cpu"
    );
    ended.done();
    train(&data, &first, "60", &[&"--method", &"supervised", &"--learning-rate", &"0.1"]).done();
    let (start, cache) = (first.join("model.safetensors"), path("cache"));
    let go = |name: &str, method: &str, weight: &str| {
        let more: [Argument<'_>; 16] = [
            &"--method",
            &method,
            &"--init",
            &start,
            &"--labels",
            &"1",
            &"--cache",
            &cache,
            &"--generalist",
            &small,
            &"--generalist-agreement",
            &"0",
            &"--generalist-weight",
            &weight,
            &"--prompt-confidence",
            &"0.5",
        ];
        train(&data, &path(name), "20", &more)
    };
    for method in ["semisam", "semisam-plus"] {
        let told = go(&format!("{method}-cold"), method, "1").done().lines();
        assert!(
            told[..2].iter().any(|report| report["generalist"].as_f64().is_some_and(|loss| loss > 0.0)),
            "{told:?}"
        );
        let _ = go(&format!("{method}-warm"), method, "1").done();
        let _ = go(&format!("{method}-idle"), method, "0").done();
        let [cold, warm, idle] = ["cold", "warm", "idle"].map(|name| model(&path(&format!("{method}-{name}"))));
        assert!(cold == warm && cold != idle, "{method}");
    }
    // its features are of places too
    assert!(go("places", "semisam-o1", "1").done().lines().pop().expect("scores")["dice"].is_number());
}

#[test]
fn what_is_missing_or_no_generalist_is_named() {
    let folder = TempDir::new().expect("a folder");
    let (data, out) = (folder.path().join("scans"), folder.path().join("out"));
    scans(&data, 7);
    let (method, student): (Argument<'_>, PathBuf) = (&"semisam", fixture("vnet/vnet_tiny.safetensors"));
    train(&data, &out, "2", &[&"--method", method]).says(1, &["generalist", "small-generalist"]);
    train(&data, &out, "2", &[&"--method", method, &"--generalist", &student]).says(1, &["vnet_tiny", "missing"]);
    let absent = folder.path().join("absent.pth");
    train(&data, &out, "2", &[&"--method", method, &"--generalist", &absent]).says(1, &["absent.pth"]);
    train(&data, &out, "2", &[&"--labels", &"0"]).says(64, &["at least 1"]);
    node!("train", "--data", data, "--out", out, "--method", "magic").says(64, &["semisam-plus", "ua-mt"]);
    let good = fixture("sam_med3d/sam_med3d_tiny.pth");
    train(&data, &out, "2", &[&"--method", method, &"--generalist", &good, &"--generalist-share", &"2"])
        .says(1, &["share", "0 to 1"]);
    train(&data, &out, "2", &[&"--method", method, &"--generalist", &good, &"--generalist-consensus", &"1.5"])
        .says(1, &["consensus", "0 to 1"]);
    assert!(!out.exists(), "what makes no sense is said before scans are prepared");
}
