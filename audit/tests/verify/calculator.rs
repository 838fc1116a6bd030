//! `epsilon` against the reference tables (`reference/privacy/`, made with dp-accounting 0.6.0).

use serde_json::Value;

use crate::program::call;

const TABLE: &str = include_str!("../../../tests/fixtures/privacy/dp_reference.csv");
const DETAIL: &str = include_str!("../../../tests/fixtures/privacy/dp_reference_extra.csv");

fn ask(mechanism: &str, q: &str, sigma: &str, steps: &str, delta: &str, adjacency: &str) -> (u8, String, String) {
    let head = ["epsilon", "--format", "json", "--mechanism", mechanism, "--q", q, "--sigma", sigma];
    call(&[&head[..], &["--steps", steps, "--delta", delta, "--adjacency", adjacency]].concat())
}

fn relation(name: &str) -> &'static str {
    if name == "replace_one" { "replace-one" } else { "add-remove" }
}

fn number(text: &str) -> f64 {
    text.parse().expect("a number")
}

#[test]
fn both_mechanisms_meet_the_reference_table() {
    let mut rows = 0;
    for line in TABLE.lines().skip(1) {
        let field: Vec<&str> = line.split(',').collect();
        let mechanism = match field[0] {
            "poisson_gaussian" => "poisson-gaussian",
            "gaussian" => "gaussian",
            _ => continue,
        };
        let (code, out, words) = ask(mechanism, field[2], field[3], field[4], field[5], relation(field[1]));
        assert_eq!(code, 0, "{words}");
        let answer: Value = serde_json::from_str(&out).expect("json");
        let figure = |name: &str| answer[name].as_f64().expect("a number");
        let (rdp, pld) = (number(field[6]), number(field[7]));
        assert!(figure("eps_rdp") <= rdp * (1.0 + 1e-6) && figure("eps_pld") <= figure("eps_rdp"), "{line}: {out}");
        assert!((figure("eps_pld") / pld - 1.0).abs() < 1e-5 && figure("eps_pld") > pld - 1e-5, "{line}: {out}");
        assert_eq!(answer["eps_zcdp"].is_null(), number(field[2]) < 1.0, "{line}");
        assert_eq!(answer["eps_zcdp_reason"].is_string(), number(field[2]) < 1.0, "{line}");
        rows += 1;
    }
    assert_eq!(rows, 70);
}

#[test]
fn zcdp_meets_its_reference_from_above() {
    let mut rows = 0;
    for line in DETAIL.lines().skip(1) {
        let field: Vec<&str> = line.split(',').collect();
        let (code, out, words) = ask("gaussian", field[2], field[3], field[4], field[5], relation(field[1]));
        assert_eq!(code, 0, "{words}");
        let answer: Value = serde_json::from_str(&out).expect("json");
        let found = answer["eps_zcdp"].as_f64().expect("number");
        // The table has six decimals.
        assert!((found - number(field[8])).abs() < 2e-6, "{line}: {found}");
        rows += 1;
    }
    assert_eq!(rows, 16);
}

#[test]
fn fixed_batches_meet_the_reference_table_and_cost_more_than_poisson_sampling() {
    let mut rows = 0;
    for line in TABLE.lines().filter(|line| line.starts_with("swor_gaussian,")) {
        let field: Vec<&str> = line.split(',').collect();
        let (code, out, words) = ask("swor-gaussian", field[2], field[3], field[4], field[5], relation(field[1]));
        assert_eq!(code, 0, "{words}");
        let answer: Value = serde_json::from_str(&out).expect("json");
        let found = answer["eps_rdp"].as_f64().expect("a number");
        assert!((found / number(field[6]) - 1.0).abs() < 1e-6, "{line}: {found}");
        let (poisson, full) = (&answer["poisson_eps_rdp"], &answer["full_participation"]);
        assert!(poisson.as_f64() < Some(found) && full["eps_rdp"].as_f64() < Some(found), "{out}");
        assert!((full["sigma"].as_f64().expect("a number") * number(field[2]) / number(field[3]) - 1.0).abs() < 1e-12);
        for accountant in ["pld", "zcdp"] {
            assert!(answer[format!("eps_{accountant}")].is_null(), "{out}");
            assert!(answer[format!("eps_{accountant}_reason")].is_string(), "{out}");
        }
        rows += 1;
    }
    assert_eq!(rows, 4);
}

#[test]
fn fixed_batches_have_no_figure_where_their_number_must_be_hidden() {
    let rest = "epsilon --mechanism swor-gaussian --q 0.1 --steps 500 --delta 1e-5";
    let call = |more: &str| call(&format!("{rest} {more}").split_whitespace().collect::<Vec<_>>());
    for (more, figure) in [("--sigma 4", "eps_rdp"), ("--target-epsilon 8", "sigma_rdp")] {
        let (code, out, _) = call(&format!("{more} --adjacency add-remove --format json"));
        let answer: Value = serde_json::from_str(&out).expect("json");
        assert!(code == 0 && answer[figure].is_null() && answer[format!("{figure}_reason")].is_string(), "{out}");
        let (code, out, _) = call(&format!("{more} --adjacency add-remove"));
        assert!(code == 0 && out.contains("RDP   none: ") && out.contains("ask for replace-one"), "{out}");
    }
    let (_, out, _) = call("--sigma 4 --adjacency replace-one");
    for text in ["PLD   none: ", "RDP   13.617  (order 3)", "zCDP  none: ", "no plan of this system", "sigma 40,"] {
        assert!(out.contains(text), "{out}");
    }
    let (_, out, _) = call("--target-epsilon 13.616738 --adjacency replace-one");
    assert!(out.contains("RDP   4.000\n") && out.contains("PLD   none: "), "{out}");
}

