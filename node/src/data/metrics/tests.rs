//! MedPy's values on reference masks, golden values of analytic shapes, and a brute-force comparison.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::data::nifti::read_labels;

fn mask(shape: [usize; 3], spacing: [f64; 3], inside: impl Fn(i64, i64, i64) -> bool) -> LabelMap {
    let mut values = Vec::new();
    for i in 0..shape[0] as i64 {
        for j in 0..shape[1] as i64 {
            values.extend((0..shape[2] as i64).map(|k| u8::from(inside(i, j, k))));
        }
    }
    let mut affine = [[0.0; 4]; 4];
    (0..3).for_each(|axis| affine[axis][axis] = spacing[axis]);
    affine[3][3] = 1.0;
    LabelMap { shape, affine, values }
}

fn close(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= 1e-6
}

#[test]
fn reference_masks_agree_with_medpy() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/metrics"));
    let expected: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    for case in expected.as_array().unwrap() {
        let number = case["case"].as_u64().unwrap();
        let read = |kind: &str| read_labels(&folder.join(format!("case{number:02}_{kind}.nii.gz"))).unwrap();
        let scores = score(&read("pred"), &read("truth")).unwrap();
        let check = |field: &str, found: f64| {
            assert!(close(found, case[field].as_f64().unwrap()), "case {number} {field}: {found}");
        };
        check("dice", scores.dice);
        check("jaccard", scores.jaccard);
        for (unit, distances) in [("vox", scores.vox.unwrap()), ("mm", scores.mm.unwrap())] {
            check(&format!("hd_{unit}"), distances.hd);
            check(&format!("hd95_pooled_{unit}"), distances.hd95);
            check(&format!("asd_pred_to_truth_{unit}"), distances.asd);
            check(&format!("asd_truth_to_pred_{unit}"), distances.asd_reverse);
            check(&format!("assd_{unit}"), distances.assd);
        }
    }
}

#[test]
fn golden_values() {
    let block = |x: std::ops::Range<i64>, yz: std::ops::Range<i64>, side: usize| {
        mask([side; 3], [1.0; 3], move |i, j, k| x.contains(&i) && yz.contains(&j) && yz.contains(&k))
    };
    let ball = |r2: i64, c: [i64; 3]| {
        mask([32; 3], [1.0; 3], move |i, j, k| (i - c[0]).pow(2) + (j - c[1]).pow(2) + (k - c[2]).pow(2) <= r2)
    };
    let cases = [
        (block(8..20, 8..20, 32), block(10..22, 8..20, 32), [0.833_333_3, 0.714_285_7, 2.0, 0.681_318_7]),
        (ball(100, [15, 15, 15]), ball(81, [17, 16, 15]), [0.792_541_5, 0.656_371_5, 3.0, 1.431_622_4]),
        (block(0..4, 0..4, 8), block(0..5, 0..4, 8), [0.888_888_9, 0.8, 1.0, 0.071_428_6]),
        (block(0..4, 0..4, 5), block(0..5, 0..4, 5), [0.888_888_9, 0.8, 1.0, 0.071_428_6]),
    ];
    for (prediction, truth, [dice, jaccard, hd95, asd]) in cases {
        let scores = score(&prediction, &truth).unwrap();
        let vox = scores.vox.unwrap();
        let found = [scores.dice, scores.jaccard, vox.hd95, vox.asd];
        assert!(found.iter().zip([dice, jaccard, hd95, asd]).all(|(&a, b)| (a - b).abs() < 1e-7), "{found:?}");
    }
    let vox = score(&ball(100, [15, 15, 15]), &ball(81, [17, 16, 15])).unwrap().vox.unwrap();
    assert!(close(vox.assd, 1.325_140_7));
}

#[test]
fn empty_masks() {
    let empty = mask([4; 3], [1.0; 3], |_, _, _| false);
    let full = mask([4; 3], [1.0; 3], |_, _, _| true);
    let both = score(&empty, &empty).unwrap();
    assert_eq!((both.dice, both.jaccard, both.mm.map(|mm| mm.hd)), (1.0, 1.0, Some(0.0)));
    for (a, b) in [(&empty, &full), (&full, &empty)] {
        let scores = score(a, b).unwrap();
        assert_eq!((scores.dice, scores.jaccard, scores.vox, scores.mm), (0.0, 0.0, None, None));
    }
}

#[test]
fn other_grids_are_refused_and_classes_are_apart() {
    let one = mask([4; 3], [1.0; 3], |i, _, _| i < 2);
    assert!(score(&one, &mask([4, 4, 5], [1.0; 3], |_, _, _| true)).is_err());
    let message = score(&one, &mask([4; 3], [1.1, 1.0, 1.0], |_, _, _| true)).unwrap_err().to_string();
    assert!(message.contains("0.300 mm apart"), "{message}");
    let mut two = one.clone();
    two.values.iter_mut().for_each(|class| *class *= 2);
    assert_eq!(score(&one, &two).unwrap().dice, 1.0);
    assert_eq!(score_class(&one, &two, 2).unwrap().dice, 0.0);
    assert_eq!(dice(&one.values, &two.values), 1.0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn distances_equal_brute_force(
        shape in prop::array::uniform3(1_usize..7),
        spacing in prop::array::uniform3(0.3_f64..4.0),
        seed in prop::collection::vec(0_u8..8, 216),
        other in prop::collection::vec(0_u8..8, 216),
    ) {
        let at = |i: i64, j: i64, k: i64| (i * 36 + j * 6 + k) as usize;
        let a = mask(shape, spacing, |i, j, k| seed[at(i, j, k)] == 0);
        let b = mask(shape, spacing, |i, j, k| other[at(i, j, k)] == 0);
        let (a, b) = (crop(&a, shape.map(|n| (0, n)), |c| c > 0), crop(&b, shape.map(|n| (0, n)), |c| c > 0));
        prop_assume!(a.values.contains(&true));
        let points = |v: &Volume<bool>| -> Vec<[f64; 3]> {
            let [_, ny, nz] = v.shape;
            (0..v.values.len()).filter(|&n| v.values[n])
                .map(|n| [(n / nz / ny) as f64 * spacing[0], (n / nz % ny) as f64 * spacing[1], (n % nz) as f64 * spacing[2]])
                .collect()
        };
        let to = points(&a);
        let expected: Vec<f64> = points(&b).iter().map(|p| {
            to.iter().map(|q| (0..3).map(|i| (p[i] - q[i]).powi(2)).sum::<f64>()).fold(f64::INFINITY, f64::min).sqrt()
        }).collect();
        let found = edt::distances_to(&a, &b, spacing);
        prop_assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(&expected) {
            prop_assert!((a - b).abs() < 1e-9, "{} {}", a, b);
        }
    }
}
