//! A bright ball in noise, as scans and as batches.

use semisam_node::{
    data::volume::Volume,
    train::{crops::PreparedScan, generator, normal, step::Batch},
};

/// Sides of a scan and of a crop.
pub(crate) const PATCH: [usize; 3] = [16, 16, 16];

/// The ball of number `seed`, with or without its labels.
pub(crate) fn scan(seed: u64, labelled: bool) -> PreparedScan {
    let affine = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
    let mut random = generator(seed, "phantom", &[]);
    let centre = [seed % 3, seed / 3 % 3, seed / 9 % 3].map(|offset| 7 + offset as usize);
    let inside = |at: usize| {
        let place = [at / 256, at / 16 % 16, at % 16];
        place.iter().zip(centre).map(|(i, c)| i.abs_diff(c).pow(2)).sum::<usize>() < 25
    };
    let labels: Vec<u8> = (0..4096).map(|at| u8::from(inside(at))).collect();
    let image = labels.iter().map(|label| 2.0 * f32::from(*label) + 0.5 * normal(&mut random)).collect();
    PreparedScan {
        image: Volume { shape: PATCH, affine, values: image },
        labels: labelled.then_some(Volume { shape: PATCH, affine, values: labels }),
    }
}

/// Two scans, the first with labels.
pub(crate) fn batch(number: u64) -> (Batch, Vec<Option<Vec<u8>>>) {
    let scans = [scan(2 * number, true), scan(2 * number + 1, false)];
    let images = scans.iter().flat_map(|scan| scan.image.values.iter().copied()).collect();
    let labels = scans.into_iter().map(|scan| scan.labels.map(|labels| labels.values)).collect();
    (Batch { images, samples: 2, patch: PATCH }, labels)
}
