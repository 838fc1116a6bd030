//! After the last round, every byte counts: one that is changed in a log, in the plan or in a stored blob, or an end that
//! is cut off, is found by the auditor, who holds the logs of all parties against each other.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::federation::{Federation, OUTPUT, plan};

fn blobs(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(blobs(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn a_changed_byte_or_a_cut_end_makes_the_verdict_unsound() {
    let mut federation = Federation::found(&plan(1, 2, OUTPUT));
    federation.ready("north", 1);
    federation.ready("south", 2);
    let nodes = vec![federation.run("north"), federation.run("south")];
    federation.ends_well(nodes);
    federation.is_sound(1);

    let blobs = blobs(&federation.coordinator().join("store"));
    let smallest = blobs.iter().min_by_key(|path| fs::metadata(path).map_or(0, |data| data.len())).expect("a blob");
    let largest = blobs.iter().max_by_key(|path| fs::metadata(path).map_or(0, |data| data.len())).expect("a blob");
    let targets: [(PathBuf, &[f64]); 6] = [
        (federation.journal(), &[0.02, 0.5, 0.97]),
        (federation.ledger("north"), &[0.01, 0.4, 0.8]),
        (federation.ledger("south"), &[0.2, 0.99]),
        (federation.coordinator().join("plan.json"), &[0.1, 0.6]),
        (smallest.clone(), &[0.5]),
        (largest.clone(), &[0.9]),
    ];
    let unsound = |what: &str, path: &Path| {
        let (code, verdict) = federation.verdict();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        assert_eq!((code, &verdict["verdict"]), (Some(2), &"unsound".into()), "{what} of {name}: {verdict:#}");
        let findings = verdict["findings"].as_array().expect("findings");
        assert!(findings.iter().all(|finding| finding["problem"].is_string()) && !findings.is_empty());
    };
    for (path, places) in &targets {
        let sound = fs::read(path).expect("there");
        for place in *places {
            let mut changed = sound.clone();
            let at = byte_that_matters(&sound, (sound.len() as f64 * place) as usize);
            changed[at] ^= 1;
            fs::write(path, &changed).expect("written");
            unsound(&format!("byte {at}"), path);
        }
        fs::write(path, &sound).expect("restored");
    }
    for path in [federation.journal(), federation.ledger("north"), largest.clone()] {
        let sound = fs::read(&path).expect("there");
        let last_line = sound[..sound.len() - 1].iter().rposition(|byte| *byte == b'\n').map_or(sound.len() / 2, |at| at + 1);
        for length in [sound.len() - 7, last_line] {
            fs::write(&path, &sound[..length]).expect("written");
            unsound(&format!("length {length}"), &path);
        }
        fs::write(&path, &sound).expect("restored");
    }
    federation.is_sound(1);
}

/// Spaces between the words of a JSON document carry no meaning, and may not be found changed.
fn byte_that_matters(bytes: &[u8], from: usize) -> usize {
    (from..bytes.len()).find(|at| !bytes[*at].is_ascii_whitespace()).expect("something follows")
}
