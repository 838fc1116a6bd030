use super::*;
use proptest::prelude::*;

fn total(values: &[f32], targets: &Targets, weights: TermWeights) -> f64 {
    losses(Logits { values, classes: 3, voxels: 4 }, targets, weights).0.total
}

fn opinion(values: &[(f32, f32)]) -> Opinion {
    Opinion {
        probability: values.iter().map(|(p, _)| *p).collect(),
        confidence: values.iter().map(|(_, c)| *c).collect(),
    }
}

fn slope_at(values: &[f32], at: usize, of: impl Fn(&[f32]) -> f64) -> f64 {
    let moved = |by: f32| {
        let mut moved = values.to_vec();
        moved[at] += by;
        of(&moved)
    };
    (moved(1e-2) - moved(-1e-2)) / 2e-2
}

proptest! {
    /// spec/semisam.md, E3: the generalist's term moves the student, and by its true gradient.
    #[test]
    fn e03_the_gradient_matches_finite_differences(
        values in prop::collection::vec(-2.0_f32..2.0, 24),
        teacher in prop::collection::vec(0.0_f32..1.0, 24),
        labels in prop::collection::vec(prop::sample::select(vec![0_u8, 1, 2, IGNORED]), 4),
        certain in prop::option::of(prop::collection::vec(prop::sample::select(vec![0.0_f32, 1.0]), 8)),
        thought in prop::collection::vec((0.0_f32..1.0, 0.1_f32..1.0), 8),
    ) {
        let targets = Targets {
            labels: vec![Some(labels.clone()), None],
            pseudo_labels: vec![None, Some(labels)],
            teacher: Some(teacher),
            certain,
            opinions: vec![None, Some(opinion(&thought))],
        };
        for weights in [
            TermWeights { pseudo: 0.5, teacher: 0.7, generalist: 0.3 },
            TermWeights { generalist: 1.0, ..TermWeights::default() },
        ] {
            let (_, gradient) = losses(Logits { values: &values, classes: 3, voxels: 4 }, &targets, weights);
            for (at, found) in gradient.iter().enumerate() {
                let slope = slope_at(&values, at, |values| total(values, &targets, weights));
                prop_assert!((slope - f64::from(*found)).abs() < 1e-3, "{at}: {slope} {found}");
            }
        }
    }

    /// spec/semisam.md, 6.3: with one mask that is trusted everywhere this is the published term, over both channels.
    #[test]
    fn a_trusted_mask_gives_the_published_term(
        values in prop::collection::vec(-3.0_f32..3.0, 24),
        mask in prop::collection::vec(0_u8..2, 4),
    ) {
        let logits = Logits { values: &values, classes: 2, voxels: 4 };
        let opinions = vec![None, Some(Opinion::of_mask(&mask, 2)), None];
        let targets = Targets { opinions, ..Targets::default() };
        let p = softmax(logits);
        let both = (0..8).map(|at| f64::from(p[8 + at]) - f64::from(u8::from(usize::from(mask[at % 4]) == at / 4)));
        let published = both.map(|difference| difference.powi(2)).sum::<f64>() / 8.0;
        let found = losses(logits, &targets, TermWeights { generalist: 1.0, ..TermWeights::default() }).0;
        prop_assert!((found.generalist - published).abs() < 1e-6, "{} {published}", found.generalist);
    }

    /// spec/semisam.md, E9: less trust in a region takes weight from that region, and from no other.
    #[test]
    fn e09_doubt_lowers_the_weight_of_its_region_only(
        values in prop::collection::vec(-2.0_f32..2.0, 8),
        thought in prop::collection::vec((0.0_f32..1.0, 0.2_f32..1.0), 4),
    ) {
        let logits = Logits { values: &values, classes: 2, voxels: 4 };
        let slopes = |thought: &[(f32, f32)]| {
            let trust: f32 = thought.iter().map(|(_, c)| c).sum();
            let targets = Targets { opinions: vec![Some(opinion(thought))], ..Targets::default() };
            let weights = TermWeights { generalist: f64::from(trust), ..TermWeights::default() };
            losses(logits, &targets, weights).1
        };
        let mut doubtful = thought.clone();
        doubtful[..2].iter_mut().for_each(|(_, confidence)| *confidence *= 0.25);
        for (at, (before, after)) in slopes(&thought).iter().zip(slopes(&doubtful)).enumerate() {
            let share = if at % 4 < 2 { 0.25 } else { 1.0 };
            prop_assert!((after - share * before).abs() <= 1e-6 + 1e-5 * before.abs(), "{at}: {before} {after}");
        }
    }

    /// UA-MT counts both channels of the distance and one of the mask (spec/semisam.md, 6.2).
    #[test]
    fn where_the_teacher_is_uncertain_nothing_counts(
        values in prop::collection::vec(-2.0_f32..2.0, 16),
        teacher in prop::collection::vec(0.0_f32..1.0, 16),
        certain in prop::collection::vec(prop::sample::select(vec![0.0_f32, 1.0]), 8),
    ) {
        let logits = Logits { values: &values, classes: 2, voxels: 4 };
        let p = softmax(logits);
        let mask = |at: usize| f64::from(certain[at / 8 * 4 + at % 4]);
        let sum: f64 = (0..16).map(|at| mask(at) * f64::from(p[at] - teacher[at]).powi(2)).sum();
        let expected = sum / (2.0 * certain.iter().map(|c| f64::from(*c)).sum::<f64>() + 1e-16);
        let targets = Targets { teacher: Some(teacher), certain: Some(certain.clone()), ..Targets::default() };
        let (found, gradient) =
            losses(logits, &targets, TermWeights { teacher: 1.0, ..TermWeights::default() });
        prop_assert!((found.teacher - expected).abs() < 1e-6);
        prop_assert!((0..16).all(|at| mask(at) > 0.0 || gradient[at] == 0.0));
    }
}

/// Nothing to trust is no loss, and no division by zero.
#[test]
fn e10_an_opinion_without_any_confidence_is_no_loss() {
    let targets = Targets { opinions: vec![Some(opinion(&[(0.7, 0.0); 4]))], ..Targets::default() };
    let weights = TermWeights { generalist: 1.0, ..TermWeights::default() };
    let (terms, gradient) = losses(Logits { values: &[0.3; 8], classes: 2, voxels: 4 }, &targets, weights);
    assert_eq!(terms, Losses::default());
    assert!(gradient.iter().all(|g| *g == 0.0));
}

#[test]
fn nothing_to_compare_with_is_no_loss() {
    let values = [0.3; 8];
    let (terms, gradient) =
        losses(Logits { values: &values, classes: 2, voxels: 4 }, &Targets::default(), TermWeights::default());
    assert_eq!(terms, Losses::default());
    assert!(gradient.iter().all(|g| *g == 0.0));
}
