//! A federation whose plan asks a small generalist about scans without labels: sites have its very file or spend nothing, and
//! a label that is declared away is never opened.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use semisam_shared::ids::Digest;
use tempfile::TempDir;

use crate::{
    data_commands::fixture,
    federation::{Federation, OUTPUT, events_of, plan, scans},
    running::{node, until},
};

const SMALL: [&str; 4] = ["--patch", "16,16,16", "--spacing", "4"];

/// What a consortium prepares: a student that believes something, and a small generalist of its own.
struct Prepared {
    student: Vec<u8>,
    generalist: Vec<u8>,
}

fn prepared() -> &'static Prepared {
    static PREPARED: OnceLock<Prepared> = OnceLock::new();
    PREPARED.get_or_init(|| {
        let folder = TempDir::new().expect("a folder");
        let [data, out, small] = ["public", "student", "small.safetensors"].map(|name| folder.path().join(name));
        scans(&data, 99);
        let [a, b, c, d] = SMALL;
        let (rate, filters) = (["--learning-rate", "0.1"], ["--base-filters", "2"]);
        let ([e, f], [g, h]) = (rate, filters);
        let (method, supervised) = ("--method", "supervised");
        node!("train", "--data", data, "--out", out, method, supervised, "--steps", "60", a, b, c, d, e, f, g, h)
            .done();
        let (recipe, size) = (["--recipe", "blobs"], ["--widths", "4,4,8,8"]);
        let ([e, f], [g, h]) = (recipe, size);
        let made = node!(
            "--format",
            "json",
            "sam",
            "pretrain",
            "--out",
            small,
            "--steps",
            "4",
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            h,
            "--calibration",
            "2",
            "--device",
            "cpu"
        );
        let told = made.done().lines().pop().expect("a last line");
        let generalist = fs::read(&small).expect("a generalist");
        assert_eq!(told["digest"], Digest::of(&generalist).to_string(), "what a consortium writes into its plan");
        Prepared { student: fs::read(out.join("model.safetensors")).expect("a student"), generalist }
    })
}

/// The plan of these tests with the guidance that the sample of a plan describes, which takes every answer that it gets.
fn guided(rounds: u32, quorum: u32, generalist: &Digest) -> String {
    let sample = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/plan.toml")).expect("a sample");
    let section = sample.lines().skip_while(|line| *line != "# [training.guidance]");
    let section = section.map_while(|line| line.strip_prefix("# ")).collect::<Vec<_>>().join("\n");
    let sure = section
        .replace("SHA-256 of the file, in hex", &generalist.to_string())
        .replace("consensus = 0.75", "consensus = 0.0")
        .replace("agreement = 0.3", "agreement = 0.0")
        .replace("confidence = 0.8", "confidence = 0.5");
    plan(rounds, quorum, OUTPUT)
        .replace("\"mean-teacher\"", "\"semisam\"")
        .replace("[privacy]\n", &format!("{sure}\n[privacy]\n"))
}

/// A hospital that is ready, but for the generalist: five patients, three of them labelled.
fn ready(federation: &Federation, name: &str, seed: u32) -> PathBuf {
    federation.hospital(name, seed);
    federation.enrol(name);
    let approved = federation.approve(name).done();
    let digest = Digest::of(&prepared().generalist).to_string();
    let folder = federation.site(name).join("generalists");
    for part in [digest.as_str(), &folder.display().to_string()] {
        assert!(approved.out.contains(part), "`{part}` is missing: {}", approved.out);
    }
    let data = federation.root().join(format!("{name}-scans"));
    fs::remove_dir_all(&data).expect("removed");
    let (sizes, seed) = (["--shape", "16", "16", "16", "--spacing", "4", "4", "4"], seed.to_string());
    let [a, b, c, d, e, f, g, h] = sizes;
    let patients = ["--patients", "5", "--labelled", "3", "--seed"];
    let [i, j, k, l, m] = patients;
    node!("data", "synth", "--out", data, i, j, k, l, m, seed, a, b, c, d, e, f, g, h).done();
    folder
}

