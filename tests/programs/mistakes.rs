//! What people do wrong. Each mistake ends with a documented exit code and a message that names the thing and the remedy,
//! and nothing is lost: what was there is there still, and the ledger verifies.

use std::{fs, path::Path};

use tempfile::TempDir;

use crate::{
    data_commands::fixture,
    federation::{Federation, OUTPUT, events_of, plan, scans},
    running::{audit, coordinator, node, on_full_disk},
};

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn add_line(path: &Path, line: &str) {
    let before = fs::read_to_string(path).expect("a file");
    fs::write(path, format!("{before}{line}\n")).expect("written");
}

#[test]
fn a_wrong_path_is_named() {
    let folder = TempDir::new().expect("a folder");
    let nowhere = folder.path().join("nowhere");
    let name = text(&nowhere);
    node!("data", "check", nowhere).says(1, &[&name, "check the path"]);
    node!("train", "--data", nowhere, "--out", folder.path().join("out")).says(1, &[&name, "check the path"]);
    for command in ["run", "status", "budget"] {
        node!(command, "--dir", nowhere).says(1, &[&name, "semisam-node init", "--dir"]);
    }
    node!("init", "--dir", folder.path().join("site"), "--name", "a", "--coordinator", "b:1", "--data", nowhere)
        .says(1, &[&name, "--data", "images/"]);
    let scan = fixture("nifti/geometry/02_LIA_uint8_plain.nii");
    let mask = folder.path().join("mask.nii.gz");
    node!("predict", "--model", nowhere, "--in", scan, "--out", mask).says(1, &[&name, "check the path"]);
    node!("metrics", scan, nowhere).says(1, &[&name, "check the path"]);
    for command in ["serve", "status", "plan"] {
        coordinator!(command, "--dir", nowhere).says(1, &[&name, "semisam-coordinator init"]);
    }
    audit!("verify", nowhere).says(1, &[&name]);
    assert!(!nowhere.exists() && !folder.path().join("site").exists() && !mask.exists());
}

#[test]
fn wrong_usage_has_a_code_of_its_own() {
    node!("dance").says(64, &["dance", "--help"]);
    node!("run", "--dri", "x").says(64, &["--dri", "--help"]);
    node!("policy", "approve", "12ab").says(64, &["12ab", "64 lower-case hex digits"]);
    coordinator!("serve", "--listen", "nowhere").says(64, &["nowhere", "--listen"]);
    audit!("verify").says(64, &["FOLDER"]);
    for help in [node!("--help"), coordinator!("--help"), audit!("--help")] {
        assert!(help.done().out.contains("Usage"));
    }
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let mut federation = Federation::found(&plan(1, 1, OUTPUT));
    federation.hospital("north", 1);
    let site = federation.site("north");
    for (file, command) in [("policy.toml", vec!["policy", "set"]), ("node.toml", vec!["status"])] {
        let path = site.join(file);
        let line = fs::read_to_string(&path).expect("a file").lines().count() + 1;
        add_line(&path, "devise = \"cpu\"");
        let place = format!("line {line}");
        let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![];
        command.iter().for_each(|word| arguments.push(word));
        arguments.extend([&"--dir" as &dyn AsRef<std::ffi::OsStr>, &site]);
        let ended = crate::running::finish("node", &arguments);
        ended.says(1, &[&text(&path), &place, "unknown key `devise`", "known keys are"]);
    }
    federation.ledger_is_sound("north");

    federation.take_server().kill();
    let config = federation.coordinator().join("coordinator.toml");
    add_line(&config, "lissten = \"127.0.0.1:0\"");
    coordinator!("serve", "--dir", federation.coordinator())
        .says(1, &[&text(&config), "line 5", "`lissten`", "`listen`"]);

    let draft = federation.root().join("other.toml");
    fs::write(&draft, plan(1, 1, OUTPUT).replace("quorum", "quorom")).expect("written");
    let (dir, model) = (federation.root().join("other"), federation.root().join("initial.safetensors"));
    coordinator!("init", "--dir", dir, "--plan", draft, "--model", model)
        .says(1, &[&text(&draft), "line 3", "`quorom`"]);
    fs::write(&draft, plan(1, 0, OUTPUT)).expect("written");
    coordinator!("init", "--dir", dir, "--plan", draft, "--model", model).says(1, &["`quorum` must be at least 1"]);
    assert!(!dir.exists());
}

