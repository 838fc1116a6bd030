//! `report`: one page without anything outside it, that says what is so and that nobody can speak through.

use std::fs;

use semisam_audit::report::{Outcome, Report};
use semisam_shared::{
    chain::Chain,
    ids::{Digest, RoundNumber, UnixMillis},
    ledger::{LedgerEvent, Query, Reserve},
    signing::Domain,
};
use serde_json::Value;

use crate::{
    federation::{Cheat, Folder, Names, World, finished},
    program::call,
};

fn report(folder: &Folder) -> Report {
    Report::on(&folder.path("")).expect("readable")
}

fn page(folder: &Folder) -> String {
    report(folder).to_html().expect("rendered")
}

#[test]
fn a_sound_folder_gives_a_page_and_exit_code_0() {
    let folder = finished();
    let (path, out) = (folder.path("").display().to_string(), tempfile::tempdir().expect("folder"));
    let file = out.path().join("report.html").display().to_string();
    let (code, said, words) = call(&["report", &path, "--out", &file]);
    assert_eq!((code, words.as_str()), (0, ""));
    assert!(said.contains("verdict: sound") && said.contains(&file), "{said}");
    let page = fs::read_to_string(&file).expect("written");
    for part in ["Sound", "north", "south", "east", "<svg", "Whom a patient has to trust", "Check it yourself", "Words"]
    {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains(&path), "a path of this machine is nobody's business");
    // The same folder gives the same page, and no half of one is left behind.
    call(&["report", &path, "--out", &file]);
    assert_eq!(fs::read_to_string(&file).expect("written"), page);
    assert_eq!(fs::read_dir(out.path()).expect("folder").count(), 1);
    let (code, _, words) = call(&["report", &path]);
    assert!(code == 64 && words.contains("--out"), "{words}");
    let (code, _, words) = call(&["report", &path, "--out", &format!("{file}/no/report.html")]);
    assert!(code == 1 && words.contains("report.html"), "{words}");
}

#[test]
fn an_unsound_folder_gives_a_page_and_exit_code_2() {
    let folder = finished();
    let lines = folder.lines("north/ledger.jsonl");
    folder.write_lines("north/ledger.jsonl", &lines[..7]);
    let file = folder.path("report.html").display().to_string();
    let (code, said, _) = call(&["report", &folder.path("").display().to_string(), "--out", &file]);
    assert!(code == 2 && said.contains("unsound"), "{said}");
    let page = fs::read_to_string(&file).expect("written");
    for part in
        ["Unsound", "What it means.", "What to do.", "north/ledger.jsonl", "More may have been spent", "at least "]
    {
        assert!(page.contains(part), "{part}");
    }
    let report = report(&folder);
    let of = |name: &str| report.hospitals.iter().find(|hospital| hospital.name == name).expect("there").spent_at_least;
    assert!(of("north") && !of("south") && !of("east"));
}

#[test]
fn the_page_needs_nothing_outside_it() {
    let page = page(&finished());
    for outside in
        ["http:", "https:", "//", "src=", "<link", "<script", "url(", "@import", "<iframe", "<object", "onload"]
    {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("default-src 'none'"), "not even a mistake of ours may load something");
    let links = page.split("href=\"").skip(1).filter(|rest| !rest.starts_with('#'));
    assert_eq!(links.count(), 0);
    // Every element that is opened is closed.
    for element in
        ["table", "section", "svg", "div", "p", "ul", "dl", "tr", "td", "th", "pre", "figure", "h2", "span", "code"]
    {
        let opened = page.matches(&format!("<{element}>")).count() + page.matches(&format!("<{element} ")).count();
        assert_eq!(opened, page.matches(&format!("</{element}>")).count(), "{element}");
    }
}

/// What somebody writes who wants to speak through the auditor's page.
const HOSTILE: &str =
    "</style><script>alert('\"&')</script><img src=x onerror=alert(1)> `x` {{ 7*7 }} \u{202e}\u{1b}[31m";

#[test]
fn names_cannot_speak_through_the_page() {
    // The plan's name, each hospital's name and cohort, the approver, the reason of an abandoned release and of a refusal.
    let mut world = World::finished_with(Cheat::Nobody, false, &Names::all(HOSTILE));
    let plan = world.hospitals[0].first_query().plan;
    for round in [None, Some(RoundNumber(2))] {
        let reason = HOSTILE.to_owned();
        world.hospitals[0].add_against_the_rules(LedgerEvent::Refused {
            plan,
            round,
            reason,
            requested: None,
            remaining: None,
        });
    }
    let query = world.hospitals[0].first_query();
    let reserve = world.hospitals[0].reservation(Query { model: Digest::ZERO, ..query });
    let reserve = world.hospitals[0].add_against_the_rules(LedgerEvent::Reserve(reserve));
    world.hospitals[0].add_against_the_rules(LedgerEvent::Abandoned { reserve, reason: HOSTILE.into() });
    // Names of files and of members, and a mechanism, a clip check and a source of noise that are markup.
    let folder = world.folder;
    fs::create_dir_all(folder.path("<script>alert(2)<")).expect("folder");
    fs::copy(folder.path("coordinator/plan.json"), folder.path("<script>alert(2)</plan.json")).expect("copied");
    fs::write(folder.path("coordinator/store/<script>"), b"x").expect("written");
    let report = report(&folder);
    let page = report.to_html().expect("rendered");
    assert!(page.matches("alert(").count() > 10, "the names are on the page");
    for live in ["<script", "<img", "<iframe", "onerror=alert(1)>"] {
        assert!(!page.to_lowercase().contains(live), "{live}");
    }
    assert_eq!(page.matches("</style>").count(), 1);
    assert!(!page.contains(['\u{202e}', '\u{1b}']) && page.contains("{{ 7*7 }}"));
    // The document for programs is JSON, whatever the names are, and has them as they are written.
    let json = serde_json::to_string(&report).expect("json");
    let document: Value = serde_json::from_str(&json).expect("json");
    assert!(document["hospitals"][0]["name"].as_str().expect("a name").contains(HOSTILE));
}

