use burn::backend::{Autodiff, Flex};

use super::*;
use crate::{
    model::layout,
    train::{
        generator,
        losses::{IGNORED, Opinion},
        normal,
    },
};

const PATCH: [usize; 3] = [16, 32, 16];
const OPTIMISER: Optimiser = Optimiser { momentum: 0.9, weight_decay: 1e-4 };

fn config() -> VNetConfig {
    VNetConfig { groups: 2, ..VNetConfig::binary(4) }
}

fn run(placement: Placement, optimiser: Optimiser) -> Trainer<Autodiff<Flex>> {
    let parameters = Parameters::at(&layout::initial(&config(), 3));
    Trainer::new(Some(placement), config(), parameters, optimiser, &Default::default()).expect("its own weights")
}

/// Three samples: labels with some voxels ignored, nothing, a generalist's mask.
fn step(number: u64) -> Step {
    let mut random = generator(number, "test step", &[]);
    let voxels = PATCH.iter().product::<usize>();
    let batch =
        |random: &mut _| Batch { images: (0..3 * voxels).map(|_| normal(random)).collect(), samples: 3, patch: PATCH };
    let (seen, noisy) = (batch(&mut random), batch(&mut random));
    let classes = |first: usize| (0..voxels).map(|at| [0, 1, 0, 0, 1, IGNORED][(first + at / 7) % 6]).collect();
    let probability: Vec<f32> = (0..voxels).map(|at| (at % 5) as f32 / 4.0).collect();
    let mask = Opinion { confidence: (0..voxels).map(|at| (at % 3) as f32 / 2.0).collect(), probability };
    let targets = Targets {
        labels: vec![Some(classes(number as usize)), None, None],
        opinions: vec![None, None, Some(mask)],
        ..Targets::default()
    };
    // in one step the teacher only counts where it is certain: over many, rounding carries voxels across the threshold
    let looks = (0..2).map(|look| (batch(&mut random), Some(number ^ look))).collect();
    let doubt = (number == 2).then_some(Doubt { looks, most: 0.6 });
    Step {
        batch: seen,
        targets,
        question: Some(Question { batch: noisy, dropout: Some(number ^ 7), confidence: Some(0.6), doubt }),
        terms: TermWeights { pseudo: 0.7, teacher: 0.5, generalist: 0.3 },
        dropout: Some(number),
        learning_rate: 0.02,
        average: Some(number),
    }
}

/// The largest difference within a layer, relative to the layer's largest value; over all layers the largest.
fn deviation(found: &[f32], expected: &[f32]) -> f32 {
    let weights = layout::blank(&config());
    let ranges = weights.flat_ranges();
    let largest =
        |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, |a: f32, b| if b > a || b.is_nan() { b } else { a });
    let of_layer = |name: &str| {
        let layer = |name: &str| name.rsplit_once('.').map(|(layer, _)| layer.to_owned());
        let places =
            || ranges.iter().filter(|(other, _)| layer(other) == layer(name)).flat_map(|(_, range)| range.clone());
        let scale = largest(&mut places().map(|at| expected[at].abs())).max(f32::MIN_POSITIVE);
        largest(&mut places().map(|at| (found[at] - expected[at]).abs())) / scale
    };
    largest(&mut ranges.iter().map(|(name, _)| of_layer(name)))
}

fn assert_losses(found: Losses, expected: Losses, tolerance: f64) {
    let terms = |l: Losses| [l.cross_entropy, l.dice, l.pseudo, l.teacher, l.generalist, l.total];
    for (found, expected) in terms(found).into_iter().zip(terms(expected)) {
        assert!((found - expected).abs() <= tolerance, "{found} for {expected}");
    }
}

/// Without momentum and decay the velocity after a step is its gradient.
#[test]
fn losses_and_gradients_are_those_of_the_host() {
    let plain = Optimiser { momentum: 0.0, weight_decay: 0.0 };
    let (mut host, mut resident) = (run(Placement::Host, plain), run(Placement::Resident, plain));
    assert_eq!(resident.losses(), Losses::default());
    host.step(step(2)).expect("it fits");
    resident.step(step(2)).expect("it fits");
    let expected = host.losses();
    for term in [expected.cross_entropy, expected.dice, expected.pseudo, expected.teacher, expected.generalist] {
        assert!(term > 1e-3, "every term takes part: {expected:?}");
    }
    assert_losses(resident.losses(), expected, 1e-5);
    let found = deviation(&resident.parameters().velocity, &host.parameters().velocity);
    assert!(found <= 1e-4, "{found}");
}

/// Each step from the same place: over many, a ReLU that one rounding turns the other way would part the runs for good.
#[test]
fn ten_steps_are_those_of_the_host() {
    let mut host = run(Placement::Host, OPTIMISER);
    for number in 0..10 {
        let (place, device) = (Some(Placement::Resident), Default::default());
        let mut resident = Trainer::<Autodiff<Flex>>::new(place, config(), host.parameters(), OPTIMISER, &device)
            .expect("the host's own parameters");
        host.step(step(number)).expect("it fits");
        resident.step(step(number)).expect("it fits");
        assert_losses(resident.losses(), host.losses(), 1e-5);
        let (found, expected) = (resident.parameters(), host.parameters());
        for (found, expected) in [
            (&found.student, &expected.student),
            (&found.teacher, &expected.teacher),
            (&found.velocity, &expected.velocity),
        ] {
            let found = deviation(found, expected);
            assert!(found <= 1e-4, "step {number}: {found}");
        }
        assert!(resident.student() == found.student);
    }
}

#[test]
fn a_clone_is_a_run_of_its_own() {
    for placement in [Placement::Host, Placement::Resident] {
        let fresh = run(placement, OPTIMISER);
        let go = |first: u64| {
            let mut trainer = fresh.clone();
            (first..first + 2).for_each(|number| trainer.step(step(number)).expect("it fits"));
            trainer.parameters()
        };
        let (a, b) = (go(0), go(5));
        assert!(a != b && a == go(0), "{placement:?}");
        assert!(fresh.parameters() == Parameters::at(&layout::initial(&config(), 3)), "{placement:?}");
    }
}

#[test]
fn a_run_goes_on_from_its_parameters() {
    for placement in [Placement::Host, Placement::Resident] {
        let mut whole = run(placement, OPTIMISER);
        (0..2).for_each(|number| whole.step(step(number)).expect("it fits"));
        let mut rest = Trainer::<Autodiff<Flex>>::new(
            Some(placement),
            config(),
            whole.parameters(),
            OPTIMISER,
            &Default::default(),
        )
        .expect("its own parameters");
        whole.step(step(2)).expect("it fits");
        rest.step(step(2)).expect("it fits");
        assert!(rest.parameters() == whole.parameters(), "{placement:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    for placement in [Placement::Host, Placement::Resident] {
        let mut parameters = Parameters::at(&layout::initial(&config(), 3));
        parameters.student.pop();
        let found =
            Trainer::<Autodiff<Flex>>::new(Some(placement), config(), parameters, OPTIMISER, &Default::default());
        assert!(matches!(found, Err(TrainError::Model(_))), "{placement:?}");
        let odd = Batch { images: vec![0.0; 8 * 16 * 16], samples: 1, patch: [8, 16, 16] };
        let odd = Step { batch: odd, targets: Targets::default(), question: None, dropout: None, ..step(0) };
        assert!(run(placement, OPTIMISER).step(odd).expect_err("a side of 8").to_string().contains("multiples of 16"));
    }
}
