use burn::backend::{Autodiff, Flex};

use super::*;
use crate::data::volume::Volume;

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

fn scans() -> (Vec<PreparedScan>, Vec<PreparedScan>) {
    ((0..2).map(scan).collect(), (2..5).map(|seed| PreparedScan { labels: None, ..scan(seed) }).collect())
}

#[test]
fn a_student_learns_a_ball() {
    let (labelled, unlabelled) = scans();
    for method in [Method::Supervised, Method::MeanTeacher] {
        let run = LocalRun { dropout: false, ..run(method, 60) };
        let mut losses = Vec::new();
        let state =
            train(Device::Cpu, &run, start(&run), (&labelled, &unlabelled), &AtomicBool::new(false), &mut |r| {
                losses.push(r.losses().cross_entropy + r.losses().dice);
            });
        assert_eq!(state.expect("they fit").step, 60);
        assert!(losses[59] < 0.3 * losses[0], "{method:?}: {} to {}", losses[0], losses[59]);
    }
}

#[test]
fn an_interrupted_run_ends_in_the_same_bits() {
    let (labelled, unlabelled) = scans();
    let run = run(Method::MeanTeacher, 6);
    let whole = train(Device::Cpu, &run, start(&run), (&labelled, &unlabelled), &AtomicBool::new(false), &mut |_| {})
        .expect("they fit");
    let cancel = AtomicBool::new(false);
    let half = train(Device::Cpu, &run, start(&run), (&labelled, &unlabelled), &cancel, &mut |report| {
        cancel.store(report.step == 3, Ordering::Relaxed);
    })
    .expect("they fit");
    assert_eq!(half.step, 3);
    let saved = State::from_bytes(&half.to_bytes().expect("bytes"), &run).expect("its own settings");
    let rest = train(Device::Cpu, &run, saved, (&labelled, &unlabelled), &AtomicBool::new(false), &mut |_| {})
        .expect("they fit");
    assert!(rest == whole);
    let other = LocalRun { seed: 4, ..run };
    assert!(matches!(State::from_bytes(&half.to_bytes().expect("bytes"), &other), Err(StateError::Settings)));
    assert!(State::from_bytes(b"nothing of the kind", &other).is_err());
}

#[test]
fn what_cannot_be_trained_on_is_named() {
    let run = run(Method::Supervised, 1);
    let error = train(Device::Cpu, &run, start(&run), (&[], &[scan(1)]), &AtomicBool::new(false), &mut |_| {})
        .err()
        .expect("no labels");
    assert!(error.to_string().contains("no scan has labels"), "{error}");
}

/// The whole loop with weights, optimiser and losses on the device.
#[test]
fn a_resident_run_trains_as_the_hosts_does_and_can_be_interrupted() {
    let (labelled, unlabelled) = scans();
    let run = run(Method::MeanTeacher, 10);
    let go = |placement, state: State, stop: u64| {
        let (cancel, mut losses) = (AtomicBool::new(false), Vec::new());
        let state = Training {
            run: &run,
            state,
            labelled: &labelled,
            unlabelled: &unlabelled,
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