#[test]
fn findings_with_markup_are_escaped_too() {
    let folder = finished();
    let mut lines = folder.lines("north/ledger.jsonl");
    lines[3] = lines[3].replace("integer clip", "<script>alert(3)</script>");
    lines.insert(5, "{\"<script>alert(4)</script>\":1}\n".into());
    folder.write_lines("north/ledger.jsonl", &lines);
    fs::write(folder.path("coordinator/plan.json"), "\"<script>alert(5)</script>\"").expect("written");
    let page = page(&folder);
    assert!(page.contains("Unsound") && !page.contains("<script"), "{page}");
}

#[test]
fn the_document_has_the_fields_of_verify_and_of_the_registry() {
    let folder = finished();
    let path = folder.path("").display().to_string();
    let (code, out, words) = call(&["report", &path, "--format", "json"]);
    assert_eq!((code, words.as_str(), out.lines().count()), (0, "", 1));
    let report: Value = serde_json::from_str(&out).expect("json");
    let (_, out, _) = call(&["verify", &path, "--format", "json"]);
    let verified: Value = serde_json::from_str(&out).expect("json");
    for (field, value) in verified.as_object().expect("fields") {
        assert_eq!(&report[field], value, "{field}");
    }
    let north = report["hospitals"].as_array().expect("hospitals").iter().find(|one| one["name"] == "north");
    let north = north.expect("there");
    assert_eq!((&north["unit_of_privacy"], &north["privacy_budget"]), (&"patient".into(), &10.0.into()));
    assert!(north["privacy_loss"]["add_remove"].is_number() && north["best_guess"].as_f64() > Some(0.5));
    let entry = &report["deployments"][0];
    assert_eq!((&entry["status"], &entry["tier"]), (&"Draft".into(), &3.into()));
    for (group, fields) in [
        (
            "basic",
            &["name", "data_curators", "intended_use", "data_product_type", "data_product_region", "description"][..],
        ),
        ("basic", &["publication_date", "data_product_sector"]),
        ("dp_variant", &["variant_name", "data_domain", "unprotected_quantities"]),
        ("privacy_loss", &["privacy_unit", "privacy_unit_details", "privacy_parameters_details"]),
        ("deployment_model", &["model_name", "model_name_details", "actors", "release_type", "access_type"]),
        ("accounting", &["post_processing", "composition"]),
        ("implementation", &["preprocessing_and_hyperparameter_tuning", "mechanisms", "justification"]),
        ("administrative", &["notes"]),
    ] {
        for field in fields {
            let value = &entry["deployment"][group][field];
            assert!(
                value.as_str().is_some_and(|text| !text.is_empty()) || value.is_array(),
                "{group} {field}: {value}"
            );
        }
    }
    let parameters = &entry["deployment"]["privacy_loss"]["privacy_parameters"];
    assert_eq!(parameters["epsilon"], report["epsilon"]["north"]["add_remove"]);
    assert_eq!(parameters["delta"], 1e-5);
    assert_eq!(entry["deployment"]["basic"]["publication_date"], "2023-11-14");
    assert_eq!(entry["deployment"]["basic"]["data_curators"].as_array().map(Vec::len), Some(3));
}

