//! Prepared scans on disk: shared by two programs, damaged, too many for their room; the student is the same each time, and
//! a training that is stopped goes on.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use tempfile::TempDir;

use crate::{
    federation::scans,
    running::{Argument, Ended, Running, finish, node, until},
};

const SMALL: [&str; 8] = ["--base-filters", "2", "--patch", "16,16,16", "--spacing", "4", "--device", "cpu"];

/// Trains the smallest student with `more`; what it prints.
fn train(data: &Path, out: &Path, more: &[Argument<'_>]) -> Ended {
    let first: [Argument<'_>; 9] =
        [&"--format", &"json", &"train", &"--data", &data, &"--out", &out, &"--steps", &"12"];
    let small = SMALL.iter().map(|word| word as Argument<'_>);
    finish("node", &first.into_iter().chain(small).chain(more.iter().copied()).collect::<Vec<_>>())
}

fn model(out: &Path) -> Vec<u8> {
    fs::read(out.join("model.safetensors")).expect("a model")
}

fn entries(cache: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(cache).expect("a cache").map(|file| file.expect("a file").path());
    files.filter(|path| path.extension().is_some_and(|end| end == "scan")).collect()
}

#[test]
fn the_student_does_not_depend_on_where_scans_are_kept_nor_on_who_else_keeps_them() {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let (data, cache) = (path("scans"), path("cache"));
    scans(&data, 3);
    let reports = train(&data, &path("plain"), &[&"--no-cache"]).done().lines();
    let share =
        |report: &serde_json::Value| report["waited"].as_f64().is_some_and(|share| (0.0..=1.0).contains(&share));
    assert!(reports.len() == 3 && reports.iter().all(share), "{reports:?}");
    assert!(!path("plain").join("cache").exists());
    let expected = model(&path("plain"));

    // Room for a few scans, none of it in memory, and two programs that take it from each other.
    let room: [Argument<'_>; 6] = [&"--cache", &cache, &"--cache-size", &"60GB", &"--memory", &"0B"];
    let tight: [Argument<'_>; 6] = [&"--cache", &cache, &"--cache-size", &"0.045MB", &"--memory", &"0B"];
    thread::scope(|scope| {
        for (name, more) in [("one", &room), ("two", &tight), ("three", &room)] {
            let (data, out, expected) = (&data, path(name), &expected);
            let more: Vec<PathBuf> = more.iter().map(|word| PathBuf::from(word.as_ref())).collect();
            scope.spawn(move || {
                let more: Vec<Argument<'_>> = more.iter().map(|word| word as Argument<'_>).collect();
                train(data, &out, &more).done();
                assert!(model(&out) == *expected, "{name}");
            });
        }
    });

    // All in its room, then one entry damaged: a warning, and the same student.
    train(&data, &path("four"), &room).done();
    let images = fs::read_dir(data.join("images")).expect("images").count();
    assert_eq!(entries(&cache).len(), images);
    let damaged = entries(&cache).remove(0);
    let mut bytes = fs::read(&damaged).expect("an entry");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, bytes).expect("written");
    let told = train(&data, &path("five"), &room).done();
    assert!(told.err.contains("cache of prepared scans is damaged"), "{}", told.err);
    assert!(["four", "five"].iter().all(|name| model(&path(name)) == expected));
    let warm = train(&data, &path("six"), &room).done();
    assert!(!warm.err.contains("damaged") && warm.err.contains("preparing scans"), "{}", warm.err);
}

#[test]
fn a_bad_scan_is_named_and_so_is_a_cache_that_cannot_be() {
    let folder = TempDir::new().expect("a folder");
    let [data, out] = ["scans", "out"].map(|name| folder.path().join(name));
    scans(&data, 3);
    let image = fs::read_dir(data.join("images")).expect("images").next().expect("one").expect("a file").path();
    let (bytes, name) = (fs::read(&image).expect("a scan"), image.display().to_string());
    train(&data, &out, &[&"--cache", &image]).says(1, &[&name, "cannot keep prepared scans"]);
    fs::write(&image, &bytes[..bytes.len() / 2]).expect("cut off");
    for more in [&[] as &[Argument<'_>], &[&"--no-cache"]] {
        train(&data, &out, more).says(1, &[&name, "transfer the file again"]);
    }
    node!("train", "--data", data, "--out", out, "--memory", "4").says(64, &["--memory", "500MiB"]);
    node!("train", "--data", data, "--out", out, "--no-cache", "--cache", out).says(64, &["--no-cache"]);
}

/// Ctrl-C ends the thread that makes steps too, and the next start reaches the same student.
#[cfg(unix)]
#[test]
fn a_training_that_is_interrupted_goes_on() {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let (data, steps) = (path("scans"), "1000");
    scans(&data, 3);
    let run = |out: &Path, log: &str| {
        let first: [Argument<'_>; 9] =
            [&"train", &"--data", &data, &"--out", &out, &"--steps", &steps, &"--memory", &"0B"];
        let small = SMALL.iter().map(|word| word as Argument<'_>);
        Running::start("node", &first.into_iter().chain(small).collect::<Vec<_>>(), &path(log))
    };
    let stopped = run(&path("out"), "first.log");
    until("a saved state", || path("out").join("state.safetensors").exists().then_some(()));
    stopped.signal("INT");
    assert_eq!(stopped.ended(), Some(75));
    let told = fs::read_to_string(path("first.log")).expect("a log");
    assert!(told.contains("the next start goes on from here"), "{told}");
    assert_eq!(run(&path("out"), "second.log").ended(), Some(0));
    assert_eq!(run(&path("whole"), "whole.log").ended(), Some(0));
    assert!(model(&path("out")) == model(&path("whole")));
}
