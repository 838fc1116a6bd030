use proptest::prelude::*;

use super::*;
use crate::testing::{draw, on_threads};

/// Weights along one axis by definition: the interpolation kernel `max(0, 1 - |x|)` at the source coordinate.
fn weights(from: usize, to: usize, alignment: Alignment) -> Vec<Vec<f64>> {
    let coordinate = |j: usize| match alignment {
        Alignment::Faces => (j as f64 + 0.5) * from as f64 / to as f64 - 0.5,
        Alignment::Centres => (j * (from - 1)) as f64 / (to - 1).max(1) as f64,
    };
    let row = |j: usize| {
        let at = coordinate(j).clamp(0.0, (from - 1) as f64);
        (0..from).map(|i| (1.0 - (at - i as f64).abs()).max(0.0)).collect()
    };
    (0..to).map(row).collect()
}

fn expected(x: &[f32], from: [usize; 3], to: [usize; 3], alignment: Alignment) -> Vec<f64> {
    let [along_d, along_h, along_w] = std::array::from_fn(|axis| weights(from[axis], to[axis], alignment));
    let mut y = Vec::new();
    for x in x.chunks_exact(from.iter().product()) {
        for at in 0..to.iter().product() {
            let (p, q, r) = (&along_d[at / (to[1] * to[2])], &along_h[at / to[2] % to[1]], &along_w[at % to[2]]);
            let weight = |i: usize| p[i / (from[1] * from[2])] * q[i / from[2] % from[1]] * r[i % from[2]];
            y.push(x.iter().enumerate().map(|(i, x)| f64::from(*x) * weight(i)).sum());
        }
    }
    y
}

fn product(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

proptest! {
    #[test]
    fn values_are_by_definition_and_the_gradient_is_adjoint(
        images in 1_usize..3, from in prop::array::uniform3(1_usize..=11), to in prop::array::uniform3(1_usize..=11),
        centres: bool, seed: u64,
    ) {
        let alignment = if centres { Alignment::Centres } else { Alignment::Faces };
        let (small, large) = (images * from.iter().product::<usize>(), images * to.iter().product::<usize>());
        let (x, g, resize) = (draw(seed, small), draw(seed ^ 1, large), Resize::new(from, to, alignment));
        let y = expected(&x, from, to, alignment);
        for path in Path::ALL.into_iter().filter(|path| path.available()) {
            let found = resample(&resize.forward, &x, path);
            prop_assert_eq!(found.len(), y.len());
            for (found, expected) in found.iter().zip(&y) {
                prop_assert!((f64::from(*found) - expected).abs() < 2e-6, "{} for {}", found, expected);
            }
            let of_x = resample(&resize.adjoint, &g, path);
            prop_assert_eq!(of_x.len(), x.len());
            prop_assert!((product(&found, &g) - product(&x, &of_x)).abs() < 1e-5 * (1.0 + (large as f64).sqrt()));
        }
    }
}

/// What `torch.nn.functional.interpolate(torch.arange(4.), 3 or 7, mode="linear")` gives along an axis.
#[test]
fn pytorchs_coordinates() {
    let along = |to, alignment| Resize::new([1, 1, 4], [1, 1, to], alignment).apply(&[0.0, 1.0, 2.0, 3.0]);
    let near = |found: Vec<f32>, expected: &[f32]| {
        assert!(found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6));
    };
    near(along(3, Alignment::Faces), &[0.166_666_7, 1.5, 2.833_333_3]);
    near(along(3, Alignment::Centres), &[0.0, 1.5, 3.0]);
    near(along(8, Alignment::Faces), &[0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]);
    near(along(7, Alignment::Centres), &[0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]);
    near(along(1, Alignment::Centres), &[0.0]);
    near(along(1, Alignment::Faces), &[1.5]);
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let resize = Resize::new([5, 7, 6], [11, 4, 13], Alignment::Faces);
    let (x, g) = (draw(1, 3 * 5 * 7 * 6), draw(2, 3 * 11 * 4 * 13));
    let both = || [resize.apply(&x), resize.gradient(&g)];
    let alone = on_threads(1, both);
    assert!([2, 3].into_iter().all(|threads| on_threads(threads, both) == alone));
}
