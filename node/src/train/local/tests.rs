use burn::backend::{Autodiff, Flex};

use super::*;
use crate::{
    data::{grid::Grid, volume::Volume},
    train::{crops::PreparedScan, generator, trainer::Step},
};

/// A bright ball of which the noise leaves little doubt.
fn scan(seed: u64) -> PreparedScan {
    let shape = [16, 16, 16];
    let affine = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
    let mut random = generator(seed, "test scan", &[]);
    let labels: Vec<u8> = (0..4096_usize)
        .map(|at| {
            let distance = [at / 256, at / 16 % 16, at % 16].map(|i| i.abs_diff(8).pow(2)).iter().sum::<usize>();
            u8::from(distance < 25)
        })
        .collect();
    let image = labels.iter().map(|label| 2.0 * f32::from(*label) + 0.3 * super::super::normal(&mut random)).collect();
    PreparedScan {
        image: Volume { shape, affine, values: image },
        labels: Some(Volume { shape, affine, values: labels }),
    }
}

fn run(method: Method, steps: u64) -> LocalRun {
    let config = VNetConfig::binary(2);
    LocalRun { learning_rate: 0.05, dropout: true, ..LocalRun::new(config, method, [16, 16, 16], steps, 3) }
}

fn start(run: &LocalRun) -> State {
    State::new(run, &layout::initial(&run.config, 1))
}

/// Two with labels, three without.
fn scans() -> ScanSet {
    let unlabelled = (2..5).map(|seed| PreparedScan { labels: None, ..scan(seed) });
    ScanSet::in_memory((0..2).map(scan).chain(unlabelled))
}

#[test]
fn a_student_learns_a_ball() {
    let scans = scans();
    for method in [Method::Supervised, Method::MeanTeacher] {
        let run = LocalRun { dropout: false, ..run(method, 60) };
        let mut losses = Vec::new();
        let state = train(Device::Cpu, &run, start(&run), &scans, &AtomicBool::new(false), &mut |r| {
            losses.push(r.losses().cross_entropy + r.losses().dice);
        });
        assert_eq!(state.expect("they fit").step, 60);
        assert!(losses[59] < 0.3 * losses[0], "{method:?}: {} to {}", losses[0], losses[59]);
    }
}

#[test]
fn an_interrupted_run_ends_in_the_same_bits() {
    let scans = scans();
    let run = run(Method::MeanTeacher, 6);
    let whole = train(Device::Cpu, &run, start(&run), &scans, &AtomicBool::new(false), &mut |_| {}).expect("they fit");
    let cancel = AtomicBool::new(false);
    let half = train(Device::Cpu, &run, start(&run), &scans, &cancel, &mut |report| {
        cancel.store(report.step == 3, Ordering::Relaxed);
    })
    .expect("they fit");
    assert_eq!(half.step, 3);
    let saved = State::from_bytes(&half.to_bytes().expect("bytes"), &run).expect("its own settings");
    let rest = train(Device::Cpu, &run, saved, &scans, &AtomicBool::new(false), &mut |_| {}).expect("they fit");
    assert!(rest == whole);
    let other = LocalRun { seed: 4, ..run };
    assert!(matches!(State::from_bytes(&half.to_bytes().expect("bytes"), &other), Err(StateError::Settings)));
    assert!(State::from_bytes(b"nothing of the kind", &other).is_err());
}

#[test]
fn what_cannot_be_trained_on_is_named() {
    let run = run(Method::Supervised, 1);
    let error = train(
        Device::Cpu,
        &run,
        start(&run),
        &ScanSet::in_memory([PreparedScan { labels: None, ..scan(1) }]),
        &AtomicBool::new(false),
        &mut |_| {},
    )
    .err()
    .expect("no labels");
    assert!(error.to_string().contains("no scan has labels"), "{error}");
}

