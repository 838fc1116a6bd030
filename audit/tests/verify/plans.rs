//! `plan`: what it says, to whom, and with which exit code.

use std::fs;

use serde_json::Value;

use crate::{federation::finished, program::call};

const PLAN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/plan.toml");
const POLICY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/policy.toml");

fn json(arguments: &[&str]) -> (u8, Value) {
    let (code, out, words) = call(&[&["plan", "--format", "json"], arguments].concat());
    (code, serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out} {words}")))
}

#[test]
fn the_sample_plan_is_allowed_by_the_sample_policy() {
    let (code, outlook) = json(&[PLAN, "--policy", POLICY, "--coordinates", "32", "--patients", "200", "--sites", "5"]);
    assert_eq!((code, &outlook["policy"]["allowed"], &outlook["digest"]), (0, &true.into(), &Value::Null));
    for costs in ["one_round", "all_rounds"] {
        for accountant in ["eps_zcdp", "eps_rdp", "eps_pld"] {
            let both = &outlook[costs][accountant];
            assert!(both["replace_one"].as_f64() > both["add_remove"].as_f64(), "{costs} {accountant}: {outlook}");
        }
        let guess = outlook[costs]["best_guess"].as_f64().expect("a share");
        assert!(guess > 0.5 && guess < 1.0, "{outlook}");
    }
    // z sqrt(k) / N, and that divided by sqrt(n).
    let noise = &outlook["noise_to_signal"];
    let one_site = 1.276 * 32.0_f64.sqrt() / 200.0;
    assert!((noise["one_site"].as_f64().expect("number") - one_site).abs() < 1e-12, "{noise}");
    assert!((noise["average"].as_f64().expect("number") - one_site / 5.0_f64.sqrt()).abs() < 1e-12, "{noise}");
    assert_eq!(outlook["advice"], Value::Array(vec![]));
}

#[test]
fn a_signed_plan_is_judged_with_what_was_spent_before() {
    let folder = finished();
    let plan = folder.path("coordinator/plan.json").display().to_string();
    let (code, outlook) = json(&[&plan, "--policy", POLICY]);
    assert_eq!((code, outlook["digest"].as_str().map(str::len)), (0, Some(64)));
    let (code, outlook) = json(&[&plan, "--policy", POLICY, "--spent", "1.9"]);
    assert_eq!((code, &outlook["policy"]["objections"][0]["rule"]), (2, &"epsilon_max".into()), "{outlook}");
    let text = fs::read_to_string(folder.path("coordinator/plan.json")).expect("text");
    fs::write(folder.path("changed.json"), text.replace("\"rounds\": 3", "\"rounds\": 2")).expect("written");
    let (code, out, words) = call(&["plan", &folder.path("changed.json").display().to_string()]);
    assert!(code == 1 && out.is_empty() && words.contains("not signed"), "{code} {out} {words}");
}

#[test]
fn people_read_what_is_refused_and_what_is_pointless() {
    let folder = tempfile::tempdir().expect("folder");
    let strict = folder.path().join("policy.toml");
    let text = fs::read_to_string(POLICY).expect("text");
    fs::write(&strict, text.replace("noise_multiplier_min = 1.0", "noise_multiplier_min = 2.5")).expect("written");
    let strict = strict.display().to_string();
    let (code, out, words) = call(&["plan", PLAN, "--policy", &strict, "--coordinates", "9000000", "--sites", "3"]);
    assert_eq!((code, words.as_str()), (2, ""));
    for part in
        ["REFUSED", "`noise_multiplier_min`", "NOT WORTH IT", "20 patients", "times as long as the signal", "PLD"]
    {
        assert!(out.contains(part), "{part}: {out}");
    }
    let (code, out, _) = call(&["plan", PLAN, "--coordinates", "32"]);
    assert!(code == 0 && out.contains("policy: none was given"), "{out}");
}

#[test]
fn what_cannot_be_judged_is_told_by_its_name() {
    for (arguments, expected, part) in [
        (vec!["no/plan.toml"], 1, "no/plan.toml"),
        (vec![PLAN], 1, "--coordinates"),
        (vec![PLAN, "--coordinates", "32", "--policy", "no/policy.toml"], 1, "no/policy.toml"),
        (vec![PLAN, "--coordinates", "32", "--policy", PLAN], 1, "plan.toml"),
        (vec![PLAN, "--coordinates", "32", "--patients", "0"], 64, "--patients"),
        (vec![PLAN, "--coordinates", "32", "--sites", "0"], 64, "--sites"),
        (vec![PLAN, "--coordinates", "32", "--spent", "-1"], 64, "--spent"),
        (vec![PLAN, "--coordinates", "32", "--spent", "nan"], 64, "--spent"),
    ] {
        let (code, out, words) = call(&[&["plan"], &arguments[..]].concat());
        assert!(code == expected && out.is_empty() && words.contains(part), "{arguments:?}: {code} {words}");
    }
}
