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
            train(Device::Cpu, &run, start(&run), (&labelled, &unlabelled), &AtomicBool::new(false), &mut |r, _| {
                losses.push(r.losses.cross_entropy + r.losses.dice);
            });
        assert_eq!(state.expect("they fit").step, 60);
        assert!(losses[59] < 0.3 * losses[0], "{method:?}: {} to {}", losses[0], losses[59]);
    }
}

#[test]
fn an_interrupted_run_ends_in_the_same_bits() {
    let (labelled, unlabelled) = scans();
    let run = run(Method::MeanTeacher, 6);
    let whole =
        train(Device::Cpu, &run, start(&run), (&labelled, &unlabelled), &AtomicBool::new(false), &mut |_, _| {})
            .expect("they fit");
    let cancel = AtomicBool::new(false);
    let half = train(Device::Cpu, &run, start(&run), (&labelled, &unlabelled), &cancel, &mut |report, _| {
        cancel.store(report.step == 3, Ordering::Relaxed);
    })
    .expect("they fit");
    assert_eq!(half.step, 3);
    let saved = State::from_bytes(&half.to_bytes().expect("bytes"), &run).expect("its own settings");
    let rest = train(Device::Cpu, &run, saved, (&labelled, &unlabelled), &AtomicBool::new(false), &mut |_, _| {})
        .expect("they fit");
    assert!(rest == whole);
    let other = LocalRun { seed: 4, ..run };
    assert!(matches!(State::from_bytes(&half.to_bytes().expect("bytes"), &other), Err(StateError::Settings)));
    assert!(State::from_bytes(b"nothing of the kind", &other).is_err());
}

#[test]
fn what_cannot_be_trained_on_is_named() {
    let run = run(Method::Supervised, 1);
    let error = train(Device::Cpu, &run, start(&run), (&[], &[scan(1)]), &AtomicBool::new(false), &mut |_, _| {})
        .err()
        .expect("no labels");
    assert!(error.to_string().contains("no scan has labels"), "{error}");
}
