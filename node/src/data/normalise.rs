//! Intensities of one scan on a common scale, from that scan alone: nothing crosses patients.
//!
//! Intensities are clamped to the scan's own 0.5th and 99.5th percentile, so that a few hot voxels do not decide, and
//! then shifted and scaled to mean 0 and standard deviation 1. A scan whose clamped intensities are all equal is scaled
//! by its plain deviation, and a constant scan becomes zeros: the result is always finite.

use crate::data::volume::Image;

const TAIL: f64 = 0.005;

/// Brings a scan to zero mean and unit deviation, robustly.
pub fn normalise(image: &mut Image) {
    if image.values.is_empty() {
        return;
    }
    let (low, high) = tails(&image.values);
    let (low, high) = if low < high { (low, high) } else { (f32::MIN, f32::MAX) };
    let (mean, deviation) = moments(image.values.iter().map(|value| value.clamp(low, high)));
    let scale = if deviation > 0.0 { 1.0 / deviation } else { 0.0 };
    for value in &mut image.values {
        *value = ((f64::from(value.clamp(low, high)) - mean) * scale) as f32;
    }
}

/// Intensity below which a share of [`TAIL`] lies, and above which the same share does.
fn tails(values: &[f32]) -> (f32, f32) {
    let mut values = values.to_vec();
    let last = values.len() - 1;
    let mut at = |share: f64| *values.select_nth_unstable_by((share * last as f64).round() as usize, f32::total_cmp).1;
    (at(TAIL), at(1.0 - TAIL))
}

fn moments(values: impl Iterator<Item = f32> + Clone) -> (f64, f64) {
    let count = values.clone().count() as f64;
    let mean = values.clone().map(f64::from).sum::<f64>() / count;
    let variance = values.map(|value| (f64::from(value) - mean).powi(2)).sum::<f64>() / count;
    // A constant summed in floating point does not quite cancel.
    let deviation = variance.sqrt();
    (mean, if deviation > mean.abs() * 1e-9 { deviation } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::grid::Grid;

    fn image(values: Vec<f32>) -> Image {
        let grid = Grid::centred([values.len(), 1, 1], [1.0; 3]);
        Image { shape: grid.shape, affine: grid.affine, values }
    }

    #[test]
    fn constant_scans_become_zero() {
        for constant in [0.0, -3.7, 0.1, 1e30, f32::MAX] {
            let mut constant = image(vec![constant; 1000]);
            normalise(&mut constant);
            assert!(constant.values.iter().all(|&value| value == 0.0));
        }
    }

    #[test]
    fn gain_offset_and_hot_voxels_do_not_matter() {
        let values: Vec<f32> = (0..2000).map(|i| ((i * 37) % 101) as f32).collect();
        let mut plain = image(values.clone());
        let mut other = image(values.iter().map(|value| value * 7.5 - 200.0).collect());
        other.values[5] = 1e9;
        normalise(&mut plain);
        normalise(&mut other);
        for (i, (a, b)) in plain.values.iter().zip(&other.values).enumerate() {
            assert!(i == 5 || (a - b).abs() < 0.02, "{i} {a} {b}");
        }
    }

    #[test]
    fn a_scan_of_background_keeps_its_few_voxels() {
        let mut image = image(vec![0.0; 1000]);
        image.values[3] = 10.0;
        normalise(&mut image);
        assert!(image.values[3] > 1.0 && image.values[0] < 0.0);
    }

    proptest! {
        #[test]
        fn always_finite(values in prop::collection::vec(-3.4e38_f32..3.4e38, 1..300)) {
            let mut image = image(values);
            normalise(&mut image);
            prop_assert!(image.values.iter().all(|value| value.is_finite()));
        }
    }
}
