use std::path::Path;

use super::*;
use crate::{data::volume::Image, device::Device, train::normal};

fn tiny() -> Vec<Generalist> {
    let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/sam_med3d/sam_med3d_tiny.pth"));
    vec![Generalist::open(file, Device::Cpu).expect("a fixture")]
}

/// A bright ball in noise, and what a student might think of it: sure inside and far outside, less so at the rim.
fn scan(seed: u64) -> (Source, Grid, Vec<f32>) {
    let grid = Grid::centred([30, 24, 20], [2.5; 3]);
    let mut random = generator(seed, "test scan", &[]);
    let distance = |at: usize| {
        let place = [at / 480, at / 20 % 24, at % 20];
        let squares = place.iter().zip([11 + seed as usize % 5, 13, 9]).map(|(i, c)| i.abs_diff(c).pow(2));
        (squares.sum::<usize>() as f32).sqrt()
    };
    let values = (0..grid.count()).map(|at| 5.0 + 3.0 * f32::from(u8::from(distance(at) < 6.0)) + normal(&mut random));
    let image = Image { shape: grid.shape, affine: grid.affine, values: values.collect() };
    let foreground: Vec<f32> = (0..grid.count()).map(|at| 1.0 / (1.0 + (1.5 * (distance(at) - 6.0)).exp())).collect();
    let softmax = foreground.iter().map(|p| 1.0 - p).chain(foreground.iter().copied()).collect();
    (Source::of_image(image), grid, softmax)
}

fn maps(how: &Guidance, (source, grid, softmax): &(Source, Grid, Vec<f32>)) -> Option<Maps> {
    let (generalists, store) = (tiny(), Store::default());
    Guides { generalists: &generalists, store: &store, how }
        .maps(softmax, grid, source, (7, 1))
        .expect("it fits")
        .target()
}

/// Whatever the tiny random network draws is taken.
fn lenient(how: Guidance) -> Guidance {
    Guidance { agreement: 0.0, consensus: 0.0, deference: 0.0, ..how }
}

#[test]
fn the_students_own_map_is_averaged_and_never_replaced_beyond_its_share() {
    let scan = scan(1);
    let own: Vec<f64> = scan.2[scan.1.count()..].iter().map(|p| f64::from(*p)).collect();
    let with = |share: f64| {
        let maps = maps(&Guidance { share, ..lenient(Guidance::semisam()) }, &scan).expect("an object");
        maps.classes[0].values.iter().map(|[p, _]| f64::from(*p) / 255.0).collect::<Vec<_>>()
    };
    let (alone, half, replaced) = (with(0.0), with(0.5), with(1.0));
    assert!(alone.iter().zip(&own).all(|(found, own)| (found - own).abs() <= 0.51 / 255.0));
    assert!(replaced.iter().zip(&own).any(|(found, own)| (found - own).abs() > 0.2));
    for ((alone, half), replaced) in alone.iter().zip(&half).zip(&replaced) {
        assert!((half - 0.5 * (alone + replaced)).abs() <= 1.01 / 255.0, "{half} of {alone} and {replaced}");
    }
}

/// The more a teacher differs from what generalists agree on, the more they count against it.
#[test]
fn a_teacher_that_generalists_contradict_gives_way() {
    let how = Guidance { share: 0.5, deference: 0.85, ..Guidance::semisam() };
    for (agreement, doubted) in [(1.0, 0.0), (0.85, 0.0), (0.775, 0.5), (0.7, 1.0), (0.0, 1.0)] {
        assert!((how.doubted(agreement) - doubted).abs() < 1e-12, "{agreement}");
        assert!(Guidance { deference: 0.0, ..how.clone() }.doubted(agreement) < 1e-12);
    }
    // a random network draws something else than the teacher believes, so that it gets the whole map and all weight
    let scan = scan(1);
    let lenient = lenient(Guidance::semisam());
    let of = |share: f64, deference: f64| maps(&Guidance { share, deference, ..lenient.clone() }, &scan).expect("maps");
    assert!(of(0.5, 0.85).classes == of(1.0, 0.0).classes && of(0.5, 0.85).classes != of(0.5, 0.0).classes);
    assert!((of(0.5, 0.85).weight() - 1.0).abs() < 1e-6 && (of(0.5, 0.0).weight() - 0.1).abs() < 1e-6);
    assert!((mean_weight([1.0, 0.1].into_iter()) - 0.55).abs() < 1e-6);
}

#[test]
fn answers_that_contradict_each_other_are_not_believed() {
    let answer = |inside: &[usize]| Answer {
        logits: (0..6).map(|at| if inside.contains(&at) { 2.0 } else { -2.0 }).collect(),
        seen: vec![true; 6],
    };
    let found = |answers: &[&[usize]]| consensus(&answers.iter().map(|inside| answer(inside)).collect::<Vec<_>>());
    assert!((found(&[&[0, 1]]) - 1.0).abs() < 1e-12, "one alone contradicts nobody");
    assert!((found(&[&[0, 1], &[1, 2]]) - 0.5).abs() < 1e-12);
    assert!((found(&[&[0, 1], &[1, 2], &[1]]) - (0.5 + 2.0 * 2.0 / 3.0) / 3.0).abs() < 1e-12);
    assert!(found(&[&[], &[]]) < 1e-12, "none that sees no object is believed");
    // a random network's answers to different prompts differ
    let how = lenient(Guidance::semisam());
    assert!(maps(&how, &scan(2)).is_some());
    assert_eq!(maps(&Guidance { consensus: 1.0, ..how }, &scan(2)), None);
}

