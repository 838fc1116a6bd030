//! Same seed, same scan; a target of sensible size that a threshold does not find; a folder that the reader accepts.

use super::*;
use crate::data::folder::Cohort;
use crate::data::metrics;
use crate::data::normalise::normalise;

#[test]
fn seeds_decide_everything() {
    let style = Style::from_seed(3);
    let (image, labels) = synth_case(&style, [32; 3], [2.0; 3], 7);
    assert_eq!(
        (&image, &labels),
        (&synth_case(&style, [32; 3], [2.0; 3], 7).0, &synth_visit(&style, [32; 3], [2.0; 3], 7, 0).1)
    );
    assert_ne!(labels, synth_case(&style, [32; 3], [2.0; 3], 8).1);
    let (again, moved) = synth_visit(&style, [32; 3], [2.0; 3], 7, 1);
    assert_ne!(again, image);
    assert!((0.5..1.0).contains(&metrics::dice(&moved.values, &labels.values)));
}

#[test]
fn noise_is_standard() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let draws: Vec<f64> = (0..20_000).map(|_| normal(&mut rng)).collect();
    let mean = draws.iter().sum::<f64>() / 20_000.0;
    let variance = draws.iter().map(|draw| (draw - mean).powi(2)).sum::<f64>() / 20_000.0;
    assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
}

#[test]
fn targets_are_not_found_by_a_threshold() {
    let mut best_of_cases = 0.0;
    for case in 0..12 {
        let style = Style::from_seed(case);
        let (mut image, labels) = synth_case(&style, [40; 3], [2.5; 3], case + 100);
        let share = labels.values.iter().filter(|&&class| class > 0).count() as f64 / labels.values.len() as f64;
        assert!((0.01..0.25).contains(&share), "case {case}: {share}");
        normalise(&mut image);
        let sign = style.contrast.signum() as f32;
        let best = (-10..30)
            .map(|step| {
                let found: Vec<u8> =
                    image.values.iter().map(|&value| u8::from(sign * value > 0.1 * step as f32)).collect();
                metrics::dice(&found, &labels.values)
            })
            .fold(0.0, f64::max);
        assert!((0.2..0.96).contains(&best), "case {case}: {best}");
        best_of_cases += best / 12.0;
    }
    assert!(best_of_cases < 0.8, "{best_of_cases}");
}

#[test]
fn cohorts_are_read_back_and_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let spec = SynthSpec {
        style: Style::from_seed(0),
        shape: [16, 18, 12],
        spacing_mm: [2.0, 2.0, 3.0],
        patients: 5,
        labelled_patients: 2,
        seed: 9,
    };
    let root = folder.path().join("hospital");
    let scans = write_cohort(&spec, &root).unwrap();
    let cohort = Cohort::open(&root).unwrap();
    assert_eq!((cohort.patients.len(), cohort.scans().count()), (5, scans));
    assert!(cohort.patients[1].scans.len() == 2 && cohort.labelled().count() >= 3);
    let (image, labels) = cohort.patients[0].scans[0].read().unwrap();
    assert_eq!((image.shape, image.spacing()), ([16, 18, 12], [2.0, 2.0, 3.0]));
    assert!(labels.unwrap().values.contains(&1));
    assert!(matches!(write_cohort(&spec, &root), Err(SynthError::NotEmpty(_))));
    let empty = SynthSpec { patients: 0, ..spec };
    assert!(matches!(write_cohort(&empty, &folder.path().join("other")), Err(SynthError::Spec)));
}
