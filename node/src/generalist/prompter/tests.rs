use std::path::Path;

use super::*;
use crate::{
    data::volume::Image,
    device::Device,
    generalist::view::View,
    train::{generator, normal},
};

fn checkpoint() -> std::path::PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/sam_med3d/sam_med3d_tiny.pth")).into()
}

fn tiny() -> Generalist {
    Generalist::open(&checkpoint(), Device::Cpu).expect("a fixture")
}

/// A bright ball off the middle of 30 x 24 x 20 voxels of 2.5 mm, in noise.
fn scan(seed: u64) -> (Image, Vec<bool>) {
    let grid = Grid::centred([30, 24, 20], [2.5; 3]);
    let mut random = generator(seed, "test scan", &[]);
    let inside: Vec<bool> = (0..grid.count())
        .map(|at| {
            let place = [at / 480, at / 20 % 24, at % 20];
            place.iter().zip([11 + seed as usize % 5, 13, 9]).map(|(i, c)| i.abs_diff(c).pow(2)).sum::<usize>() < 36
        })
        .collect();
    let values = inside.iter().map(|inside| 5.0 + 3.0 * f32::from(u8::from(*inside)) + 0.5 * normal(&mut random));
    let values = values.collect();
    (Image { shape: grid.shape, affine: grid.affine, values }, inside)
}

fn belief(image: &Image, inside: &[bool]) -> Belief {
    let foreground: Vec<f32> = inside.iter().map(|inside| if *inside { 0.95 } else { 0.04 }).collect();
    let softmax: Vec<f32> = foreground.iter().map(|p| 1.0 - p).chain(foreground.iter().copied()).collect();
    Belief::of_class(&softmax, 1, &Grid::from(image))
}

fn embedding(generalist: &Generalist, image: &Image) -> Embedding {
    generalist.embed(&generalist.network().view(image, None).expect("a view")).expect("its own size")
}

const KINDS: [Kind; 3] = [Kind::Point, Kind::Mask, Kind::Both];

/// Conversations have no memory: asked in any order, each scan gets its own answer.
#[test]
fn e04_permuting_scans_permutes_their_answers() {
    let generalist = tiny();
    let scans: Vec<_> = (0..3).map(scan).collect();
    let embeddings: Vec<_> = scans.iter().map(|(image, _)| embedding(&generalist, image)).collect();
    for kind in KINDS {
        let how = Prompting { corrections: 3, history: History::Newest, ..Prompting::default() };
        let of = |number: usize| {
            let belief = belief(&scans[number].0, &scans[number].1);
            let random = &mut generator(1, "test prompts", &[number as u64]);
            ask(&generalist, &embeddings[number], &belief, (kind, &how), random).expect("it fits").expect("an object")
        };
        let forwards: Vec<Answer> = (0..3).map(of).collect();
        let backwards: Vec<Answer> = (0..3).rev().map(of).collect();
        assert!(forwards.iter().eq(backwards.iter().rev()), "{kind:?}");
        assert!(forwards[0].logits != forwards[1].logits, "{kind:?}");
    }
}

#[test]
fn e07_a_logit_of_zero_is_background_and_any_above_is_object() {
    let logits = vec![-1.0, 0.0, f32::MIN_POSITIVE, 0.3, 2.0, 2.0];
    let answer = Answer { logits, seen: vec![true, true, true, true, true, false] };
    assert_eq!(answer.mask(), [false, false, true, true, true, false]);
}

#[test]
fn e10_an_empty_or_full_belief_asks_nothing() {
    let generalist = tiny();
    let (image, inside) = scan(1);
    let embedding = embedding(&generalist, &image);
    let asked = |belief: &Belief, how: &Prompting| {
        KINDS.map(|kind| {
            ask(&generalist, &embedding, belief, (kind, how), &mut generator(1, "test", &[])).expect("it fits")
        })
    };
    let how = Prompting::default();
    for everywhere in [false, true] {
        let belief = belief(&image, &vec![everywhere; inside.len()]);
        assert!(asked(&belief, &how).iter().all(Option::is_none), "{everywhere}");
    }
    let unsure = Prompting { confidence: 0.99, ..how };
    assert!(asked(&belief(&image, &inside), &unsure).iter().all(Option::is_none));
    assert!(asked(&belief(&image, &inside), &how).iter().all(Option::is_some));
}

/// Opened once and shared: the file is not needed again, and threads do not disturb one another.
#[test]
fn e11_a_generalist_is_read_once_and_shared() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let file = folder.path().join("generalist.pth");
    std::fs::copy(checkpoint(), &file).expect("a copy");
    let generalist = Generalist::open(&file, Device::Cpu).expect("a generalist");
    assert_eq!(generalist.digest(), tiny().digest());
    std::fs::remove_file(&file).expect("removed");
    let (image, inside) = scan(2);
    let answer = || {
        let belief = belief(&image, &inside);
        let random = &mut generator(1, "test", &[]);
        ask(&generalist, &embedding(&generalist, &image), &belief, (Kind::Both, &Prompting::default()), random)
    };
    let alone = answer().expect("it fits");
    let together = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| answer().expect("it fits"))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Vec<_>>()
    });
    assert!(alone.is_some() && together.iter().all(|found| *found == alone));
}

#[test]
fn e12_prompts_are_those_of_their_seed() {
    let generalist = tiny();
    let (image, inside) = scan(3);
    let (embedding, belief) = (embedding(&generalist, &image), belief(&image, &inside));
    let with = |seed: u64| {
        let random = &mut generator(seed, "test", &[]);
        ask(&generalist, &embedding, &belief, (Kind::Point, &Prompting::default()), random).expect("it fits")
    };
    assert_eq!(with(1), with(1));
    assert_ne!(with(1), with(2));
}

/// Points reach the network where the student put them: voxel centres by way of the scanner's space.
#[test]
fn a_click_is_the_same_place_on_both_grids() {
    let (image, _) = scan(0);
    let grid = Grid::from(&image);
    let view = Grid::from(&View::of(&image, [64; 3], None).expect("a view").image);
    let found =
        click((grid.shape[2] * (grid.shape[1] * 7 + 3) + 11, crate::model::sam::Sign::Foreground), &grid, &view);
    let back = grid.voxel(view.world(found.at.map(f64::from)));
    assert!(back.iter().zip([7.0, 3.0, 11.0]).all(|(found, expected)| (found - expected).abs() < 1e-4), "{back:?}");
}
