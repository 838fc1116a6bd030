use super::*;
use crate::plan::{ReleaseSpace, tests::example};

fn number(value: f64) -> Decimal {
    Decimal::new(value).expect("finite")
}

fn policy() -> Policy {
    Policy::parse(include_str!("../../../../deploy/policy.toml")).expect("the sample")
}

fn plan(change: impl Fn(&mut Plan)) -> ReadPlan {
    let mut plan = example();
    change(&mut plan);
    ReadPlan { plan, signed_by: None, draft: false }
}

fn outlook(read: &ReadPlan, policy: Option<&Policy>, patients: u32, sites: u32) -> Outlook {
    let circumstances = Circumstances { patients: Some(patients), sites: Some(sites), spent: Rho::default() };
    Outlook::of(read, policy, &circumstances).expect("in range")
}

fn weights(outlook: &Outlook) -> Vec<Weight> {
    outlook.advice.iter().map(|advice| advice.weight).collect()
}

#[test]
fn costs_are_those_of_the_reference_table() {
    // spec/privacy.md, 7.4: q = 1, sigma = 5, T = 50, and sigma = 4, T = 1, at 1e-5. The sensitivity in grid units is rounded
    // down, by less than 1e-5.
    let found = Costs::of(&plan(|plan| plan.privacy.noise_multiplier = number(5.0)).plan, 50, 1e-5).expect("in range");
    let close = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 5e-4, "{found} {expected}");
    close(found.eps_rdp.add_remove, 7.077);
    close(found.eps_pld.add_remove, 6.573);
    close(found.eps_rdp.replace_one, 16.513);
    close(found.eps_pld.replace_one, 15.456);
    let one = Costs::of(&example(), 1, 1e-5).expect("in range");
    close(one.eps_rdp.add_remove, 1.013);
    close(one.eps_pld.add_remove, 0.926_5);
    close(one.eps_zcdp.add_remove, 1.012_39);
    // mu = 1/4: Phi(1/8).
    close(one.best_guess, 0.549_738_2);
    assert!(
        found.eps_pld.add_remove < found.eps_rdp.add_remove && found.eps_pld.add_remove < found.eps_zcdp.add_remove
    );
}

#[test]
fn noise_to_signal_is_that_of_the_specification() {
    // Section 14: P = 50 k, T = 40, epsilon 8 (z = 3.80): one node of 100 patients 8.5, of 30 28; ten of 100 2.7.
    let read = plan(|plan| {
        plan.privacy.noise_multiplier = number(3.8);
        plan.privacy.release = ReleaseSpace::All { coordinates: 50_000 };
    });
    let close = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 0.015, "{found} {expected}");
    close(outlook(&read, None, 100, 10).noise_to_signal.one_site, 8.5);
    close(outlook(&read, None, 100, 10).noise_to_signal.average, 2.7);
    close(outlook(&read, None, 30, 1).noise_to_signal.one_site, 28.3);
    // By itself a plan says how many are expected.
    let found = Outlook::of(&read, None, &Circumstances::default()).expect("in range").noise_to_signal;
    assert_eq!((found.patients, found.sites), (10, 2));
    let hospital = plan(|plan| plan.privacy.unit = Unit::Hospital);
    assert!((outlook(&hospital, None, 100, 4).noise_to_signal.average - 4.0 * 32.0_f64.sqrt() / 2.0).abs() < 1e-12);
}

