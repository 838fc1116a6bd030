//! From a scan as it was read to what the student sees: one spacing, normalised by itself alone.

use super::crops::PreparedScan;
use crate::data::{
    normalise::normalise,
    resample::{ResampleError, image_to_spacing, labels_to_spacing},
    volume::{Image, LabelMap},
};

/// The number of this way of preparing, which is part of what names a cached scan. Whoever changes a bit of what
/// [`prepare`] gives raises it.
pub const PREPARATION: u32 = 1;

/// Brings a scan to `spacing_mm` and normalises it; nothing but this scan is looked at.
///
/// # Errors
/// If the spacing is impossible for the scan.
pub fn prepare(image: &Image, labels: Option<&LabelMap>, spacing_mm: [f64; 3]) -> Result<PreparedScan, ResampleError> {
    let mut prepared = image_to_spacing(image, spacing_mm)?;
    normalise(&mut prepared);
    let labels = labels.map(|labels| labels_to_spacing(labels, spacing_mm)).transpose()?;
    Ok(PreparedScan { image: prepared, labels })
}

#[cfg(test)]
mod tests {
    use semisam_shared::ids::Digest;

    use super::*;
    use crate::data::{grid::Grid, volume::Volume};

    /// If this fails, cached scans are not what would be made now: raise [`PREPARATION`], then write the new digest here.
    #[test]
    fn a_change_of_preparation_raises_its_number() {
        let Grid { shape, affine } = Grid::centred([21, 17, 13], [1.0, 1.25, 1.5]);
        let values = (0..21 * 17 * 13).map(|at: usize| (at * 37 % 1009) as f32).collect();
        let labels = (0..21 * 17 * 13).map(|at: usize| u8::from(at % 21 > 9) + u8::from(at % 17 > 9)).collect();
        let (image, labels) = (Volume { shape, affine, values }, Volume { shape, affine, values: labels });
        let PreparedScan { image, labels } = prepare(&image, Some(&labels), [1.5, 1.0, 2.25]).expect("it fits");
        let labels = labels.expect("it has labels");
        let mut bytes: Vec<u8> = image.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        bytes.extend(labels.values);
        assert_eq!((PREPARATION, image.shape), (1, [14, 21, 9]));
        assert_eq!(Digest::of(&bytes).to_string(), "22b7661555fb2d1e243b1123b7e0daa1c4365b8d6b5d779dbe8f6c816a8e6e10");
    }
}
