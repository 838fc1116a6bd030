//! From a scan as it was read to what the student sees: one spacing, normalised by itself alone.

use super::crops::PreparedScan;
use crate::data::{
    normalise::normalise,
    resample::{ResampleError, image_to_spacing, labels_to_spacing},
    volume::{Image, LabelMap},
};

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
