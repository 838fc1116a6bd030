use semisam_shared::weights::Weights;

use super::*;
use crate::{data::volume::Volume, train::normal};

const SHAPE: [usize; 3] = [24, 16, 16];

/// Two balls of different brightness in noise.
fn synthesise(number: u64) -> PreparedScan {
    let affine = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
    let mut random = generator(number, "test scan", &[]);
    let label = |at: usize| {
        let near = |x: usize| {
            let squares = [(at / 256, x), (at / 16 % 16, 8), (at % 16, 8)].map(|(a, b)| a.abs_diff(b).pow(2));
            squares.iter().sum::<usize>() < 16
        };
        if near(6) { 1 } else { 2 * u8::from(near(17)) }
    };
    let labels: Vec<u8> = (0..SHAPE.iter().product()).map(label).collect();
    let image = labels.iter().map(|label| [0.0, 1.5, -1.5][usize::from(*label)] + 0.3 * normal(&mut random)).collect();
    PreparedScan {
        image: Volume { shape: SHAPE, affine, values: image },
        labels: Some(Volume { shape: SHAPE, affine, values: labels }),
    }
}

fn run(steps: u64) -> InteractiveRun {
    let config = PromptUNetConfig { widths: [4, 4, 8, 8] };
    let run = InteractiveRun::new(config, "balls".to_owned(), SHAPE, steps, 3);
    InteractiveRun { pool: 3, visits: 2, warmup: 5, learning_rate: 5e-3, ..run }
}

fn go(run: &InteractiveRun, state: State, stop: u64) -> (State, Vec<ExampleLosses>) {
    let (cancel, mut losses) = (AtomicBool::new(false), Vec::new());
    let state = train(Device::Cpu, run, state, &synthesise, &cancel, &mut |report| {
        losses.extend(report.losses);
        cancel.store(report.step == stop, Ordering::Relaxed);
    });
    (state.expect("they fit"), losses)
}

#[test]
fn an_interrupted_run_ends_in_the_same_bits_whatever_the_threads() {
    // the interruption is in the middle of a pool
    let run = run(7);
    let (whole, losses) = go(&run, State::new(&run), 7);
    let (half, first) = go(&run, State::new(&run), 4);
    assert_eq!(half.step, 4);
    let saved = State::from_bytes(&half.to_bytes().expect("bytes"), &run).expect("its own settings");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
    let (rest, last) = pool.install(|| go(&run, saved, 7));
    assert_eq!([first, last].concat(), losses);
    assert!(rest == whole);
    assert!(whole.result(&run).iter().all(|(_, tensor)| tensor.values.iter().all(|value| value.is_finite())));
}

#[test]
fn a_network_learns_to_follow_prompts() {
    let run = run(60);
    let (state, losses) = go(&run, State::new(&run), 60);
    let mean =
        |part: &[ExampleLosses], of: fn(&ExampleLosses) -> f64| part.iter().map(of).sum::<f64>() / part.len() as f64;
    let (early, late) = (&losses[..20], &losses[100..]);
    let totals = [early, late].map(|part| mean(part, |l| l.last.total));
    assert!(totals[1] < 0.7 * totals[0], "{totals:?}");
    assert!(mean(late, |l| l.last.overlap) > 0.75, "{}", mean(late, |l| l.last.overlap));
    let result = state.result(&run);
    let calibration = calibration::calibrate(Device::Cpu, &run, &result, 4, &synthesise).expect("they fit");
    assert!(calibration.after <= calibration.before && calibration.temperature > 0.2, "{calibration:?}");
}

#[test]
fn a_state_of_another_run_is_refused_by_name() {
    let run = run(7);
    let bytes = State::new(&run).to_bytes().expect("bytes");
    for other in
        [InteractiveRun { seed: 4, ..run.clone() }, InteractiveRun { stream: "cubes".to_owned(), ..run.clone() }]
    {
        assert!(matches!(State::from_bytes(&bytes, &other), Err(StateError::Settings)));
    }
    assert!(matches!(State::from_bytes(&bytes[..bytes.len() - 4], &run), Err(StateError::Format(_))));
    assert!(matches!(State::from_bytes(b"nothing of the kind", &run), Err(StateError::Format(_))));
    let nothing = Weights::default().to_safetensors().expect("bytes");
    assert!(matches!(State::from_bytes(&nothing, &run), Err(StateError::Damaged)));
}

#[test]
fn what_cannot_be_trained_on_is_named() {
    let attempt = |run: &InteractiveRun, synthesise: Synthesise<'_>| {
        let cancel = AtomicBool::new(false);
        let state = State::new(&super::tests::run(7));
        let found = train(Device::Cpu, run, state, synthesise, &cancel, &mut |_| {});
        found.expect_err("impossible").to_string()
    };
    let run = run(7);
    assert!(attempt(&InteractiveRun { visits: 0, ..run.clone() }, &synthesise).contains("`visits`"));
    assert!(attempt(&InteractiveRun { patch: [24, 12, 16], ..run.clone() }, &synthesise).contains("[24, 12, 16]"));
    let unlabelled = |number: u64| PreparedScan { labels: None, ..synthesise(number) };
    assert!(attempt(&run, &unlabelled).contains("3 synthetic scans"));
}