#[test]
fn scans_that_do_not_fit_are_named() {
    let folder = TempDir::new().expect("a folder");
    let [empty, data, out] = ["empty", "scans", "out"].map(|name| folder.path().join(name));
    fs::create_dir(&empty).expect("made");
    node!("data", "check", empty).says(1, &[&text(&empty), "images/NAME.nii.gz"]);
    node!("train", "--data", empty, "--out", out).says(1, &[&text(&empty), "images/NAME.nii.gz"]);
    fs::create_dir(empty.join("images")).expect("made");
    node!("train", "--data", empty, "--out", out).says(1, &[&text(&empty.join("images")), "put the scans there"]);

    scans(&data, 1);
    let labels = data.join("labels");
    let label = fs::read_dir(&labels).expect("labels").next().expect("one").expect("an entry").path();
    fs::copy(&label, labels.join("stray.nii.gz")).expect("copied");
    let problem = |name: &str| {
        let lines = node!("--format", "json", "data", "check", data).with_code(1).lines();
        let wrong: Vec<_> = lines.iter().filter(|line| line["ok"] == false).cloned().collect();
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(wrong[0]["file"].as_str().is_some_and(|file| file.ends_with(name)), "{wrong:?}");
        wrong[0]["error"].as_str().expect("a reason").to_owned()
    };
    assert!(problem("stray.nii.gz").contains("has no image: add the image of the same name, or remove the label"));
    node!("train", "--data", data, "--out", out).says(1, &["stray.nii.gz", "remove the label"]);
    fs::remove_file(labels.join("stray.nii.gz")).expect("removed");

    let other_grid = fs::read(fixture("metrics/case00_truth.nii.gz")).expect("a fixture");
    let sound = fs::read(&label).expect("a label");
    fs::write(&label, other_grid).expect("written");
    let name = label.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(problem(&name).contains("resample the label to the image"));
    node!("train", "--data", data, "--out", out, "--patch", "16,16,16", "--spacing", "4")
        .says(1, &[&text(&label), "resample the label to the image"]);
    fs::write(&label, sound).expect("restored");

    fs::remove_dir_all(&labels).expect("removed");
    let model = folder.path().join("model.safetensors");
    fs::write(&model, crate::federation::initial_model()).expect("written");
    for ended in [node!("train", "--data", data, "--out", out), node!("evaluate", "--data", data, "--model", model)] {
        ended.says(1, &[&text(&data), "no labelled scan", "labels folder"]);
    }
}

#[test]
fn nothing_that_exists_is_replaced() {
    let federation = Federation::found(&plan(1, 1, OUTPUT));
    federation.hospital("north", 1);
    let (site, data) = (federation.site("north"), federation.root().join("north-scans"));
    let ledger = fs::read(federation.ledger("north")).expect("a ledger");
    node!("init", "--dir", site, "--name", "a", "--coordinator", "b:1", "--data", data)
        .says(1, &[&text(&site), "not empty", "--dir"]);
    assert_eq!(fs::read(federation.ledger("north")).expect("a ledger"), ledger);
    node!("data", "synth", "--out", data).says(1, &[&text(&data), "name a new folder"]);
    let [draft, model] = ["plan.toml", "initial.safetensors"].map(|name| federation.root().join(name));
    let dir = federation.coordinator();
    let journal = fs::read(federation.journal()).expect("a journal");
    coordinator!("init", "--dir", dir, "--plan", draft, "--model", model)
        .says(2, &[&text(&dir), "choose another folder"]);
    assert_eq!(fs::read(federation.journal()).expect("a journal"), journal);
    coordinator!("serve", "--dir", dir, "--listen", "127.0.0.1:0").says(75, &["in use by another process"]);
}

#[test]
fn a_site_that_is_not_ready_is_told_what_is_missing() {
    let federation = Federation::found(&plan(1, 1, OUTPUT));
    federation.hospital("north", 1);
    let site = federation.site("north");
    for ended in [node!("run", "--dir", site), federation.approve("north")] {
        ended.says(2, &["no certificate", "tls/request.csr", "semisam-node enroll"]);
    }
    federation.hospital("south", 2);
    federation.enrol("south");
    let (theirs, authority) =
        (federation.root().join("south.pem"), federation.coordinator().join("consortium/authority.pem"));
    node!("enroll", "--dir", site, "--certificate", theirs, "--authority", authority)
        .says(2, &[&text(&theirs), "do not belong together"]);
    federation.enrol("north");

    node!("run", "--dir", site).says(2, &["not approved", "policy approve", &federation.plan]);
    assert_eq!(events_of(&federation.ledger("north"), "REFUSED").len(), 1);
    node!("policy", "approve", federation.plan, "--dir", site).says(1, &["--approver", "node.toml"]);
    let other = "0123456789abcdef".repeat(4);
    node!("policy", "approve", other, "--dir", site, "--approver", "the officer")
        .says(2, &[&other, &federation.plan, "by telephone"]);
    assert!(events_of(&federation.ledger("north"), "APPROVED").is_empty());
    federation.approve("north").done();
    let again = federation.approve("north").done();
    assert!(again.out.contains("approved already"), "{}", again.out);
    assert_eq!(events_of(&federation.ledger("north"), "APPROVED").len(), 1);
    federation.ledger_is_sound("north");
}

