//! How well a generalist follows a person who knows the object: clicks where its mask differs most from the truth.
//!
//! **The only place where truth may prompt** (spec/semisam.md, E1): the numbers say what a network can do with perfect help,
//! never what it does in training, where prompts come from a student ([`super::prompter`]). Clicks are chosen on the scan's
//! own grid by the rule of RITM, given one after another with all earlier ones, each time with the network's own last mask;
//! the view of a network that does not see the whole scan lies about the first click.

use rand_chacha::ChaCha8Rng;

use super::{Generalist, GeneralistError, network::Prompts, view::seen};
use crate::{
    data::{
        click::Rule,
        grid::Grid,
        metrics::dice,
        volume::{Image, LabelMap},
    },
    model::sam::{Click, Sign},
};

/// Dice of one class after 1, 2, 3 … `clicks` clicks; where there is nothing left to correct it stays as it is.
///
/// # Errors
/// If the scan shows nothing, or is too large.
///
/// # Panics
/// If image and truth differ in shape.
pub fn dice_by_clicks(
    generalist: &Generalist,
    (image, truth): (&Image, &LabelMap),
    class: u8,
    clicks: usize,
    random: &mut ChaCha8Rng,
) -> Result<Vec<f64>, GeneralistError> {
    assert_eq!(image.shape, truth.shape, "a scan and its labels share a grid");
    let (grid, network) = (Grid::from(image), generalist.network());
    let wanted: Vec<bool> = truth.values.iter().map(|label| *label == class).collect();
    let object: Vec<u8> = wanted.iter().map(|inside| u8::from(*inside)).collect();
    let mut mask = LabelMap { shape: grid.shape, affine: grid.affine, values: vec![0; grid.count()] };
    let Some(first) = Rule::Ritm.correct(&drawn(&mask), &wanted, grid.shape, random) else {
        return Ok(vec![1.0; clicks]);
    };
    let view = network.view(image, Some(grid.world(place(first.0, grid.shape))))?;
    let embedding = generalist.embed(&view)?;
    let seen = seen(&embedding.grid, &grid);
    let mut prompts = Prompts { clicks: Vec::new(), mask: Some(vec![0.0; generalist.mask_grid(&embedding).count()]) };
    let (mut found, mut next) = (Vec::with_capacity(clicks), Some(first));
    while found.len() < clicks {
        if let Some((at, inside)) = next {
            let at = embedding.grid.voxel(grid.world(place(at, grid.shape))).map(|index| index as f32);
            prompts.clicks.push(Click { at, sign: if inside { Sign::Foreground } else { Sign::Background } });
            let logits = generalist.decode(&embedding, &prompts)?.logits.values;
            prompts.mask = Some(logits.clone());
            mask = view.mask(network.enlarge(logits, view.image.shape), &grid)?;
            let error = |inside: bool| -> Vec<bool> {
                let voxels = mask.values.iter().zip(&wanted).zip(&seen);
                voxels.map(|((mask, wanted), seen)| *seen && *wanted == inside && (*mask > 0) != inside).collect()
            };
            next = Rule::Ritm.choose(&error(true), &error(false), grid.shape, random);
        }
        found.push(dice(&mask.values, &object));
    }
    Ok(found)
}

fn drawn(mask: &LabelMap) -> Vec<bool> {
    mask.values.iter().map(|class| *class > 0).collect()
}

fn place(at: usize, [_, ny, nz]: [usize; 3]) -> [f64; 3] {
    [at / nz / ny, at / nz % ny, at % nz].map(|index| index as f64)
}