/// The whole loop with weights, optimiser and losses on the device.
#[test]
fn a_resident_run_trains_as_the_hosts_does_and_can_be_interrupted() {
    let scans = scans();
    let run = run(Method::MeanTeacher, 10);
    let go = |placement, state: State, stop: u64| {
        let (cancel, mut losses) = (AtomicBool::new(false), Vec::new());
        let state = Training {
            run: &run,
            state,
            scans: &scans,
            guides: None,
            pseudo_labels: &PseudoLabels::NONE,
            cancel: &cancel,
            each: &mut |report| {
                losses.push(report.losses().total);
                assert_eq!(report.state().step, report.step);
                cancel.store(report.step == stop, Ordering::Relaxed);
            },
            placement: Some(placement),
        };
        (state.run::<Autodiff<Flex>>(&Default::default()).expect("they fit"), losses)
    };
    let (host, expected) = go(Placement::Host, start(&run), 10);
    let (resident, found) = go(Placement::Resident, start(&run), 10);
    assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-3), "{found:?} for {expected:?}");
    assert!(found.len() == 10 && resident.step == 10 && resident != host);
    let pairs = resident.parameters.student.iter().zip(&host.parameters.student);
    let apart: f32 = pairs.map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
    let moved = host.parameters.student.iter().zip(start(&run).parameters.student).map(|(a, b)| (a - b).powi(2));
    assert!(apart < 1e-2 * moved.sum::<f32>().sqrt(), "{apart}");
    let (half, _) = go(Placement::Resident, start(&run), 4);
    let saved = State::from_bytes(&half.to_bytes().expect("bytes"), &run).expect("its own settings");
    assert!(go(Placement::Resident, saved, 10).0 == resident);
}

/// Voxels that tell where they come from, and labels in few places.
fn numbered(shape: [usize; 3], labelled: bool) -> PreparedScan {
    let count = shape.iter().product::<usize>();
    let Grid { shape, affine } = Grid::centred(shape, [1.0; 3]);
    let labels = Volume { shape, affine, values: (0..count).map(|at| u8::from(at % 1009 == 3)).collect() };
    let values = (0..count).map(|at| (at % 251) as f32).collect();
    PreparedScan { image: Volume { shape, affine, values }, labels: labelled.then_some(labels) }
}

