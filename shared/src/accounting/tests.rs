use super::{fixed_batch::FixedBatches, *};

/// Made by `make_dp_random.py` beside it: what the columns are, and where the library's figures are not its own.
const RANDOM: &str = include_str!("../../../tests/fixtures/privacy/dp_random.csv");

/// What two exact accountants may differ by, relatively (spec/privacy.md, 7.4).
const EXACT: f64 = 1e-5;

#[test]
fn settings_that_nobody_chose_are_met() {
    let mut rows = (0, 0);
    for line in RANDOM.lines().skip(1) {
        let field: Vec<&str> = line.split(',').collect();
        let number = |index: usize| field[index].parse::<f64>().expect("a number");
        let (q, sigma, count, delta, reference) = (number(2), number(3), number(4) as u64, number(5), number(6));
        if field[0] == "swor_gaussian" {
            let found = FixedBatches::new(q, sigma, count).expect("in range").epsilon(delta).expect("in range").epsilon;
            assert!(found <= reference * (1.0 + 1e-6), "{line}: {found}");
            // Above 1/2 the plain Gaussian is the smaller bound.
            assert!(found >= reference * (1.0 - 1e-6) || q > 0.5, "{line}: {found}");
            rows.1 += 1;
            continue;
        }
        let adjacency = if field[1] == "replace_one" { Adjacency::ReplaceOne } else { Adjacency::AddRemove };
        let releases = [Releases::new(q, sigma, count).expect("in range")];
        let renyi = rdp::epsilon(&releases, delta, adjacency).expect("in range").epsilon;
        let exact = pld::epsilon(&releases, delta, adjacency).expect("in range");
        assert!(exact <= renyi && renyi <= reference * (1.0 + 1e-6), "{line}: {exact} {renyi}");
        // Not above what the library's usual grid gives, and not below what a finer one does.
        assert!(exact <= number(7) * (1.0 + EXACT) && exact >= number(8) * (1.0 - EXACT), "{line}: {exact}");
        rows.0 += 1;
    }
    assert_eq!(rows, (52, 10));
}