/// More doubt is less weight, voxel by voxel, and full trust is the same weight everywhere.
#[test]
fn e09_confidence_falls_with_doubt() {
    let scan = scan(2);
    let of = |trust: Trust| {
        let how = lenient(Guidance { trust, ..Guidance::semisam_plus() });
        maps(&how, &scan).expect("an object").classes.remove(0).values
    };
    assert!(of(Trust::Full).iter().all(|[_, confidence]| *confidence == 255));
    let mut by_doubt: Vec<(f32, u8)> =
        of(Trust::Entropy).iter().map(|[p, confidence]| (entropy(f32::from(*p) / 255.0), *confidence)).collect();
    by_doubt.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert!(by_doubt.windows(2).all(|pair| pair[0].1 >= pair[1].1.saturating_sub(1)));
    let (least, most) = (by_doubt[0], by_doubt[by_doubt.len() - 1]);
    assert!(most.0 > least.0 && most.1 < least.1, "{least:?} {most:?}");
    // where all agree nothing varies
    let alone = maps(&lenient(Guidance { share: 0.0, trust: Trust::Variance, ..Guidance::semisam_plus() }), &scan);
    assert!(alone.expect("an object").classes[0].values.iter().all(|[_, confidence]| *confidence == 255));
    assert!(of(Trust::Variance).iter().any(|[_, confidence]| *confidence < 250));
}

#[test]
fn e04_maps_do_not_depend_on_the_scans_before() {
    let (generalists, store, how) = (tiny(), Store::default(), lenient(Guidance::semisam_plus()));
    let guides = Guides { generalists: &generalists, store: &store, how: &how };
    let scans: Vec<_> = (0..3).map(scan).collect();
    let of = |(source, grid, softmax): &(Source, Grid, Vec<f32>)| {
        guides.maps(softmax, grid, source, (7, 1)).expect("it fits").target().expect("an object")
    };
    let forwards: Vec<Maps> = scans.iter().map(of).collect();
    let backwards: Vec<Maps> = scans.iter().rev().map(of).collect();
    assert!(forwards.iter().eq(backwards.iter().rev()) && forwards[0] != forwards[1]);
}

#[test]
fn e10_nothing_to_say_is_no_target() {
    let (source, grid, softmax) = scan(3);
    let count = grid.count();
    for everywhere in [0.0_f32, 1.0] {
        let constant = (0..2 * count).map(|at| if at < count { 1.0 - everywhere } else { everywhere }).collect();
        let of = scan(3).0;
        assert_eq!(maps(&lenient(Guidance::semisam()), &(of, grid, constant)), None, "{everywhere}");
    }
    // answers of a random network do not coincide with the belief
    let strict = Guidance { agreement: 1.0, ..Guidance::semisam_plus() };
    assert_eq!(maps(&strict, &(source, grid, softmax)), None);
}

#[test]
fn a_class_nobody_speaks_of_counts_nothing() {
    let (source, grid, softmax) = scan(4);
    let three: Vec<f32> = softmax.iter().copied().chain(std::iter::repeat_n(0.0, grid.count())).collect();
    let found = maps(&lenient(Guidance::semisam()), &(source, grid, three)).expect("the first class");
    assert!(found.classes.len() == 2 && found.classes[0].values.iter().all(|[_, confidence]| *confidence > 0));
    assert!(found.classes[1].values.iter().all(|voxel| *voxel == [0; 2]));
}

#[test]
fn an_opinion_is_the_crop_of_its_map() {
    let found = maps(&lenient(Guidance::semisam()), &scan(5)).expect("an object");
    let random = generator(1, "test", &[]);
    let opinion = found.opinion([16, 32, 16], true, &random);
    let cut = crop_beside(&found.classes[0], [16, 32, 16], true, &mut random.clone()).values;
    assert_eq!(opinion.probability.len(), 16 * 32 * 16);
    for ((p, confidence), voxel) in opinion.probability.iter().zip(&opinion.confidence).zip(&cut) {
        assert_eq!([*p, *confidence], voxel.map(|value| f32::from(value) / 255.0));
    }
    // 32 voxels of 24: what is beyond the scan counts nothing
    assert!(opinion.confidence.contains(&0.0));
}

#[test]
fn senseless_settings_are_named() {
    assert!(Guidance::semisam().check().is_ok() && Guidance::semisam_plus().check().is_ok());
    for (wrong, name) in [
        (Guidance { share: 1.5, ..Guidance::semisam() }, "share"),
        (Guidance { consensus: -0.5, ..Guidance::semisam() }, "consensus"),
        (Guidance { deference: 2.0, ..Guidance::semisam() }, "deference"),
        (Guidance { every: 0, ..Guidance::semisam() }, "refresh"),
        (Guidance { sets: vec![], ..Guidance::semisam() }, "prompts"),
        (Guidance { weight: f64::NAN, ..Guidance::semisam() }, "weight"),
    ] {
        assert!(wrong.check().expect_err(name).to_string().contains(name));
    }
}
