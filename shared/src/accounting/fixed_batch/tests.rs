use proptest::prelude::*;

use super::*;
use crate::accounting::Adjacency;

const TABLE: &str = include_str!("../../../../tests/fixtures/privacy/dp_reference.csv");

fn batches(share: f64, multiplier: f64, count: u64) -> FixedBatches {
    FixedBatches::new(share, multiplier, count).expect("in range")
}

fn of(sampling: f64, multiplier: f64) -> Releases {
    Releases::new(sampling, multiplier, 1).expect("in range")
}

#[test]
fn the_reference_table_is_met() {
    let mut rows = 0;
    for line in TABLE.lines().filter(|line| line.starts_with("swor_gaussian,")) {
        let field: Vec<&str> = line.split(',').collect();
        let number = |index: usize| field[index].parse::<f64>().expect("a number");
        assert_eq!(field[1], "replace_one", "{line}");
        let found = batches(number(2), number(3), number(4) as u64).epsilon(number(5)).expect("in range").epsilon;
        assert!((found / number(6) - 1.0).abs() < 1e-6, "{line}: {found}");
        rows += 1;
    }
    assert_eq!(rows, 4);
}

#[test]
fn costs_are_those_of_the_theorem_as_it_stands() {
    // mpmath 1.4.1 with 400 digits: alternating sums B(l) of C(l, i) (-1)^(l-i) E[r^i], the sum of the theorem, its
    // interpolation, and the plain Gaussian where that is smaller (the last two, and order 1.3).
    for (q, sigma, order, exact) in [
        (0.05, 1.0, 2.0, 0.241_369_053_378_973_8),
        (0.05, 1.0, 3.0, 1.874_842_266_355_864_5),
        (0.1, 4.0, 3.0, 0.017_630_092_271_796_02),
        (0.1, 4.0, 10.0, 0.066_758_028_516_882_74),
        (0.3, 7.0, 33.0, 0.361_367_539_674_192_7),
        (0.01, 0.8, 6.0, 13.362_425_212_929_497),
        (0.001, 30.0, 200.0, 1.795_248_186_855_689_6e-6),
        (0.02, 100.0, 256.0, 8.601_897_091_181_255e-5),
        (0.2, 2.0, 2.5, 0.292_235_751_832_828_2),
        (0.4, 20.0, 1.3, 0.006_411_509_211_384_621),
        (0.25, 12.0, 7.9, 0.029_394_496_136_076_317),
        (0.45, 1000.0, 64.0, 0.000_106_742_072_396_067_9),
        (0.9, 5.0, 4.0, 0.32),
    ] {
        let found = batches(q, sigma, 1).cost(order);
        assert!(
            found >= exact * (1.0 - 1e-15) && found < exact * (1.0 + 2e-11),
            "{q} {sigma} {order}: {found} {exact}"
        );
    }
}

#[test]
fn differences_do_not_cancel() {
    // ln B(l), made as above; the smallest with 6000 digits.
    for (mu, l, exact) in [
        (0.5, 4, -0.331_506_480_800_872_26),
        (0.001, 8, -50.608_023_882_562_45),
        (0.02, 64, -144.398_226_346_402_5),
        (0.12, 256, 463.716_848_919_982_1),
        (0.3, 40, 69.048_560_347_110_26),
        (1.2, 4, 8.589_495_152_573_552),
        (2e-9, 256, -4_545.581_415_070_937),
        (0.5, 30, 108.728_749_217_792_71),
    ] {
        let found = log_difference(mu, l);
        assert!((found - exact).abs() < 2e-12 + 1e-15 * exact.abs(), "{mu} {l}: {found} {exact}");
    }
    for mu in [1e-6_f64, 0.1, 1.0] {
        assert!((log_difference(mu, 2) - log_expm1(mu * mu)).abs() < 1e-13, "{mu}");
    }
}

#[test]
fn a_difference_that_is_left_out_would_not_have_been_taken() {
    for mu in [0.2, 0.4, 0.7, 1.3, 2.0] {
        let kept = log_differences(mu, LARGEST_DIFFERENCE).len() as u32;
        assert!(kept <= LARGEST_DIFFERENCE / 2, "{mu}: some are left out");
        for half in kept..kept + 20 {
            let (low, high) = (log_difference(mu, 2 * half - 2), log_difference(mu, 2 * half));
            for (i, ternary) in [(2 * half - 1, (low + high) / 2.0), (2 * half, high)] {
                let moment = f64::from(i) * f64::from(i - 1) * mu * mu / 2.0;
                assert!(2.0 * LN_2 + ternary >= LN_2 + moment, "{mu} {i}");
            }
        }
    }
}