/// What student and teacher see, and the labels.
fn digest_of_steps(steps: impl Iterator<Item = Step>) -> String {
    let mut hash = Sha256::new();
    for step in steps {
        let question = step.question.expect("a teacher");
        step.batch.images.iter().chain(&question.batch.images).for_each(|value| hash.update(value.to_le_bytes()));
        for labels in &step.targets.labels {
            hash.update([u8::from(labels.is_some())]);
            hash.update(labels.as_deref().unwrap_or_default());
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digest was computed by the program that made each step when the training asked for it.
#[test]
fn steps_made_ahead_are_those_that_were_made_in_between() {
    let labelled = [[20, 18, 17], [12, 24, 16], [19, 19, 33]].map(|shape| numbered(shape, true));
    let unlabelled = [[22, 17, 16], [16, 30, 21]].map(|shape| numbered(shape, false));
    let scans = ScanSet::in_memory(labelled.into_iter().chain(unlabelled));
    let run = LocalRun { noise: 0.0, dropout: false, labelled: 2, ..run(Method::MeanTeacher, 12) };
    let steps = Steps::new(&run, &scans);
    let step = |number| steps.step(number).expect("all are in memory");
    let expected = "2e3ca75bca16c94c50152bff8b1a0163fb7d931533fbe9e0c8bb8a58b2c6ee11";
    assert_eq!(digest_of_steps((0..12).map(step)), expected);
    for most in [0, 1, 20] {
        assert_eq!(ahead(most, (0..12).map(step), |steps| digest_of_steps(steps)), expected);
    }
}

#[test]
fn a_run_on_steps_made_ahead_ends_in_the_bits_of_one_without() {
    let (run, scans) = (LocalRun { augment: true, ..run(Method::MeanTeacher, 5) }, scans());
    let found = train(Device::Cpu, &run, start(&run), &scans, &AtomicBool::new(false), &mut |_| {}).expect("they fit");
    let optimiser = Optimiser { momentum: run.momentum, weight_decay: run.weight_decay };
    let parameters = start(&run).parameters;
    let trainer = Trainer::<Autodiff<Flex>>::new(None, run.config, parameters, optimiser, &Default::default());
    let (mut trainer, steps) = (trainer.expect("they fit"), Steps::new(&run, &scans));
    for number in 0..5 {
        trainer.step(steps.step(number).expect("in memory")).expect("they fit");
    }
    assert!(found.parameters == trainer.parameters());
}

#[test]
fn waiting_is_a_part_of_the_time() {
    let (run, scans, mut last) = (run(Method::MeanTeacher, 3), scans(), 0.0);
    train(Device::Cpu, &run, start(&run), &scans, &AtomicBool::new(false), &mut |report| {
        assert!(report.waited > last && report.waited < report.seconds, "{} of {}", report.waited, report.seconds);
        last = report.waited;
    })
    .expect("they fit");
}

fn generalists() -> Vec<Generalist> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/sam_med3d/sam_med3d_tiny.pth");
    vec![Generalist::open(file.as_ref(), Device::Cpu).expect("a fixture")]
}

/// A run that takes whatever the random network of the fixture draws, soon and often.
fn guided(method: Method, steps: u64) -> LocalRun {
    let mut run = LocalRun { augment: true, noise: 0.0, dropout: false, ..run(method, steps) };
    let how = run.guidance.as_mut().expect("a guided method");
    (how.agreement, how.consensus) = (0.0, 0.0);
    (how.prompting.confidence, how.every, how.weight) = (0.5, 2, 1.0);
    run
}

/// From a student that sees something already.
fn learnt(run: &LocalRun, scans: &ScanSet) -> State {
    let first = LocalRun { steps: 40, guidance: None, method: Method::Supervised, ..run.clone() };
    let never = AtomicBool::new(false);
    let state = train(Device::Cpu, &first, start(&first), scans, &never, &mut |_| {}).expect("they fit");
    State::new(run, &state.student(&first))
}

fn go(run: &LocalRun, state: State, scans: &ScanSet, stop: u64) -> (State, Vec<Losses>) {
    let (cancel, mut losses) = (AtomicBool::new(false), Vec::new());
    let aid = Aid { generalists: &generalists(), ..Aid::default() };
    let state = train_guided(Device::Cpu, run, state, scans, aid, &cancel, &mut |report| {
        losses.push(report.losses());
        assert!(report.asked <= report.seconds);
        cancel.store(report.step == stop, Ordering::Relaxed);
    });
    (state.expect("they fit"), losses)
}

/// spec/semisam.md, E3: the branch has a value and moves the student. Its maps survive an interruption bit for bit.
#[test]
fn e03_generalists_move_the_student_and_an_interrupted_run_ends_in_the_same_bits() {
    let scans = scans();
    for method in [Method::Semisam, Method::SemisamPlus] {
        let run = guided(method, 14);
        let (whole, losses) = go(&run, learnt(&run, &scans), &scans, 14);
        assert!(losses.iter().any(|losses| losses.generalist > 1e-3) && !whole.maps.is_empty(), "{method:?}");
        let mut idle = run.clone();
        idle.guidance.as_mut().expect("guided").weight = 0.0;
        let (without, _) = go(&idle, learnt(&idle, &scans), &scans, 14);
        assert!(whole.parameters.student != without.parameters.student, "{method:?}");
        let (half, _) = go(&run, learnt(&run, &scans), &scans, 7);
        assert!(half.step == 7 && !half.maps.is_empty(), "{method:?}");
        let saved = State::from_bytes(&half.to_bytes().expect("bytes"), &run).expect("its own settings");
        assert!(go(&run, saved, &scans, 14).0 == whole, "{method:?}");
    }
}

#[test]
fn scans_about_which_nobody_has_anything_to_say_are_asked_about_no_more_often_than_others() {
    let scans = scans();
    let mut run = guided(Method::Semisam, 9 * scans.positions(false).len() as u64);
    let how = run.guidance.as_mut().expect("guided");
    (how.agreement, how.every) = (1.0, 4);
    let (state, losses) = go(&run, learnt(&run, &scans), &scans, run.steps - 1);
    let kept: Vec<_> = state.maps.values().collect();
    // each was drawn nine times or is about to be
    assert_eq!(kept.len(), scans.positions(false).len());
    assert!(kept.iter().all(|known| known.maps.is_none() && [4, 8].contains(&known.drawn)));
    assert!(losses.iter().all(|losses| losses.generalist == 0.0));
    assert!(State::from_bytes(&state.to_bytes().expect("bytes"), &run).expect("its own settings") == state);
    // where nobody could be asked yet, the next draw is soon enough
    run.guidance.as_mut().expect("guided").prompting.confidence = 1.0;
    assert!(go(&run, learnt(&run, &scans), &scans, run.steps - 1).0.maps.is_empty());
}

/// spec/semisam.md, E1 and E2: what a scan without labels is shown as says nothing of its labels.
#[test]
fn e01_labels_of_unlabelled_scans_change_no_bit() {
    let run = guided(Method::SemisamPlus, 8);
    let with = |noise: u8| {
        // the label is taken away as a caller declares it; what it held can be anything
        let unlabelled = (2..5).map(|seed| {
            let mut scan = scan(seed);
            scan.labels.as_mut().expect("a label").values.iter_mut().for_each(|label| *label ^= noise);
            PreparedScan { labels: None, ..scan }
        });
        let scans = ScanSet::in_memory((0..2).map(scan).chain(unlabelled));
        go(&run, learnt(&run, &scans), &scans, 8).0
    };
    assert!(with(0) == with(1));
}

#[test]
fn ua_mt_trains_and_counts_the_teacher_only_where_it_is_certain() {
    let scans = scans();
    let of = |method| {
        let run = LocalRun { dropout: false, ..run(method, 40) };
        let never = AtomicBool::new(false);
        let mut losses = Vec::new();
        train(Device::Cpu, &run, start(&run), &scans, &never, &mut |report| losses.push(report.losses()))
            .expect("they fit");
        losses
    };
    let (ua_mt, plain) = (of(Method::UaMt), of(Method::MeanTeacher));
    // where it is certain it differs from the student otherwise than elsewhere
    assert!(ua_mt.iter().zip(&plain).all(|(some, all)| some.teacher != all.teacher && some.teacher.is_finite()));
    assert!(ua_mt[39].teacher > 0.0 && ua_mt[39].cross_entropy < 0.6 * ua_mt[0].cross_entropy);
}

/// spec/semisam.md, E13: every scan without labels is drawn as often as any other, however many there are.
#[test]
fn e13_counts_are_those_of_the_scans() {
    for unlabelled in [1_usize, 3, 7] {
        let scans = ScanSet::in_memory(
            (0..2).map(scan).chain((0..unlabelled as u64).map(|seed| PreparedScan { labels: None, ..scan(seed) })),
        );
        let run = LocalRun { unlabelled: 2, ..run(Method::MeanTeacher, 50) };
        let steps = Steps::new(&run, &scans);
        let mut drawn = vec![0; 2 + unlabelled];
        let rounds = 3 * unlabelled as u64;
        for draw in (0..rounds).flat_map(|number| steps.unlabelled(number)) {
            assert_eq!(draw.before, drawn[draw.scan]);
            drawn[draw.scan] += 1;
        }
        assert_eq!(drawn, [vec![0, 0], vec![6; unlabelled]].concat());
    }
}

#[test]
fn a_method_that_asks_a_generalist_needs_one() {
    let (run, scans) = (run(Method::Semisam, 1), scans());
    let error = train(Device::Cpu, &run, start(&run), &scans, &AtomicBool::new(false), &mut |_| {}).err();
    assert!(error.expect("none").to_string().contains("generalist"));
}

#[test]
fn damaged_maps_are_no_state() {
    let (run, scans) = (guided(Method::Semisam, 6), scans());
    let (state, _) = go(&run, learnt(&run, &scans), &scans, 6);
    let file = Weights::from_safetensors(&state.to_bytes().expect("bytes")).expect("tensors");
    let read = |change: &dyn Fn(&str, &mut Tensor) -> bool| {
        let tensors = file.iter().filter_map(|(name, tensor)| {
            let mut tensor = tensor.clone();
            change(name, &mut tensor).then(|| (name.to_owned(), tensor))
        });
        State::from_bytes(&Weights::new(tensors).expect("shapes fit").to_safetensors().expect("bytes"), &run)
    };
    assert!(read(&|_, _| true).is_ok_and(|read| read == state));
    let is_map = |name: &str| name.starts_with("maps.") && !name.ends_with("drawn") && !name.ends_with("weight");
    assert!(read(&|name, _| !is_map(name)).is_err());
    assert!(read(&|name, _| !name.ends_with(".drawn")).is_err());
    for damaged in [f32::NAN, -1.0, 0.0, 1.5] {
        let change = |name: &str, tensor: &mut Tensor| {
            tensor
                .values
                .iter_mut()
                .filter(|_| name.ends_with(".weight") && name.starts_with("maps."))
                .for_each(|value| *value = damaged);
            true
        };
        assert!(read(&change).is_err(), "{damaged}");
    }
    assert!(read(&|name, _| !(name.starts_with("maps.") && name.ends_with(".weight"))).is_err());
    assert!(
        read(&|name, tensor| {
            if is_map(name) {
                tensor.values[5] = 0.5;
            }
            true
        })
        .is_err()
    );
}
