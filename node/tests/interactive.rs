//! Training of the small generalist goes on after an interruption to the same bits, for any number of threads.
//!
//! A program of its own: beside other tests that train in the same process, gradients were seen to part in their last bits
//! (burn's autodiff keeps the graphs of all threads in one place), and the claim is about a program that trains one network.

use std::sync::atomic::{AtomicBool, Ordering};

use semisam_node::{
    data::volume::Volume,
    device::Device,
    model::prompt_unet::PromptUNetConfig,
    train::{
        crops::PreparedScan,
        generator,
        interactive::{InteractiveRun, State, gradient::ExampleLosses, train},
        normal,
    },
};

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
