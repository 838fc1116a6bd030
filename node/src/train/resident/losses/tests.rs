use burn::backend::Flex;
use proptest::prelude::*;

use super::*;
use crate::train::{
    generator,
    host::{certain, pseudo_labels},
    losses::{Logits, losses as of_host, softmax as softmax_of_host},
    normal,
};

fn tensor(values: &[f32], shape: [usize; 3]) -> Tensor<Flex, 3> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), &Default::default())
}

fn values(tensor: Tensor<Flex, 3>) -> Vec<f32> {
    to_host(tensor.into_data())
}

/// Terms and gradient of both sides, side by side.
fn compare(logits: &[f32], shape: [usize; 3], targets: &Targets, weights: TermWeights) -> Result<(), TestCaseError> {
    let [samples, classes, voxels] = shape;
    let (expected, gradient) = of_host(Logits { values: logits, classes, voxels }, targets, weights);
    let on_device = DeviceTargets::upload(targets, samples, voxels, &Default::default());
    let (found, slope) = losses(tensor(logits, shape), &on_device, weights);
    let terms = |l: Losses| [l.cross_entropy, l.dice, l.pseudo, l.teacher, l.generalist, l.total];
    for (found, expected) in terms(found.read()).into_iter().zip(terms(expected)) {
        prop_assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{found} for {expected}");
    }
    let scale = gradient.iter().fold(f32::MIN_POSITIVE, |most, value| most.max(value.abs()));
    for (found, expected) in values(slope).iter().zip(&gradient) {
        prop_assert!((found - expected).abs() <= 1e-5 * scale, "{found} for {expected} of {scale}");
    }
    Ok(())
}

fn classes(voxels: usize) -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::of(prop::collection::vec(prop::sample::select(vec![0_u8, 1, 2, IGNORED]), voxels))
}

fn thought(values: usize) -> impl Strategy<Value = Opinion> {
    let trust = prop_oneof![1 => Just(0.0_f32), 3 => 0.0_f32..1.0];
    (prop::collection::vec(0.0_f32..1.0, values), prop::collection::vec(trust, values))
        .prop_map(|(probability, confidence)| Opinion { probability, confidence })
}

proptest! {
    #[test]
    fn terms_and_gradients_are_those_of_the_host(
        logits in prop::collection::vec(-4.0_f32..4.0, 2 * 3 * 6),
        teacher in prop::option::of(prop::collection::vec(0.0_f32..1.0, 2 * 3 * 6)),
        labels in prop::collection::vec(classes(6), 2),
        pseudo_labels in prop::collection::vec(classes(6), 2),
        certain in prop::option::of(prop::collection::vec(prop::sample::select(vec![0.0_f32, 1.0]), 2 * 6)),
        opinions in prop::collection::vec(prop::option::of(thought(2 * 6)), 2),
    ) {
        let targets = Targets { labels, pseudo_labels, teacher, certain, opinions };
        let weights = TermWeights { pseudo: 0.5, teacher: 0.7, generalist: 0.3 };
        compare(&logits, [2, 3, 6], &targets, weights)?;
    }

    #[test]
    fn pseudo_labels_are_those_of_the_host(
        levels in prop::collection::vec(-2_i8..3, 2 * 3 * 8),
        labelled in prop::collection::vec(any::<bool>(), 2),
        threshold in 0.2_f32..0.9,
    ) {
        // few levels, so that classes are often equally likely
        let logits: Vec<f32> = levels.iter().map(|level| f32::from(*level)).collect();
        let opinion = softmax_of_host(Logits { values: &logits, classes: 3, voxels: 8 });
        let labels: Vec<_> = labelled.iter().map(|labelled| labelled.then(|| vec![0; 8])).collect();
        let expected = pseudo_labels(&opinion, &labels, 3, threshold);
        let expected: Vec<f32> =
            expected.into_iter().flat_map(|sample| sample.unwrap_or(vec![IGNORED; 8])).map(f32::from).collect();
        let targets = Targets { labels, ..Targets::default() };
        let mut found = DeviceTargets::<Flex>::upload(&targets, 2, 8, &Default::default());
        found.answer(tensor(&opinion, [2, 3, 8]), Some(threshold));
        prop_assert_eq!(values(found.pseudo_labels.expect("asked for")), expected);
    }
}

/// Where the teacher is certain, in several looks, is told as the host tells it.
#[test]
fn certainty_is_that_of_the_host() {
    let (mut random, labels) = (generator(2, "test looks", &[]), vec![None, Some(vec![0; 64])]);
    let looks: Vec<Vec<f32>> = (0..3)
        .map(|_| {
            let logits: Vec<f32> = (0..2 * 3 * 64).map(|_| 2.0 * normal(&mut random)).collect();
            softmax_of_host(Logits { values: &logits, classes: 3, voxels: 64 })
        })
        .collect();
    let expected = certain(&looks, &labels, 3, 0.8);
    let targets = Targets { labels, ..Targets::default() };
    let mut found = DeviceTargets::<Flex>::upload(&targets, 2, 64, &Default::default());
    found.doubt(looks.iter().map(|look| tensor(look, [2, 3, 64])).collect(), 0.8);
    assert_eq!(values(found.certain.expect("asked for")), expected);
    assert!(expected[..64].contains(&1.0) && expected[..64].contains(&0.0) && !expected[64..].contains(&1.0));
}

/// Sums over many voxels, of logits far enough apart that probabilities vanish.
#[test]
fn large_batches_lose_no_digits() {
    let (shape, mut random) = ([2, 2, 24 * 4096], generator(1, "test logits", &[]));
    let logits: Vec<f32> = (0..shape.iter().product()).map(|_| 40.0 * normal(&mut random)).collect();
    let labels = |first: usize| Some((0..shape[2]).map(|at| u8::from((at / 31 + first).is_multiple_of(9))).collect());
    let targets = Targets { labels: vec![labels(0), labels(4)], ..Targets::default() };
    compare(&logits, shape, &targets, TermWeights::default()).expect("they agree");
}

#[test]
fn nothing_to_compare_with_is_no_loss() {
    let weights = TermWeights { pseudo: 1.0, ..TermWeights::default() };
    let ignored = Targets { labels: vec![Some(vec![IGNORED; 4]), None], ..Targets::default() };
    for targets in [Targets::default(), ignored] {
        let mut on_device = DeviceTargets::upload(&targets, 2, 4, &Default::default());
        let logits = tensor(&[0.3; 16], [2, 2, 4]);
        let (terms, gradient) = losses(logits.clone(), &on_device, weights);
        assert_eq!(terms.read(), Losses::default());
        assert!(values(gradient).iter().all(|g| *g == 0.0));
        // a teacher that is confident of nothing
        on_device.answer(softmax(logits.clone()), Some(0.9));
        let (terms, gradient) = losses(logits, &on_device, weights);
        assert_eq!(terms.read().total, 0.0);
        assert!(values(gradient).iter().all(|g| *g == 0.0));
    }
}
