use std::sync::atomic::AtomicBool;

use super::*;
use crate::{
    data::volume::Image,
    model::{VNetConfig, layout},
    train::{
        crops::PreparedScan,
        generator,
        local::{Aid, Method, State, train_guided},
        normal,
    },
};

fn map(shape: [usize; 3], class: impl Fn([usize; 3]) -> u8) -> LabelMap {
    let [nx, ny, nz] = shape;
    let values = (0..nx * ny * nz).map(|at| class([at / nz / ny, at / nz % ny, at % nz])).collect();
    LabelMap { shape, affine: Grid::centred(shape, [1.0; 3]).affine, values }
}

#[test]
fn votes_are_weighted_and_brought_to_the_extents_of_their_target() {
    let (small, large) = (map([2, 2, 2], |[x, ..]| x as u8), map([4, 4, 4], |[x, ..]| u8::from(x < 2)));
    let own = map([4, 2, 6], |_| 1);
    let of = |voters: &[(f64, &LabelMap)]| vote(voters, &own);
    assert_eq!(of(&[(0.9, &small), (0.4, &large)]), map([4, 2, 6], |[x, ..]| u8::from(x >= 2)));
    assert_eq!(of(&[(0.3, &small), (0.4, &large)]), map([4, 2, 6], |[x, ..]| u8::from(x < 2)));
    assert_eq!(of(&[(0.4, &small), (0.4, &large)]).values, [0; 48], "equals go to the lower class");
    assert_eq!((of(&[]), of(&[(0.0, &small)])), (own.clone(), own.clone()));
}

#[test]
fn quantiles_and_doubt_are_those_of_their_definitions() {
    assert_eq!(quantile((0..=10).map(f64::from).collect(), 0.9), 9.0);
    assert!((quantile(vec![3.0, 1.0], 0.9) - 2.8).abs() < 1e-12);
    assert_eq!((quantile(vec![5.0], 0.9), quantile(vec![], 0.9)), (5.0, 0.0));
    assert!((doubt(&[0.5; 8], 2) - 2.0_f64.ln()).abs() < 1e-5 && doubt(&[1.0, 1.0, 0.0, 0.0], 2).abs() < 1e-5);
}

/// A ball in noise at 3 mm, so that the tiny generalist's cells of 24 mm tell its middle from the rest.
fn scan(seed: u64, labelled: bool) -> PreparedScan {
    let grid = Grid::centred([32, 32, 32], [3.0; 3]);
    let mut random = generator(seed, "test scan", &[]);
    let labels =
        map([32, 32, 32], |place| u8::from(place.iter().map(|i| i.abs_diff(16).pow(2)).sum::<usize>() < 12 * 12));
    let values = labels.values.iter().map(|label| 2.0 * f32::from(*label) + 0.3 * normal(&mut random)).collect();
    let image = Image { shape: grid.shape, affine: grid.affine, values };
    PreparedScan { image, labels: labelled.then_some(Volume { affine: grid.affine, ..labels }) }
}

/// Round after round, from prototypes to a student: nothing but the scans decides what comes of it, and no label but the
/// declared ones.
#[test]
fn a_student_learns_from_one_label_and_prototypes() {
    let scans = ScanSet::in_memory((0..4).map(|seed| scan(seed, seed == 0)));
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/sam_med3d/sam_med3d_tiny.pth");
    let generalist = Generalist::open(file.as_ref(), Device::Cpu).expect("a fixture");
    let shown = Shown::to(&generalist, &scans, &Store::default(), &|| {}).expect("they can be shown");
    let config = VNetConfig::binary(2);
    let (plain, start) = (LocalRun::new(config, Method::SemisamO1, [32; 3], 12, 3), layout::initial(&config, 1));
    let first = || PseudoLabels::first(Device::Cpu, &plain, &start, &scans, &shown).expect("an object");
    assert_eq!(first(), first());
    let first = first();
    assert_eq!(first.0.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    assert!(first.0.values().all(|labels| labels.values.contains(&0) && labels.values.contains(&1)));
    let knows_nothing = PseudoLabels::next(Device::Cpu, &plain, &start, &scans, &shown).expect("they fit");
    assert_ne!(first, knows_nothing, "prototypes draw better than random weights");

    let train = |labels: &PseudoLabels, number: u64| {
        let round = Some(Round { number, labels: labels.digest() });
        let run = LocalRun { round, learning_rate: 0.05, ..plain.clone() };
        let aid = Aid { pseudo_labels: labels, ..Aid::default() };
        let state = State::new(&run, &start);
        let mut losses = Vec::new();
        let state = train_guided(Device::Cpu, &run, state, &scans, aid, &AtomicBool::new(false), &mut |report| {
            losses.push(report.losses());
        });
        assert!(losses.iter().all(|losses| losses.pseudo > 0.0));
        (state.expect("they fit").student(&run), run)
    };
    let (student, run) = train(&first, 1);
    let next = PseudoLabels::next(Device::Cpu, &run, &student, &scans, &shown).expect("they fit");
    assert_eq!(next.0.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    assert_ne!((next.digest(), &next), (first.digest(), &first));
    let (last, run) = train(&next, 2);
    assert!(last != student);
    // whoever starts from a student that draws better than prototypes begins with what it thinks
    let draws = |student: &Weights| {
        agreement(&scans, &|scan| Ok(opinion(Device::Cpu, &run, student, &scans.get(scan)?.image)?.0))
    };
    let by_prototypes = |scan: usize| {
        let prototypes = prototypes(&scans, &shown, 2)?;
        Ok(shown.0[&scan].draw(&prototypes, &Grid::from(&scans.get(scan)?.image)))
    };
    let (of_last, of_prototypes) = (draws(&last).expect("they fit"), agreement(&scans, &by_prototypes).expect("drawn"));
    let begun = PseudoLabels::first(Device::Cpu, &run, &last, &scans, &shown).expect("they fit");
    let thought = PseudoLabels::next(Device::Cpu, &run, &last, &scans, &shown).expect("they fit");
    assert!(of_last > of_prototypes && begun == thought, "{of_last} {of_prototypes}");
}

#[test]
fn without_an_object_there_is_no_prototype() {
    let mut empty = scan(0, true);
    empty.labels.as_mut().expect("labels").values.fill(0);
    let scans = ScanSet::in_memory([empty, scan(1, false)]);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/sam_med3d/sam_med3d_tiny.pth");
    let generalist = Generalist::open(file.as_ref(), Device::Cpu).expect("a fixture");
    let shown = Shown::to(&generalist, &scans, &Store::default(), &|| {}).expect("they can be shown");
    assert!(prototypes(&scans, &shown, 2).expect_err("nothing").to_string().contains("prototype"));
}
