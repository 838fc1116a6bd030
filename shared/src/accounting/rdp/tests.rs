use super::*;

const CURVE: &str = include_str!("../../../../tests/fixtures/privacy/dp_reference_rdp_curve.csv");

fn adjacency(name: &str) -> Adjacency {
    match name {
        "add_or_remove_one" => Adjacency::AddRemove,
        "replace_one" => Adjacency::ReplaceOne,
        other => panic!("`{other}` is no adjacency of the table"),
    }
}

#[test]
fn the_reference_curve_is_met_at_whole_orders_and_not_exceeded_at_others() {
    let (mut whole, mut others) = (0, 0);
    for line in CURVE.lines().skip(1) {
        let field: Vec<&str> = line.split(',').collect();
        let number = |index: usize| field[index].parse::<f64>().expect("a number");
        let releases = Releases::new(number(1), number(2), 1).expect("in range");
        let (order, expected) = (number(3), number(4));
        let found = cost(&releases, adjacency(field[0]), order);
        // Its exchanges are integrals, good to 1e-11 of 1 and not of what exceeds 1.
        let slack = if field[0] == "replace_one" { 2e-11 } else { 0.0 };
        if order.fract() == 0.0 {
            assert!((found - expected).abs() < 1e-9 * expected + slack, "{line}: {found}");
            whole += 1;
        } else {
            // dp-accounting interpolates these from above, up to infinity.
            assert!(found.is_finite() && found <= expected * (1.0 + 1e-9) + slack, "{line}: {found}");
            others += 1;
        }
    }
    assert_eq!((whole, others), (70, 30));
}

#[test]
fn the_order_that_the_specification_works_out_is_met() {
    // spec/privacy.md, 7.2: 3.054e-3 by quadrature where the library says 3.597e-3.
    let releases = Releases::new(0.05, 1.0, 1).expect("in range");
    let found = cost(&releases, Adjacency::AddRemove, 1.5);
    assert!((found - 3.054e-3).abs() < 1e-6, "{found}");
}

/// E_Q[(P/Q)^order] by Simpson's rule, straight from densities, without any of the rearrangements of the accountant.
fn by_simpson(q: f64, sigma: f64, adjacency: Adjacency, order: f64) -> f64 {
    let normal = |x: f64, centre: f64| (-(x - centre).powi(2) / (2.0 * sigma * sigma)).exp();
    let p = |x: f64| (1.0 - q) * normal(x, 0.0) + q * normal(x, 1.0);
    let (low, high) = (-order - 12.0 * sigma, order + 12.0 * sigma);
    let points = 400_000;
    let step = (high - low) / f64::from(points);
    let mut sums = [0.0, 0.0];
    for index in 0..=points {
        let x = low + step * f64::from(index);
        let weight = if index == 0 || index == points { 1.0 } else { f64::from(2 + 2 * (index % 2)) };
        let pairs = match adjacency {
            Adjacency::AddRemove => [(p(x), normal(x, 0.0)), (normal(x, 0.0), p(x))],
            Adjacency::ReplaceOne => [(p(x), p(-x)), (p(-x), p(x))],
        };
        for (sum, (p, q)) in sums.iter_mut().zip(pairs) {
            if p > 0.0 && q > 0.0 {
                *sum += weight * (order * p.ln() + (1.0 - order) * q.ln()).exp();
            }
        }
    }
    let scale = step / 3.0 / (sigma * (2.0 * std::f64::consts::PI).sqrt());
    (sums[0].max(sums[1]) * scale).ln() / (order - 1.0)
}

#[test]
fn every_kind_of_order_agrees_with_an_independent_integral() {
    for (q, sigma) in [(0.05, 1.0), (0.3, 0.7), (0.01, 0.8), (0.8, 2.5), (0.2, 6.0)] {
        for adjacency in [Adjacency::AddRemove, Adjacency::ReplaceOne] {
            for order in [1.1, 1.7, 2.0, 2.5, 3.0, 5.5, 8.0, 10.9] {
                let releases = Releases::new(q, sigma, 1).expect("in range");
                let (found, exact) = (cost(&releases, adjacency, order), by_simpson(q, sigma, adjacency, order));
                // The plain integral has 1e-13 of 1, not of what it exceeds 1 by.
                let slack = 1e-12 / (order - 1.0);
                assert!(
                    (found - exact).abs() < 1e-9 * exact + slack,
                    "{q} {sigma} {adjacency:?} {order}: {found} {exact}"
                );
            }
        }
    }
}

#[test]
fn a_plain_gaussian_costs_order_over_twice_the_variance_and_four_times_that_for_an_exchange() {
    let releases = Releases::new(1.0, 50.0, 1).expect("in range");
    for order in orders() {
        let exact = order / (2.0 * 2500.0);
        for (adjacency, factor) in [(Adjacency::AddRemove, 1.0), (Adjacency::ReplaceOne, 4.0)] {
            let found = cost(&releases, adjacency, order);
            assert!(found >= factor * exact && found < factor * exact * (1.0 + 1e-11));
        }
    }
}

#[test]
fn costs_grow_with_the_order_and_the_list_is_that_of_the_specification() {
    let list: Vec<f64> = orders().collect();
    assert_eq!((list.len(), list[0], list[98], list[99], list[160]), (161, 1.1, 10.9, 11.0, 1024.0));
    for (q, sigma) in [(0.05, 1.0), (0.5, 4.0), (0.001, 0.4)] {
        for adjacency in [Adjacency::AddRemove, Adjacency::ReplaceOne] {
            let releases = Releases::new(q, sigma, 1).expect("in range");
            let costs: Vec<f64> = list.iter().map(|order| cost(&releases, adjacency, *order)).collect();
            assert!(costs.windows(2).all(|pair| pair[0] <= pair[1] * (1.0 + 1e-9)), "{q} {sigma} {adjacency:?}");
        }
    }
}