#[test]
fn a_batch_of_everybody_costs_what_the_plain_gaussian_costs() {
    for sigma in [0.5, 4.0, 100.0] {
        for order in rdp::orders() {
            let plain = rdp::cost(&of(1.0, sigma), Adjacency::ReplaceOne, order);
            let found = batches(1.0, sigma, 1).cost(order);
            assert!((found / plain - 1.0).abs() < 1e-14, "{sigma} {order}: {found} {plain}");
        }
        let (all, plain) = (batches(1.0, sigma, 40).epsilon(1e-5), Releases::new(1.0, sigma, 40).expect("in range"));
        let plain = rdp::epsilon(&[plain], 1e-5, Adjacency::ReplaceOne).expect("in range");
        assert!((all.expect("in range").epsilon / plain.epsilon - 1.0).abs() < 1e-14);
    }
}

#[test]
fn extremes_give_numbers() {
    for (share, multiplier, count) in [
        (1e-12, 0.01, 1_000_000_000),
        (1.0 - 1e-12, 0.01, 1),
        (0.5, 1e9, 1_000_000_000),
        (1e-300, 1.0, 1),
        (0.3, 1e9, 1),
    ] {
        let found = batches(share, multiplier, count).epsilon(1e-5).expect("in range").epsilon;
        assert!(found.is_finite() && found >= 0.0, "{share} {multiplier} {count}: {found}");
    }
    assert_eq!(batches(0.5, 1.0, 0).epsilon(1e-5).map(|found| found.epsilon), Ok(0.0));
    assert_eq!(batches(0.5, 1.0, 1).epsilon(0.0), Err(Failed::Delta(0.0)));
    assert_eq!(FixedBatches::new(0.0, 1.0, 1), Err(Failed::Sampling(0.0)));
    assert!(FixedBatches::new(f64::NAN, 1.0, 1).is_err() && FixedBatches::new(0.5, f64::NAN, 1).is_err());
}

#[test]
fn the_noise_that_is_answered_is_enough_and_a_little_less_is_not() {
    let found = smallest_noise_multiplier((3.0, 1e-5), 300, 0.1).expect("in reach");
    let cost = |multiplier| batches(0.1, multiplier, 300).epsilon(1e-5).expect("in range").epsilon;
    assert!(cost(found) <= 3.0 && cost(found * (1.0 - 1e-5)) > 3.0, "{found}");
    assert_eq!(smallest_noise_multiplier((0.0, 1e-5), 300, 0.1), Err(Failed::Epsilon(0.0)));
    assert!(smallest_noise_multiplier((3.0, 1e-5), 300, 1.5).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn more_noise_costs_less_and_a_larger_share_and_more_steps_cost_more(
        share in 0.001_f64..1.0, multiplier in 0.3_f64..60.0, count in 1_u64..5000, exponent in 2.0_f64..12.0,
    ) {
        let delta = 10_f64.powf(-exponent);
        let at = |share: f64, multiplier: f64, count: u64, delta: f64| {
            batches(share, multiplier, count).epsilon(delta).expect("in range").epsilon
        };
        let here = at(share, multiplier, count, delta);
        let exact = 1.0 + 1e-9;
        prop_assert!(at(share, multiplier * 1.05, count, delta) <= here * exact);
        prop_assert!(at((share * 1.05).min(1.0), multiplier, count, delta) * exact >= here);
        prop_assert!(at(1.0, multiplier, count, delta) * exact >= here);
        prop_assert!(at(share, multiplier, count + 1 + count / 10, delta) * exact >= here);
        prop_assert!(at(share, multiplier, count, delta * 2.0) <= here * exact);
    }

    /// Cohorts where fixed batches look like Poisson sampling: what they cost is a floor.
    #[test]
    fn no_order_costs_less_than_the_cohorts_that_are_known_to_be_bad(
        share in 0.001_f64..1.0, multiplier in 0.5_f64..60.0, order in 1.1_f64..40.0,
    ) {
        for order in [order, order.ceil()] {
            let found = batches(share, multiplier, 1).cost(order);
            // All others contribute nothing: an exchange under Poisson sampling.
            let exchange = rdp::cost(&of(share, multiplier), Adjacency::ReplaceOne, order);
            // All others contribute what the new unit does: a removal under Poisson sampling, twice as far.
            let removal = rdp::cost(&of(share, multiplier / 2.0), Adjacency::AddRemove, order);
            prop_assert!(found * (1.0 + 1e-10) >= exchange.max(removal), "{found} {exchange} {removal}");
        }
    }
}
