//! Who must not be let in: a site with a certificate of another consortium, one whose certificate has expired, one that
//! was excluded while it was connected. Each learns why; the operator reads one line about it; the others finish.

use std::fs;

use semisam_shared::{
    clock,
    ids::UnixMillis,
    issue::{self, Role},
};
use serde_json::Value;

use crate::{
    federation::{Federation, OUTPUT, events_of, plan},
    running::{coordinator, node, until},
};

const DAY: u64 = 24 * 60 * 60 * 1000;

/// Puts a certificate for the site's own key into its folder, past `semisam-node enroll`, which would refuse it.
fn certify(federation: &Federation, name: &str, authority: (&str, &str), days: u32, now: UnixMillis) {
    let tls = federation.site(name).join("tls");
    let request = fs::read_to_string(tls.join("request.csr")).expect("a request");
    let certificate = issue::sign_request(authority.0, authority.1, &request, &Role::Site, days, now).expect("issued");
    fs::write(tls.join("certificate.pem"), certificate).expect("written");
    fs::copy(federation.coordinator().join("consortium/authority.pem"), tls.join("authority.pem")).expect("copied");
}

/// The coordinator's lines that name a site and hold a word.
fn lines(federation: &Federation, site: &str, word: &str) -> Vec<String> {
    let name = format!("`{site}`");
    let words = federation.server().words();
    words.lines().filter(|line| line.contains(&name) && line.contains(word)).map(str::to_owned).collect()
}

#[test]
fn strangers_are_refused_and_the_others_finish() {
    let mut federation = Federation::found(&plan(2, 2, OUTPUT));
    for (name, seed) in [("foreign", 1), ("late", 2)] {
        federation.hospital(name, seed);
    }
    let other = issue::new_authority("another consortium", 30, clock::now()).expect("made");
    certify(&federation, "foreign", (&other.certificate_pem, &other.key_pem), 7, clock::now());
    let consortium = federation.coordinator().join("consortium");
    let [certificate, key] = ["authority.pem", "authority.key"].map(|name| fs::read_to_string(consortium.join(name)));
    let (certificate, key) = (certificate.expect("a certificate"), key.expect("a key"));
    certify(&federation, "late", (&certificate, &key), 1, UnixMillis(clock::now().0 - 9 * DAY));

    for (name, reason) in [("foreign", "certificate"), ("late", "expired")] {
        let ended = node!("run", "--dir", federation.site(name)).says(2, &["refused", reason]);
        assert!(!ended.err.contains("trying again"), "{}", ended.err);
        let said = lines(&federation, name, "refused");
        assert_eq!(said.len(), 1, "{said:?}");
        federation.ledger_is_sound(name);
    }
    assert!(lines(&federation, "late", "expired").len() == 1, "{}", federation.server().words());
    let installed = federation.site("late").join("tls");
    node!(
        "enroll",
        "--dir",
        federation.site("late"),
        "--certificate",
        installed.join("certificate.pem"),
        "--authority",
        installed.join("authority.pem")
    )
    .says(2, &["expired", "ask the consortium for a new one"]);

    for (name, seed) in [("north", 3), ("south", 4), ("excluded", 5)] {
        federation.ready(name, seed);
    }
    // A round opens for two, and one of them is held, so that the round is open while the other one is excluded.
    let south = federation.run("south");
    until("south takes part", || events_of(&federation.journal(), "SITE_RETURNED").pop());
    south.signal("STOP");
    let excluded = excluded_while_connected(&federation);
    south.signal("CONT");
    let nodes = vec![federation.run("north"), south];
    federation.ends_well(nodes);
    let verdict = federation.is_sound(2);
    assert_eq!(verdict["epsilon"]["north"]["releases"], 2, "{verdict:#}");
    for closed in events_of(&federation.journal(), "ROUND_CLOSED") {
        let contributors = closed["contributors"].as_array().expect("a list");
        assert!(contributors.len() == 2 && !contributors.contains(&excluded), "{closed}");
    }
    for (name, spent) in [("foreign", 0), ("late", 0), ("excluded", 1)] {
        assert_eq!(events_of(&federation.ledger(name), "RESERVE").len(), spent, "{name}");
        federation.ledger_is_sound(name);
    }
}

/// Its update is in the open round, and it asks what comes next, when the consortium excludes it. Answers its number.
fn excluded_while_connected(federation: &Federation) -> Value {
    let excluded = federation.run("excluded");
    let accepted = || events_of(&federation.journal(), "UPDATE_ACCEPTED").first().cloned();
    let site = until("its update is accepted", accepted)["receipt"]["site"].clone();
    let told = coordinator!("--format", "json", "revoke", "--dir", federation.coordinator(), "excluded").done().json();
    assert_eq!((&told["revoked"], &told["site"]), (&true.into(), &site));
    let log = federation.log("excluded");
    let code = excluded.ended();
    let words = fs::read_to_string(log).expect("a log");
    assert_eq!(code, Some(2), "{words}");
    assert!(words.contains("excluded") || words.contains("revoked"), "{words}");
    assert_eq!(lines(federation, "excluded", "is excluded").len(), 1, "{}", federation.server().words());

    node!("run", "--dir", federation.site("excluded")).says(2, &["revoked"]);
    let request = federation.site("excluded").join("tls/request.csr");
    coordinator!("enroll", "--dir", federation.coordinator(), "--request", request).says(2, &["excluded", "new key"]);
    site
}
