//! Our zCDP accountant beside opendp's: privacy map, epsilon at a fixed delta, composition and filter. opendp is only a
//! dependency of this crate (`deny.toml`), so the comparison stands here. Figures: spec/privacy.md, 6.1.

use opendp::{
    combinators::{make_fix_delta, make_fully_adaptive_composition, make_privacy_filter, make_zCDP_to_approxDP},
    core::Measurement,
    domains::{AtomDomain, VectorDomain},
    measurements::make_gaussian,
    measures::ZeroConcentratedDivergence,
    metrics::L2Distance,
};
use semisam_shared::{
    accounting::{Adjacency, Releases, Rho, gdp, pld},
    plan::SIGMA,
};

type Gaussian = Measurement<VectorDomain<AtomDomain<i64>>, L2Distance<f64>, ZeroConcentratedDivergence, Vec<i64>>;

const DELTA: f64 = 1e-5;

fn domain(size: usize) -> VectorDomain<AtomDomain<i64>> {
    VectorDomain::new(AtomDomain::<i64>::default()).with_size(size)
}

fn gaussian(size: usize, sigma: u64) -> Gaussian {
    make_gaussian(domain(size), L2Distance::default(), sigma as f64, None).expect("opendp makes it")
}

#[test]
fn the_privacy_map_charges_what_we_charge() {
    for sensitivity in [1, 1000, 1 << 18, 1 << 19, 1 << 20, 3_495_253] {
        let theirs = gaussian(10_000, SIGMA).map(&(sensitivity as f64)).expect("a cost");
        let ours = Rho::of_release(sensitivity, SIGMA).value();
        assert!(ours >= theirs * (1.0 - 1e-15) && ours <= theirs * (1.0 + 1e-12), "{sensitivity}: {ours} {theirs}");
    }
}

#[test]
fn epsilon_at_a_fixed_delta_agrees_and_exact_accounting_is_below_both() {
    let approximate = make_zCDP_to_approxDP(gaussian(10_000, SIGMA)).expect("converted");
    let fixed = make_fix_delta(&approximate, DELTA).expect("fixed");
    for (sensitivity, expected) in [(1_u64 << 18, 1.012_287), (1 << 19, 2.165_716), (1 << 20, 4.728_387)] {
        let (theirs, delta) = fixed.map(&(sensitivity as f64)).expect("a cost");
        let ours = Rho::of_release(sensitivity, SIGMA).epsilon(DELTA, Adjacency::AddRemove);
        assert!(delta <= DELTA && (ours / theirs - 1.0).abs() < 1e-6, "{sensitivity}: {ours} {theirs}");
        assert!((ours - expected).abs() < 2e-6, "{sensitivity}: {ours}");
        let releases = [Releases::of_integers(sensitivity, SIGMA, 1).expect("in range")];
        let exact = gdp::epsilon(gdp::mu(&releases, Adjacency::AddRemove).expect("full"), DELTA).expect("a delta");
        let pld = pld::epsilon(&releases, DELTA, Adjacency::AddRemove).expect("in range");
        assert!(exact <= pld && pld < ours.min(theirs), "{sensitivity}: {exact} {pld} {ours} {theirs}");
    }
    // An exchange doubles the distance of neighbours.
    let twice = fixed.map(&f64::from(1 << 19)).expect("a cost").0;
    let ours = Rho::of_release(1 << 18, SIGMA).epsilon(DELTA, Adjacency::ReplaceOne);
    assert!((ours / twice - 1.0).abs() < 1e-6, "{ours} {twice}");
}

#[test]
fn the_oracle_of_the_specification_is_met() {
    // 10 000 floats on a grid of 2^-20 cost a little more than integers do; conversions of the same rho agree.
    for (rho, epsilon) in [(0.031_255_960_749, 1.012_39), (0.125_011_921_213, 2.165_83)] {
        let ours = Rho::from_value(rho).expect("a cost").epsilon(DELTA, Adjacency::AddRemove);
        assert!((ours - epsilon).abs() < 1e-5, "{rho}: {ours} {epsilon}");
        assert!(Rho::of_release(1 << 18, SIGMA).value() < rho);
    }
}

#[test]
fn the_filter_refuses_what_our_sum_refuses() {
    let sensitivity = 1_u64 << 18;
    let one = Rho::of_release(sensitivity, SIGMA);
    let budget = 3.5 * one.value();
    let odometer = make_fully_adaptive_composition(domain(4), L2Distance::default(), ZeroConcentratedDivergence);
    let filter = make_privacy_filter(odometer.expect("made"), sensitivity as f64, budget).expect("made");
    let mut queries = filter.invoke(&vec![0; 4]).expect("started");
    let mut spent = Rho::default();
    for round in 0..5 {
        let released = queries.invoke(gaussian(4, SIGMA)).is_ok();
        let ours = spent.plus(one);
        assert_eq!(released, ours.value() <= budget, "round {round}");
        assert_eq!(released, round < 3, "round {round}");
        if !released {
            break;
        }
        spent = ours;
        let theirs = queries.privacy_loss(sensitivity as f64).expect("a loss");
        assert!((spent.value() / theirs - 1.0).abs() < 1e-12, "round {round}: {} {theirs}", spent.value());
    }
    assert!((spent.value() - 0.09375).abs() < 1e-12);
}
