use std::path::Path;

use super::*;
use crate::{
    data::volume::LabelMap,
    generalist::{Generalist, oracle::dice_by_clicks},
    model::{
        checkpoint::described_halves,
        prompt_unet::layout,
        sam::{Click, Sign},
    },
    train::{generator, normal},
};

const CONFIG: PromptUNetConfig = PromptUNetConfig { widths: [2, 4, 4, 4] };

fn card() -> Card {
    let recipes = vec![("blobs".to_owned(), 1.0, "digest".to_owned())];
    Card { spacing_mm: 2.0, temperature: 2.0, steps: [1, 2], seed: 3, patch: [16, 16, 16], recipes }
}

fn write(folder: &Path, weights: &Weights, text: &str) -> std::path::PathBuf {
    let path = folder.join("small.safetensors");
    std::fs::write(&path, described_halves(weights, text).expect("bytes")).expect("written");
    path
}

fn described(card: &Card) -> String {
    serde_json::to_string(card).expect("plain")
}

/// A bright box in noise, 30 x 26 x 22 voxels of 1 mm.
fn scan() -> (Image, LabelMap) {
    let grid = Grid::centred([30, 26, 22], [1.0; 3]);
    let inside = |at: usize| {
        let index = [at / 572, at / 22 % 26, at % 22];
        (0..3).all(|axis| (6..16).contains(&index[axis]))
    };
    let labels: Vec<u8> = (0..grid.count()).map(|at| u8::from(inside(at))).collect();
    let mut random = generator(1, "noise", &[]);
    let values = labels.iter().map(|label| 3.0 * f32::from(*label) + normal(&mut random)).collect();
    let image = Image { shape: grid.shape, affine: grid.affine, values };
    (image, LabelMap { shape: grid.shape, affine: grid.affine, values: labels })
}

#[test]
fn a_file_is_opened_by_what_it_holds_and_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let weights = layout::initial(&CONFIG, 1);
    let honest = Generalist::open(&write(folder.path(), &weights, &described(&card())), Device::Cpu).expect("a file");
    assert_eq!(honest.network().name(), "prompted U-Net");
    let (image, truth) = scan();
    let view = honest.network().view(&image, None).expect("a view");
    assert_eq!((view.image.shape, view.image.spacing()), ([16, 16, 16], [2.0; 3]));
    let embedding = honest.embed(&view).expect("its own size");
    assert_eq!(honest.mask_grid(&embedding), embedding.grid);
    let click = Click { at: [5.0, 5.0, 5.0], sign: Sign::Foreground };
    let prompts = Prompts { clicks: vec![click], mask: Some(vec![1.0; 4096]) };
    let answer = honest.decode(&embedding, &prompts).expect("it fits");
    assert!(answer.logits.values.len() == 4096 && (0.0..=1.0).contains(&answer.score));
    // a temperature divides the logits and leaves the score alone
    let sure = described(&Card { temperature: 1.0, ..card() });
    let sure = Generalist::open(&write(folder.path(), &weights, &sure), Device::Cpu).expect("a file");
    let other = sure.decode(&embedding, &prompts).expect("it fits");
    assert!(other.logits.values.iter().zip(&answer.logits.values).all(|(a, b)| *a == 2.0 * b));
    assert_eq!(other.score, answer.score);
    let dice = dice_by_clicks(&honest, (&image, &truth), 1, 4, &mut generator(1, "clicks", &[])).expect("it works");
    assert!(dice.len() == 4 && dice.iter().all(|dice| (0.0..=1.0).contains(dice)), "{dice:?}");
    let nothing = LabelMap { values: vec![0; 30 * 26 * 22], ..truth };
    let dice = dice_by_clicks(&honest, (&image, &nothing), 1, 2, &mut generator(1, "clicks", &[])).expect("it works");
    assert_eq!(dice, [1.0, 1.0]);
}

