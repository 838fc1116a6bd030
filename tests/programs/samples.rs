//! The files of deploy/ are samples that work: the real programs read each of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use semisam_shared::{
    release_space::BASIS,
    weights::{Tensor, Weights},
};
use tempfile::TempDir;

use crate::{
    federation::scans,
    running::{PATIENCE, Running, coordinator, node, until},
};

fn sample(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy")).join(name)
}

#[test]
fn a_site_runs_with_the_samples_of_its_files() {
    let folder = TempDir::new().expect("a folder");
    let site = folder.path().join("site");
    let init = node!(
        "init",
        "--dir",
        site,
        "--name",
        "hospital-a",
        "--coordinator",
        "localhost:7443",
        "--data",
        folder.path()
    );
    init.done();
    for name in ["node.toml", "policy.toml"] {
        fs::copy(sample(name), site.join(name)).expect("copied");
    }
    let status = node!("--format", "json", "status", "--dir", site).done().json();
    assert_eq!(status["coordinator"], "coordinator.example.org:7443");
    let set = node!("--format", "json", "policy", "set", "--dir", site).done().json();
    assert_eq!(
        (&set["changed"], &set["policy"]["patients_min"]),
        (&false.into(), &3.into()),
        "the default is the sample"
    );
    node!("ledger", "verify", "--dir", site).done();
}

#[test]
fn a_consortium_starts_with_the_samples_of_its_files() {
    let folder = TempDir::new().expect("a folder");
    let [data, student, basis, dir] =
        ["public", "student", "basis.safetensors", "coordinator"].map(|name| folder.path().join(name));
    scans(&data, 1);
    node!(
        "train",
        "--data",
        data,
        "--out",
        student,
        "--steps",
        "1",
        "--patch",
        "16,16,16",
        "--spacing",
        "4",
        "--device",
        "cpu"
    )
    .done();
    let model = student.join("model.safetensors");
    let weights = Weights::from_safetensors(&fs::read(&model).expect("a model")).expect("weights");
    let mut direction = vec![0.0; weights.count()];
    direction[0] = 1.0;
    let shape = vec![1, direction.len()];
    let one = Weights::new([(BASIS.to_owned(), Tensor { shape, values: direction })]).expect("a basis");
    fs::write(&basis, one.to_safetensors().expect("bytes")).expect("written");
    let plan = sample("plan.toml");
    coordinator!("init", "--dir", dir, "--plan", plan, "--model", model).says(1, &["--basis"]);
    assert!(!dir.exists(), "nothing is left of a founding that failed");
    coordinator!("init", "--dir", dir, "--plan", plan, "--model", model, "--basis", basis).done();

    let plan = coordinator!("--format", "json", "plan", "--dir", dir).done().json();
    assert_eq!((&plan["plan"]["rounds"], &plan["plan"]["privacy"]["release"]["coordinates"]), (&4.into(), &1.into()));
    let epsilon: f64 = match &plan["epsilon"]["add_remove"] {
        value if value.is_string() => value.as_str().and_then(|text| text.parse().ok()).expect("a number"),
        value => value.as_f64().expect("a number"),
    };
    assert!(epsilon > 1.0 && epsilon < 10.0, "within the sample of a policy: {epsilon}");
    serves_with_the_sample(&dir);
}

/// The sample's port may be taken on this machine: the option stands above the file, which is read all the same.
fn serves_with_the_sample(dir: &Path) {
    fs::copy(sample("coordinator.toml"), dir.join("coordinator.toml")).expect("copied");
    let mut server =
        Running::start("coordinator", &[&"serve", &"--dir", &dir, &"--listen", &"127.0.0.1:0"], &dir.join("log"));
    until("the coordinator listens", || {
        assert!(server.runs(), "{}", server.words());
        dir.join("address").exists().then_some(())
    });
    server.signal("TERM");
    assert_eq!(server.ended(), Some(0), "a stop is no failure, and takes less than {PATIENCE:?}");
}
