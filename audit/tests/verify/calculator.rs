//! `epsilon` against the reference tables (`reference/privacy/`, made with dp-accounting 0.6.0).

use serde_json::Value;

use crate::program::call;

const TABLE: &str = include_str!("../../../tests/fixtures/privacy/dp_reference_extra.csv");

fn ask(mechanism: &str, q: &str, sigma: &str, steps: &str, delta: &str, adjacency: &str) -> (u8, String, String) {
    let head = ["epsilon", "--format", "json", "--mechanism", mechanism, "--q", q, "--sigma", sigma];
    call(&[&head[..], &["--steps", steps, "--delta", delta, "--adjacency", adjacency]].concat())
}

#[test]
fn the_reference_table_is_met_from_above() {
    let mut rows = 0;
    for line in TABLE.lines().skip(1) {
        let field: Vec<&str> = line.split(',').collect();
        let adjacency = if field[1] == "replace_one" { "replace-one" } else { "add-remove" };
        let (code, out, words) = ask("gaussian", field[2], field[3], field[4], field[5], adjacency);
        assert_eq!(code, 0, "{words}");
        let answer: Value = serde_json::from_str(&out).expect("json");
        assert!(answer["eps_rdp"].is_null() && answer["eps_pld"].is_null());
        let (found, expected) =
            (answer["eps_zcdp"].as_f64().expect("number"), field[8].parse::<f64>().expect("number"));
        // The table has six decimals.
        assert!((found - expected).abs() < 2e-6, "{line}: {found}");
        rows += 1;
    }
    assert_eq!(rows, 16);
}

#[test]
fn what_this_version_cannot_compute_is_said_and_nonsense_is_usage() {
    let (code, out, words) = ask("poisson-gaussian", "0.1", "1", "10", "1e-5", "add-remove");
    assert!(code == 1 && out.is_empty() && words.contains("not supported by this version"), "{code} {words}");
    let good = ("1", "4", "10", "1e-5");
    for (q, sigma, steps, delta) in [
        ("0.5", good.1, good.2, good.3),
        ("0", good.1, good.2, good.3),
        ("nan", good.1, good.2, good.3),
        (good.0, "0", good.2, good.3),
        (good.0, "1e-200", good.2, good.3),
        (good.0, good.1, "0", good.3),
        (good.0, good.1, "1.5", good.3),
        (good.0, good.1, good.2, "1"),
        (good.0, good.1, good.2, "0"),
    ] {
        let (code, out, words) = ask("gaussian", q, sigma, steps, delta, "replace-one");
        assert!(code == 64 && out.is_empty() && !words.is_empty(), "{q} {sigma} {steps} {delta}: {code} {words}");
    }
}

#[test]
fn people_are_told_what_the_number_is() {
    let arguments = "epsilon --mechanism gaussian --sigma 4 --steps 1 --delta 1e-5 --adjacency add-remove";
    let (code, out, _) = call(&arguments.split(' ').collect::<Vec<_>>());
    assert!(code == 0 && out.starts_with("epsilon 1.0122") && out.contains("zCDP"), "{out}");
}