fn given(folder: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    fs::write(folder.join("any name"), &prepared().generalist).expect("copied");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).map_or(Vec::new(), |files| files.map(|file| file.expect("a file").path()).collect());
    files.sort();
    files
}

/// How many things a cache holds.
fn kept(cache: &Path) -> usize {
    files(cache).iter().filter(|file| file.extension().is_some_and(|extension| extension == "scan")).count()
}

/// Puts something else in place of all labels but the first.
fn declare(data: &Path, instead: impl Fn(&Path)) {
    for label in &files(&data.join("labels"))[1..] {
        fs::remove_file(label).expect("removed");
        instead(label);
    }
}

/// spec/semisam.md, E1, in a federation: sites hold nothing, something unreadable and noise where labels were, and only the
/// one that left noise under a label's own name, which declares it labelled, hears of it.
#[test]
fn a_federation_with_a_generalist_opens_no_label_that_is_declared_away() {
    let generalist = Digest::of(&prepared().generalist);
    let mut federation = Federation::found_with(&guided(2, 3, &generalist), &prepared().student);
    for (name, seed) in [("north", 1), ("south", 2), ("careless", 3)] {
        given(&ready(&federation, name, seed));
        declare(&federation.root().join(format!("{name}-scans")), |label| match name {
            "north" => {
                let aside = format!("{}.withheld", label.display());
                fs::write(aside, "noise").expect("written");
            }
            "south" => fs::create_dir(label).expect("a folder in its place"),
            _ => fs::write(label, "noise").expect("written"),
        });
    }
    let nodes = ["north", "south", "careless"].map(|name| federation.run(name)).into();
    federation.ends_well(nodes);
    let verdict = federation.is_sound(2);
    for name in ["north", "south", "careless"] {
        assert_eq!(verdict["epsilon"][name]["releases"], 2, "{verdict:#}");
        let data = federation.root().join(format!("{name}-scans"));
        let (images, labels) = (files(&data.join("images")).len(), files(&data.join("labels")).len());
        let lost = if name == "careless" { labels - 1 } else { 0 };
        let words = fs::read_to_string(federation.log(name)).expect("a log");
        assert_eq!(words.matches("a scan cannot be used and is left out").count(), lost, "{name}: {words}");
        // one scan has a label that is one; all others that could be read were shown to the generalist
        assert_eq!(kept(&federation.site(name).join("cache/embeddings")), images - 1 - lost, "{name}");
        federation.ledger_is_sound(name);
    }
}

/// Missing, cut off, or another one: the node says which file it wants and where, before it prepares or pays anything.
#[test]
fn a_site_without_the_very_generalist_refuses_and_spends_nothing() {
    let generalist = &prepared().generalist;
    let digest = Digest::of(generalist);
    let mut federation = Federation::found_with(&guided(1, 2, &digest), &prepared().student);
    given(&ready(&federation, "south", 2));
    let folder = ready(&federation, "north", 1);
    // that a program began to write is all that may be new
    let records = || {
        let text = fs::read_to_string(federation.ledger("north")).expect("a ledger");
        text.lines().filter(|line| !line.contains("\"STARTED\"")).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = records();
    let south = federation.run("south");
    let refuses = || {
        let (digest, place) = (digest.to_string(), folder.display().to_string());
        let told = node!("run", "--dir", federation.site("north"));
        told.says(2, &[&digest, &place, "copy the consortium's file there"]);
        assert_eq!(records(), before);
        assert_eq!(kept(&federation.site("north").join("cache")), 0, "scans were prepared for nothing");
    };
    refuses();
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("small.safetensors"), &generalist[..generalist.len() - 1]).expect("cut off");
    fs::copy(fixture("sam_med3d/sam_med3d_tiny.pth"), folder.join("other.pth")).expect("copied");
    refuses();
    assert!(events_of(&federation.ledger("north"), "RESERVE").is_empty());
    until("south has paid", || events_of(&federation.ledger("south"), "COMMIT").pop());

    given(&folder);
    let nodes = vec![federation.run("north"), south];
    federation.ends_well(nodes);
    federation.ledger_is_sound("north");
    let verdict = federation.is_sound(1);
    assert_eq!(verdict["epsilon"]["north"]["releases"], 1, "{verdict:#}");
}
