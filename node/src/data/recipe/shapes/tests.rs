//! Coverage against the volumes of geometry.

use std::f64::consts::PI;

use proptest::prelude::*;

use super::*;
use crate::data::recipe::space::turn;

/// A row without a warp.
fn row(at: [&[f32]; 3], spacing: Point) -> Row<'_> {
    let (start, step) = (at.map(|places| f64::from(places[0])), spacing[2]);
    Row { at, start, step, warp: 0.0, extent2: spacing.map(|v| (v * v) as f32) }
}

/// Sum of the coverage on a grid of this spacing, in cubic millimetres.
fn volume(solid: &Solid, spacing: Point) -> f64 {
    let (low, high) = solid.bounds();
    let count: [usize; 3] = std::array::from_fn(|axis| ((high[axis] - low[axis]) / spacing[axis]).ceil() as usize + 4);
    let place = |axis: usize, index: usize| (low[axis] + (index as f64 - 1.63) * spacing[axis]) as f32;
    let zs: Vec<f32> = (0..count[2]).map(|k| place(2, k)).collect();
    let mut coverage = vec![0.0; count[2]];
    let mut sum = 0.0;
    for i in 0..count[0] {
        for j in 0..count[1] {
            let (xs, ys) = (vec![place(0, i); count[2]], vec![place(1, j); count[2]]);
            let row = row([&xs, &ys, &zs], spacing);
            solid.cover(&row, &mut coverage);
            assert!(coverage.iter().all(|share| (0.0..=1.0).contains(share)));
            assert!(coverage[0] == 0.0 && coverage[count[2] - 1] == 0.0, "the bounds hold the shape");
            sum += coverage.iter().map(|&share| f64::from(share)).sum::<f64>();
        }
    }
    sum * spacing.iter().product::<f64>()
}

fn compact(profile: Profile, half: Point, degrees: Point) -> Solid {
    Solid::Compact(Compact { profile, centre: [3.1, -7.7, 0.4], half, axes: turn(degrees), lumps: Vec::new() })
}

#[test]
fn soft_edges_integrate_to_the_volume_of_a_box() {
    // 8 abc Gamma(5/4)^3 / Gamma(7/4)
    let factor = 8.0 * libm::tgamma(1.25).powi(3) / libm::tgamma(1.75);
    for degrees in [[0.0; 3], [30.0, -15.0, 60.0]] {
        let found = volume(&compact(Profile::Box, [30.0, 20.0, 25.0], degrees), [2.0, 2.5, 2.0]);
        let expected = factor * 30.0 * 20.0 * 25.0;
        assert!((found / expected - 1.0).abs() < 0.01, "{found} {expected}");
    }
}

#[test]
fn soft_edges_integrate_to_the_volume_of_a_tube() {
    let tube = |sag, radii| Solid::Tube(Tube::bent([-20.0, 3.0, 1.0], [25.0, -9.0, 14.0], sag, radii));
    let length = norm([45.0, -12.0, 13.0]);
    let found = volume(&tube([0.0; 3], (9.0, 9.0)), [2.0; 3]);
    let expected = PI * 81.0 * length + 4.0 / 3.0 * PI * 729.0;
    assert!((found / expected - 1.0).abs() < 0.015, "{found} {expected}");
    // A bend makes it longer, a taper thinner.
    assert!(volume(&tube([0.0, 12.0, 8.0], (9.0, 9.0)), [2.0; 3]) > 1.05 * found);
    assert!(volume(&tube([0.0; 3], (9.0, 4.0)), [2.0; 3]) < 0.7 * found);
}

#[test]
fn a_plane_along_the_axes_is_covered_exactly() {
    let slab = compact(Profile::Ellipsoid, [4e3, 4e3, 10.0], [0.0; 3]);
    let zs: Vec<f32> = (0..30).map(|k| 0.4 - 14.7 + k as f32).collect();
    let (xs, ys) = (vec![3.1; 30], vec![-7.7; 30]);
    let mut coverage = vec![0.0; 30];
    slab.cover(&row([&xs, &ys, &zs], [1.0; 3]), &mut coverage);
    for (z, share) in zs.iter().zip(&coverage) {
        let inside = (10.0 - (z - 0.4).abs() + 0.5).clamp(0.0, 1.0);
        assert!((share - inside).abs() < 1e-3, "{z}: {share} is not {inside}");
    }
}

#[test]
fn lumps_stay_within_the_bounds_and_change_the_volume() {
    let Solid::Compact(plain) = compact(Profile::Ellipsoid, [20.0, 15.0, 12.0], [10.0, 20.0, 30.0]) else {
        panic!("it is compact");
    };
    let lumpy = |height| {
        let lumps = vec![([0.0, 0.0, 1.0], height), ([0.6, -0.8, 0.0], 0.5 * height)];
        volume(&Solid::Compact(Compact { lumps, ..plain.clone() }), [1.5; 3])
    };
    assert!(lumpy(-0.3) < 0.97 * lumpy(0.0) && lumpy(0.3) > 1.03 * lumpy(0.0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn soft_edges_integrate_to_the_volume_of_an_ellipsoid(
        half in prop::array::uniform3(8.0_f64..30.0),
        degrees in prop::array::uniform3(-90.0_f64..90.0),
        spacing in prop::array::uniform3(1.0_f64..2.5),
    ) {
        let found = volume(&compact(Profile::Ellipsoid, half, degrees), spacing);
        let expected = 4.0 / 3.0 * PI * half[0] * half[1] * half[2];
        prop_assert!((found / expected - 1.0).abs() < 0.02, "{} {}", found, expected);
    }
}
