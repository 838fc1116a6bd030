//! kill -9 at the worst moments, each met for certain: whoever must not go on meanwhile is stopped with SIGSTOP. Afterwards
//! every round has one release of each site, every reservation is paid for once, and the auditor agrees.

use std::{collections::BTreeMap, fs};

use serde_json::Value;

use crate::{
    federation::{DEEPEST, Federation, OUTPUT, events, events_of, plan},
    running::{node, until},
};

const SITES: [&str; 2] = ["north", "south"];

fn prepared(rounds: u32, tensor: &str) -> Federation {
    let federation = Federation::found(&plan(rounds, 2, tensor));
    federation.ready("north", 1);
    federation.ready("south", 2);
    federation
}

/// Waits until a log holds `count` records of a kind.
fn appears(federation: &Federation, log: &str, kind: &str, count: usize) {
    let path = if log == "journal" { federation.journal() } else { federation.ledger(log) };
    until(&format!("{kind} in the log of {log}"), || (events_of(&path, kind).len() >= count).then_some(()));
}

/// One COMMIT of each site and round, with the bytes that the coordinator accepted; every RESERVE committed or abandoned,
/// and charged once.
fn every_release_is_unique(federation: &Federation, rounds: u32) {
    let accepted = events_of(&federation.journal(), "UPDATE_ACCEPTED");
    for site in SITES {
        let events = events(&federation.ledger(site));
        let of = |kind: &str| events.iter().filter(|event| event["type"] == kind).collect::<Vec<_>>();
        let (reserved, committed, abandoned) = (of("RESERVE"), of("COMMIT"), of("ABANDONED"));
        assert_eq!(reserved.len(), committed.len() + abandoned.len(), "{site}");
        let mut payloads: BTreeMap<u64, &Value> = BTreeMap::new();
        for commit in &committed {
            let reserve = &events[commit["reserve"].as_u64().expect("a number") as usize];
            let round = reserve["round"].as_u64().expect("a round");
            assert!(payloads.insert(round, &commit["payload"]).is_none(), "{site}: round {round} was released twice");
        }
        assert_eq!(payloads.len(), rounds as usize, "{site}");
        let owner = &events[0]["site"];
        let received: BTreeMap<u64, &Value> = accepted
            .iter()
            .map(|event| &event["receipt"])
            .filter(|receipt| &receipt["site"] == owner)
            .map(|receipt| (receipt["round"].as_u64().expect("a round"), &receipt["payload"]))
            .collect();
        assert_eq!(received, payloads, "{site}");
        let number =
            |value: &Value| -> f64 { value.as_f64().or_else(|| value.as_str()?.parse().ok()).expect("a number") };
        for (position, reserve) in reserved.iter().enumerate() {
            let spent = number(&reserve["rho"]) * (position + 1) as f64;
            assert!((number(&reserve["spent"]) - spent).abs() < 1e-9 * spent, "{site}: {reserve}");
        }
        federation.ledger_is_sound(site);
    }
    let verdict = federation.is_sound(rounds);
    for site in SITES {
        let abandoned = events_of(&federation.ledger(site), "ABANDONED").len();
        assert_eq!(verdict["epsilon"][site]["abandoned"], abandoned, "{verdict:#}");
    }
}

#[test]
fn a_node_killed_after_reserve_pays_and_releases_anew() {
    let mut federation = prepared(2, DEEPEST);
    let south = federation.run("south");
    let north = federation.run("north");
    appears(&federation, "north", "RESERVE", 1);
    north.kill();
    let ledger = federation.ledger("north");
    assert!(events_of(&ledger, "COMMIT").is_empty(), "the kill came too late to test anything");
    let north = federation.run("north");
    federation.ends_well(vec![north, south]);
    assert_eq!(events_of(&ledger, "ABANDONED").len(), 1);
    assert_eq!(events_of(&ledger, "RESERVE").len(), 3);
    every_release_is_unique(&federation, 2);
}