#[test]
fn every_mistake_is_usage_and_names_its_option() {
    let good = ("1", "4", "10", "1e-5");
    for (mechanism, q, sigma, steps, delta, option) in [
        ("gaussian", "0.5", good.1, good.2, good.3, "--q"),
        ("gaussian", "0", good.1, good.2, good.3, "--q"),
        ("poisson-gaussian", "0", good.1, good.2, good.3, "--q"),
        ("poisson-gaussian", "1.5", good.1, good.2, good.3, "--q"),
        ("swor-gaussian", "0", good.1, good.2, good.3, "--q"),
        ("swor-gaussian", good.0, good.1, good.2, good.3, "--q"),
        ("swor-gaussian", "nan", good.1, good.2, good.3, "--q"),
        ("swor-gaussian", "0.1", "0", good.2, good.3, "--sigma"),
        ("swor-gaussian", "0.1", good.1, "0", good.3, "--steps"),
        ("swor-gaussian", "0.1", good.1, good.2, "1", "--delta"),
        ("gaussian", "nan", good.1, good.2, good.3, "--q"),
        ("gaussian", good.0, "0", good.2, good.3, "--sigma"),
        ("gaussian", good.0, "inf", good.2, good.3, "--sigma"),
        ("gaussian", good.0, "1e-200", good.2, good.3, "--sigma"),
        ("gaussian", good.0, good.1, "0", good.3, "--steps"),
        ("gaussian", good.0, good.1, "1.5", good.3, "--steps"),
        ("gaussian", good.0, good.1, "18446744073709551615", good.3, "--steps"),
        ("gaussian", good.0, good.1, good.2, "1", "--delta"),
        ("gaussian", good.0, good.1, good.2, "0", "--delta"),
        ("gaussian", good.0, good.1, good.2, "nan", "--delta"),
        ("laplace", good.0, good.1, good.2, good.3, "--mechanism"),
    ] {
        let (code, out, words) = ask(mechanism, q, sigma, steps, delta, "replace-one");
        let said = code == 64 && out.is_empty() && words.contains(option);
        assert!(said, "{mechanism} {q} {sigma} {steps} {delta}: {code} {words}");
    }
}

#[test]
fn sigma_or_an_epsilon_is_given_and_not_both() {
    let rest =
        "epsilon --format json --mechanism poisson-gaussian --q 0.1 --steps 100 --delta 1e-5 --adjacency add-remove";
    let call = |more: &str| call(&format!("{rest} {more}").split_whitespace().collect::<Vec<_>>());
    for more in ["", "--sigma 1 --target-epsilon 1", "--target-epsilon 0", "--target-epsilon nan"] {
        let (code, out, words) = call(more);
        assert!(code == 64 && out.is_empty() && words.contains("--target-epsilon"), "{more}: {code} {words}");
    }
    let (code, out, words) = call("--target-epsilon 2");
    assert_eq!(code, 0, "{words}");
    let noise: Value = serde_json::from_str(&out).expect("json");
    assert!(noise["sigma_zcdp"].is_null() && noise["sigma_pld"].as_f64() < noise["sigma_rdp"].as_f64(), "{out}");
    for accountant in ["rdp", "pld"] {
        let sigma = noise[format!("sigma_{accountant}")].as_f64().expect("a number");
        let cost = |sigma: f64| {
            let (_, out, _) = call(&format!("--sigma {sigma}"));
            let cost: Value = serde_json::from_str(&out).expect("json");
            cost[format!("eps_{accountant}")].as_f64().expect("a number")
        };
        assert!(cost(sigma) <= 2.0 && cost(sigma * 0.999) > 2.0, "{accountant} {sigma}");
    }
}

#[test]
fn people_are_told_what_the_numbers_are_and_these_are_rounded_up() {
    let rest = "epsilon --steps 1 --delta 1e-5 --adjacency add-remove --mechanism";
    let call = |more: &str| call(&format!("{rest} {more}").split_whitespace().collect::<Vec<_>>()).1;
    let out = call("gaussian --sigma 4");
    for figure in ["PLD   0.927", "RDP   1.013", "zCDP  1.013"] {
        assert!(out.contains(figure), "{out}");
    }
    assert!(call("poisson-gaussian --q 0.5 --sigma 4").contains("zCDP  none: "));
    assert!(
        call("gaussian --target-epsilon 1.013").contains("zCDP  3.998"),
        "{}",
        call("gaussian --target-epsilon 1.013")
    );
}