/// A second look is the first one's at a view, prompts and answer turned by half a turn.
#[test]
fn a_second_look_is_a_look_at_a_turned_view() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = write(folder.path(), &layout::initial(&CONFIG, 1), &described(&card()));
    let once = Generalist::open(&file, Device::Cpu).expect("a file");
    let twice = Generalist::open(&file, Device::Cpu).expect("a file").looking_twice();
    let view = once.network().view(&scan().0, None).expect("a view");
    let mut turned = view.clone();
    turned.image.values = half_turn(&view.image.values, [16; 3]);
    let click = |at| vec![Click { at, sign: Sign::Foreground }];
    let mask: Vec<f32> = (0..4096).map(|at| (at % 7) as f32 - 3.0).collect();
    let straight = Prompts { clicks: click([5.0, 6.0, 7.0]), mask: Some(mask.clone()) };
    let other = Prompts { clicks: click([10.0, 9.0, 7.0]), mask: Some(half_turn(&mask, [16; 3])) };
    let answer = |generalist: &Generalist, view, prompts| {
        let drawing = generalist.decode(&generalist.embed(view).expect("its size"), prompts).expect("it fits");
        (drawing.logits.values, drawing.score)
    };
    let (one, score_one) = answer(&once, &view, &straight);
    let (two, score_two) = answer(&once, &turned, &other);
    let (mean, score) = answer(&twice, &view, &straight);
    assert_ne!(one, half_turn(&two, [16; 3]));
    for ((a, b), mean) in one.iter().zip(half_turn(&two, [16; 3])).zip(mean) {
        assert!((0.5 * (a + b) - mean).abs() <= 1e-5 * (1.0 + mean.abs()), "{a} and {b} gave {mean}");
    }
    assert!((0.5 * (score_one + score_two) - score).abs() < 1e-6);
    // what was kept for one look is refused by two
    let kept = once.embed(&view).expect("its size");
    assert!(twice.decode(&kept, &straight).is_err());
    let (places, expected) = (twice.embed(&view).expect("its size"), once.network().places(&kept.values));
    assert_eq!(twice.network().places(&places.values).expect("it fits"), expected.expect("it fits"));
}

#[test]
fn a_hostile_file_is_refused_by_what_is_wrong_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = |weights: &Weights, text: &str| {
        let error = Generalist::open(&write(folder.path(), weights, text), Device::Cpu).expect_err("refused");
        let source = std::error::Error::source(&error).expect("there is a reason").to_string();
        assert!(error.to_string().contains("small.safetensors"), "{error}");
        source
    };
    let weights = layout::initial(&CONFIG, 1);
    assert!(error(&weights, "{}").contains("spacing_mm"));
    assert!(error(&weights, "nonsense").contains("sam pretrain"));
    for wrong in
        [Card { spacing_mm: 0.0, ..card() }, Card { spacing_mm: -1.0, ..card() }, Card { temperature: 0.0, ..card() }]
    {
        assert!(error(&weights, &described(&wrong)).contains("must be positive"));
    }
    let without = |name: &str| {
        let kept = weights.clone().into_iter().filter(|(other, _)| other != name);
        Weights::new(kept).expect("shapes fit")
    };
    assert!(error(&without("image.level_3.conv.6.bias"), &described(&card())).contains("image.level_3.conv.6.bias"));
    // without the tensor that tells what it is, it is taken for the other network
    assert!(error(&without("prompt.in.weight"), &described(&card())).contains("SAM-Med3D"));
    assert!(described_halves(&weights.with_flat(&vec![1e6; weights.count()]).expect("as many"), "").is_err());
}

#[test]
fn what_is_written_in_half_precision_is_read_back_with_its_text_and_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let weights = layout::initial(&CONFIG, 5);
    let path = write(folder.path(), &weights, &described(&card()));
    let (read, description) = crate::model::checkpoint::read_described(&path).expect("its own file");
    assert_eq!(Card::of(&description).expect("its own text"), card());
    for ((name, found), (_, expected)) in read.iter().zip(weights.iter()) {
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() / 1024.0 + 1e-7;
        assert!(found.values.iter().zip(&expected.values).all(close), "{name}");
    }
    let again = described_halves(&read, description.text.as_deref().expect("a text")).expect("bytes");
    assert_eq!(again, std::fs::read(&path).expect("read"));
}