#[test]
fn a_node_killed_after_commit_sends_the_same_bytes() {
    let mut federation = prepared(2, DEEPEST);
    let south = federation.run("south");
    let north = federation.run("north");
    let models = federation.site("north").join("models");
    let whole = |entry: std::io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.path().extension().is_none());
    until("the model arrives", || fs::read_dir(&models).expect("a folder").any(whole).then_some(()));
    federation.server().signal("STOP"); // so that nothing is confirmed
    appears(&federation, "north", "COMMIT", 1);
    north.kill();
    let ledger = federation.ledger("north");
    assert!(events_of(&ledger, "ACKED").is_empty(), "the kill came too late to test anything");
    let payload = events_of(&ledger, "COMMIT")[0]["payload"].clone();
    federation.server().signal("CONT");
    let north = federation.run("north");
    federation.ends_well(vec![north, south]);
    assert!(fs::read_to_string(federation.log("north")).expect("a log").contains("sending the committed update again"));
    assert_eq!(events_of(&ledger, "COMMIT")[0]["payload"], payload);
    assert_eq!((events_of(&ledger, "COMMIT").len(), events_of(&ledger, "ABANDONED").len()), (2, 0));
    every_release_is_unique(&federation, 2);
}

#[test]
fn a_coordinator_killed_after_it_accepted_an_update_keeps_it() {
    let mut federation = prepared(2, OUTPUT);
    let (south, north) = (federation.run("south"), federation.run("north"));
    appears(&federation, "journal", "ROUND_OPENED", 1);
    south.signal("STOP"); // so that the round stays open
    appears(&federation, "journal", "UPDATE_ACCEPTED", 1);
    federation.take_server().kill();
    let before = events(&federation.journal());
    assert!(events_of(&federation.journal(), "ROUND_CLOSED").is_empty(), "the kill came too late to test anything");
    south.signal("CONT");
    federation.serve();
    federation.ends_well(vec![north, south]);
    assert_eq!(events(&federation.journal())[..before.len()], before, "what was written stays");
    every_release_is_unique(&federation, 2);
}

#[test]
fn an_old_copy_of_a_ledger_is_refused() {
    let mut federation = prepared(1, OUTPUT);
    let ledger = federation.ledger("north");
    let old = fs::read(&ledger).expect("a ledger");
    let nodes = vec![federation.run("north"), federation.run("south")];
    federation.ends_well(nodes);
    let newest = fs::read(&ledger).expect("a ledger");

    fs::write(&ledger, &old).expect("restored from a backup");
    federation.serve();
    node!("run", "--dir", federation.site("north")).says(2, &["old copy", "Put the newest ledger back"]);
    let (code, verdict) = federation.verdict();
    assert_eq!((code, &verdict["verdict"]), (Some(2), &"unsound".into()), "{verdict:#}");

    fs::write(&ledger, &newest).expect("put back");
    node!("run", "--dir", federation.site("north")).done();
    every_release_is_unique(&federation, 1);
}

/// A whole folder copied before round 1, keys and certificate included, and both used: whoever comes second is refused before
/// it trains, whatever it may still hold of the budget.
#[test]
fn a_clone_of_a_site_is_refused() {
    let mut federation = prepared(1, OUTPUT);
    let original = federation.site("north");
    let clone = original.with_file_name("north-clone");
    copy(&original, &clone);
    let nodes = vec![federation.run("north"), federation.run("south")];
    federation.ends_well(nodes);
    federation.serve();
    node!("run", "--dir", &clone).says(2, &["a clone runs elsewhere", "never run two"]);
    let ledger = fs::read_to_string(clone.join("ledger.jsonl")).expect("a ledger");
    assert!(!ledger.contains("RESERVE"), "the clone noised nothing");
    node!("run", "--dir", &original).done();
    fs::remove_dir_all(&clone).expect("removed");
    every_release_is_unique(&federation, 1);
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => fs::copy(entry.path(), &target).map(|_| ()).expect("copied"),
        }
    }
}