#[test]
fn a_budget_that_is_too_small_refuses_before_anything_is_spent() {
    let federation = Federation::found(&plan(2, 1, OUTPUT));
    federation.hospital("north", 1);
    federation.enrol("north");
    let (policy, ledger) = (federation.site("north").join("policy.toml"), federation.ledger("north"));
    let sample = fs::read_to_string(&policy).expect("a policy");
    let set = |line: &str, value: &str| {
        fs::write(&policy, sample.replace(line, value)).expect("written");
        node!("policy", "set", "--dir", federation.site("north")).done();
    };
    set("epsilon_max = 10", "epsilon_max = 0.5");
    federation.approve("north").says(2, &["policy forbids", "epsilon", "0.5"]);
    let refused = events_of(&ledger, "REFUSED");
    assert_eq!((refused.len(), &refused[0]["plan"]), (1, &federation.plan.clone().into()));

    set("patients_min = 3", "patients_min = 4");
    federation.approve("north").done();
    node!("run", "--dir", federation.site("north")).says(2, &["fewer patients than the 4", "patients_min"]);
    set("epsilon_max = 10", "epsilon_max = 0.5");
    node!("run", "--dir", federation.site("north")).says(2, &["epsilon", "0.5"]);
    assert_eq!(events_of(&ledger, "REFUSED").len(), 3);
    assert!(events_of(&ledger, "RESERVE").is_empty());
    let budget = node!("--format", "json", "budget", "--dir", federation.site("north")).done().json();
    assert!(budget.to_string().contains("0.5"), "{budget}");
    federation.ledger_is_sound("north");
}

#[test]
fn a_full_disk_loses_nothing() {
    let mut federation = Federation::found(&plan(1, 1, OUTPUT));
    federation.ready("north", 1);
    let site = federation.site("north");
    let out = federation.root().join("no-room");
    let Some(ended) = on_full_disk(1, "node", &[&"data", &"synth", &"--out", &out]) else { return };
    ended.says(1, &[&text(&out), "cannot write", "disk"]);

    let (policy, ledger) = (site.join("policy.toml"), federation.ledger("north"));
    let sample = fs::read_to_string(&policy).expect("a policy");
    fs::write(&policy, sample.replace("rounds_max = 1000", "rounds_max = 999")).expect("written");
    let before = fs::read(&ledger).expect("a ledger");
    let set = on_full_disk(1, "node", &[&"policy", &"set", &"--dir", &site]).expect("as before");
    set.says(1, &[&text(&ledger), "make room on the disk", "nothing is lost"]);
    assert_eq!(fs::read(&ledger).expect("a ledger"), before);
    fs::write(&policy, sample).expect("restored");

    // The model does not fit on the disk: nothing was trained, nothing was paid.
    let run = on_full_disk(64, "node", &[&"run", &"--dir", &site]).expect("as before");
    run.says(1, &[&text(&site.join("models")), "free space"]);
    assert!(events_of(&ledger, "RESERVE").is_empty());
    federation.ledger_is_sound("north");

    let [draft, model] = ["plan.toml", "initial.safetensors"].map(|name| federation.root().join(name));
    let dir = federation.root().join("second");
    let init = [&"init" as &dyn AsRef<std::ffi::OsStr>, &"--dir", &dir, &"--plan", &draft, &"--model", &model];
    on_full_disk(64, "coordinator", &init).expect("as before").says(1, &["cannot write", "space"]);
    assert!(!dir.exists(), "nothing is left of a founding that failed");

    let north = federation.run("north");
    federation.ends_well(vec![north]);
    federation.is_sound(1);
}

#[test]
fn a_gpu_that_is_absent_is_named_with_the_remedy() {
    let folder = TempDir::new().expect("a folder");
    let [data, site, out] = ["scans", "site", "out"].map(|name| folder.path().join(name));
    scans(&data, 1);
    let trained =
        node!("train", "--data", data, "--out", out, "--device", "cuda", "--steps", "1", "--patch", "16,16,16");
    if trained.code == Some(0) {
        return; // this machine has one
    }
    trained.says(1, &["CUDA", "\"cpu\"", "\"auto\""]);
    node!("init", "--dir", site, "--name", "a", "--coordinator", "b:1", "--data", data, "--device", "cuda").done();
    for name in ["certificate.pem", "authority.pem"] {
        fs::write(site.join("tls").join(name), "").expect("written");
    }
    node!("run", "--dir", site).says(1, &["CUDA", "\"cpu\"", "\"auto\""]);
}