#[test]
fn each_threshold_has_its_advice() {
    let good = plan(|_| {});
    assert_eq!(outlook(&good, None, 100, 10).advice, []);
    assert_eq!(outlook(&good, None, 101, 9).advice, []);
    // few patients, but little noise: z sqrt(k) / (N sqrt(n T)) = 0.024 and 0.055
    assert_eq!(weights(&outlook(&good, None, 100, 9)), [Weight::Mind]);
    assert_eq!(weights(&outlook(&good, None, 29, 20)), [Weight::Mind]);
    // as measured: 4 hospitals of 10 patients, 4 rounds, 64 directions, epsilon 8 and 3; then twice that noise
    let few = |z| {
        plan(move |plan| {
            (plan.rounds, plan.privacy.noise_multiplier) = (4, number(z));
            plan.privacy.release = ReleaseSpace::All { coordinates: 64 };
        })
    };
    for (z, in_a_round, of_sizes) in [(1.276, None, Weight::Mind), (2.987, Some(Weight::Mind), Weight::Mind)] {
        let found = outlook(&few(z), None, 10, 4);
        assert_eq!(weights(&found), in_a_round.into_iter().chain([of_sizes]).collect::<Vec<_>>());
        assert!(found.advice.iter().any(|advice| advice.says.contains("better start")), "{:?}", found.advice);
    }
    let drowned = outlook(&few(6.0), None, 10, 4);
    assert_eq!(weights(&drowned), [Weight::Pointless, Weight::Mind]);
    let wide = |coordinates| plan(move |plan| plan.privacy.release = ReleaseSpace::All { coordinates });
    // z sqrt(k) / (N sqrt(n)) = 4 sqrt(k) / 1000.
    assert_eq!(weights(&outlook(&wide(62_000), None, 250, 16)), []);
    assert_eq!(weights(&outlook(&wide(63_000), None, 250, 16)), [Weight::Mind]);
    assert_eq!(weights(&outlook(&wide(31_000_000), None, 250, 16)), [Weight::Pointless]);
    let noisy = |z| plan(move |plan| plan.privacy.noise_multiplier = number(z));
    let weak = outlook(&noisy(1.5), None, 1000, 20);
    assert!(weights(&weak) == [Weight::Weak] && weak.advice[0].says.contains("weak"), "{:?}", weak.advice);
    let none = outlook(&noisy(0.4), None, 1000, 20);
    assert!(none.advice[0].says.contains("risk reduction"), "{:?}", none.advice);
    let careless = plan(|plan| plan.privacy.delta = number(1e-3));
    assert_eq!(weights(&outlook(&careless, None, 101, 20)), [Weight::Weak]);
    assert_eq!(weights(&outlook(&careless, None, 100, 20)), []);
    assert_eq!(
        weights(&outlook(&plan(|plan| plan.privacy.unit = Unit::Hospital), None, 100, 100)),
        [Weight::Pointless, Weight::Mind]
    );
}

#[test]
fn the_policy_is_asked_by_rule() {
    let judged =
        |read: &ReadPlan, policy: &Policy, patients| outlook(read, Some(policy), patients, 10).policy.expect("asked");
    let rules = |judgement: &Judgement| judgement.objections.iter().map(|objection| objection.rule).collect::<Vec<_>>();
    let read = plan(|_| {});
    let fine = judged(&read, &policy(), 100);
    assert!(fine.allowed && fine.objections.is_empty() && fine.rounds_affordable == 10);
    assert_eq!(rules(&judged(&read, &policy(), 2)), ["patients_min"]);
    let strict = Policy { noise_multiplier_min: number(5.0), rounds_max: 9, epsilon_max: number(2.0), ..policy() };
    let refused = judged(&read, &strict, 100);
    assert_eq!(rules(&refused), ["noise_multiplier_min", "rounds_max", "epsilon_max"]);
    assert!(!refused.allowed && (1..10).contains(&refused.rounds_affordable));
    // A draft has no architecture that a list could hold.
    let listed = Policy { architectures: vec![Digest::of(b"another")], ..policy() };
    assert_eq!(rules(&judged(&read, &listed, 100)), ["architectures"]);
    assert!(judged(&ReadPlan { draft: true, ..read }, &listed, 100).allowed);
}

#[test]
fn what_was_spent_before_counts() {
    let read = plan(|_| {});
    let spent = (0..48).fold(Rho::default(), |sum, _| sum.plus(read.plan.rho_per_round()));
    let circumstances = Circumstances { spent, ..Circumstances::default() };
    let found = Outlook::of(&read, Some(&policy()), &circumstances).expect("in range");
    let judgement = found.policy.as_ref().expect("asked");
    assert_eq!(judgement.objections[0].rule, "epsilon_max");
    assert!(!found.is_allowed() && judgement.rounds_affordable < 10 && judgement.after_all_rounds.add_remove > 10.0);
    let last = (0..judgement.rounds_affordable).fold(spent, |sum, _| sum.plus(read.plan.rho_per_round()));
    assert!(policy().epsilon(last) <= 10.0 && policy().epsilon(last.plus(read.plan.rho_per_round())) > 10.0);
}

#[test]
fn people_read_every_figure_and_no_control_characters() {
    let read = plan(|plan| plan.name = "left\u{1b}[31m atrium".into());
    let strict = Policy { epsilon_max: number(2.0), ..policy() };
    let text = outlook(&read, Some(&strict), 4, 1).to_string();
    for part in [
        "one round",
        "all 10 rounds",
        "1.013",
        "replace-one",
        "NOT WORTH IT",
        "REFUSED",
        "`epsilon_max`",
        "times in 100",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains('\u{1b}'));
    assert!(outlook(&read, None, 20, 3).to_string().contains("policy: none was given"));
}

#[test]
fn nobody_is_refused() {
    for circumstances in [
        Circumstances { patients: Some(0), ..Circumstances::default() },
        Circumstances { sites: Some(0), ..Circumstances::default() },
    ] {
        assert!(matches!(Outlook::of(&plan(|_| {}), None, &circumstances), Err(OutlookError::Nobody(_))));
    }
}