#[test]
fn every_reservation_is_told_with_its_fate_and_its_cost() {
    let report = report(&finished());
    let hospital = |name: &str| report.hospitals.iter().find(|hospital| hospital.name == name).expect("there");
    let fates = |name: &str| hospital(name).steps.iter().map(|step| step.outcome).collect::<Vec<_>>();
    assert_eq!(fates("north"), [Outcome::Accepted; 3]);
    assert_eq!(fates("south"), [Outcome::AcceptedUnheard, Outcome::Accepted, Outcome::Accepted]);
    assert_eq!(fates("east"), [Outcome::Accepted, Outcome::Abandoned, Outcome::Accepted]);
    let north = hospital("north");
    let costs: Vec<f64> = north.steps.iter().map(|step| step.eps_zcdp.add_remove).collect();
    assert!(costs.windows(2).all(|pair| pair[0] < pair[1]), "{costs:?}");
    assert_eq!(costs.last(), Some(&north.privacy_loss.add_remove));
    for step in &north.steps {
        let pld = step.eps_pld.expect("computed");
        assert!(pld.add_remove < step.eps_zcdp.add_remove && pld.replace_one < step.eps_zcdp.replace_one);
    }
    assert!(
        north.limits.iter().all(|limit| limit.kept == Some(true) || limit.rule == "patients_min"),
        "{:?}",
        north.limits
    );
    let rounds = &report.timelines[0].rounds;
    let east = report.timelines[0].sites.iter().position(|name| name == "east").expect("joined");
    let second = &rounds[1].cells[east];
    assert!(!second.accepted && second.abandoned == 1 && second.refused == 1, "{second:?}");
    assert!(rounds.iter().all(|round| round.recomputed && round.closed.is_some()));
    let what: Vec<&str> = report.timelines[0].happenings.iter().map(|one| one.what.as_str()).collect();
    for part in ["joined", "came back", "approved by dpo", "switched off", "too few patients", "all rounds are done"] {
        assert!(what.iter().any(|what| what.contains(part)), "{part}: {what:?}");
    }
}

#[test]
fn the_commands_in_the_report_give_the_figures_of_the_report() {
    let report = report(&finished());
    for hospital in &report.hospitals {
        for (command, adjacency) in hospital.recompute.iter().zip(["add-remove", "replace-one"]) {
            let words: Vec<&str> = command.split_whitespace().skip(1).chain(["--format", "json"]).collect();
            assert!(words.contains(&adjacency), "{command}");
            let (code, out, said) = call(&words);
            assert_eq!(code, 0, "{command}: {said}");
            let again: Value = serde_json::from_str(&out).expect("json");
            let spent = &hospital.privacy_loss;
            let (zcdp, pld) = match adjacency {
                "add-remove" => (spent.add_remove, spent.eps_pld.expect("a figure").add_remove),
                _ => (spent.replace_one, spent.eps_pld.expect("a figure").replace_one),
            };
            // What is published is rounded up at the sixth decimal.
            assert!((again["eps_zcdp"].as_f64().expect("number") - zcdp).abs() < 2e-6, "{command}: {out} {zcdp}");
            assert!((again["eps_pld"].as_f64().expect("number") - pld).abs() < 1e-6, "{command}: {out} {pld}");
        }
    }
}

#[test]
fn what_was_left_at_home_is_said_at_the_top() {
    let folder = finished();
    assert!(report(&folder).complete);
    fs::remove_dir_all(folder.path("east")).expect("removed");
    let partly = report(&folder);
    assert!(partly.is_sound() && !partly.complete);
    let page = partly.to_html().expect("rendered");
    assert!(page.contains("Sound, as far as it goes") && page.contains("What could not be checked"), "{page}");
    fs::remove_dir_all(folder.path("coordinator")).expect("removed");
    let ledgers = report(&folder);
    assert!(ledgers.is_sound() && !ledgers.complete && ledgers.timelines.is_empty());
    assert!(ledgers.to_html().expect("rendered").contains("logs of hospitals"));
    let empty = tempfile::tempdir().expect("folder");
    let (code, out, words) = call(&["report", &empty.path().display().to_string(), "--format", "json"]);
    assert!(code == 1 && out.is_empty() && words.contains("no `journal.jsonl`"), "{words}");
}

#[test]
fn a_long_history_gives_a_page_of_bounded_size_and_a_whole_document() {
    let world = World::finished(Cheat::Nobody, false);
    let north = &world.hospitals[0];
    let query = Query { model: Digest::ZERO, ..north.first_query() };
    let honest = north.reservation(query);
    let mut chain = Chain::<LedgerEvent>::new(Domain::Ledger);
    let mut lines = world.folder.lines("north/ledger.jsonl");
    for line in &lines {
        chain.read(line.trim_end(), |_| Ok(north.key.public())).expect("sound");
    }
    // Against the ceiling, so that it is a finding each time; long all the same.
    for number in 0..250_u32 {
        let reserve = lines.len() as u64;
        let model = Digest::of(&number.to_le_bytes());
        let spending = LedgerEvent::Reserve(Reserve { model, ..honest.clone() });
        for event in [spending, LedgerEvent::Abandoned { reserve, reason: "test".into() }] {
            lines.push(chain.write(event, UnixMillis(1_800_000_000_000), &north.key).expect("written").0);
        }
    }
    world.folder.write_lines("north/ledger.jsonl", &lines);
    let report = report(&world.folder);
    let steps = &report.hospitals.iter().find(|hospital| hospital.name == "north").expect("there").steps;
    assert_eq!(steps.len(), 253);
    assert!(report.findings.len() >= 250);
    let page = report.to_html().expect("rendered");
    assert!(page.contains("of 253 reservations are listed") && page.contains("more of this kind"));
    let rows = page.matches("lost; stays paid for").count();
    assert!((100..220).contains(&rows), "{rows}");
    assert!(page.matches("class=\"lost\"").count() < 200);
}
