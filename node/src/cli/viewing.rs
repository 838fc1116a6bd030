//! What commands that use a student have in common: device, spacing, windows, and how one result is printed.

use std::io::{self, Write};

use serde::Serialize;

use super::Format;
use crate::device::{Device, DeviceChoice, DeviceError};

/// Prints one result: `words` for a person, else `value` as a line of JSON.
///
/// # Errors
/// If the writer fails.
pub fn print(out: &mut dyn Write, format: Format, words: &str, value: &impl Serialize) -> io::Result<()> {
    match format {
        Format::Text => writeln!(out, "{words}"),
        Format::Json => {
            serde_json::to_writer(&mut *out, value)?;
            writeln!(out)
        }
    }
}

/// The device to use; says so where `auto` falls back.
///
/// # Errors
/// If CUDA is demanded and absent.
pub fn resolve(choice: DeviceChoice) -> Result<Device, DeviceError> {
    let resolved = choice.resolve()?;
    if let Some(reason) = resolved.fallback {
        tracing::debug!("{reason}");
    }
    Ok(resolved.device)
}

/// Reads `x,y,z` as the sides of a patch.
///
/// # Errors
/// Says what is wrong, for clap.
pub fn parse_patch(text: &str) -> Result<[usize; 3], String> {
    let sides: Vec<usize> = text.split([',', 'x']).filter_map(|side| side.trim().parse().ok()).collect();
    match <[usize; 3]>::try_from(sides) {
        Ok(sides) if sides.iter().all(|side| *side > 0 && side.is_multiple_of(16)) => Ok(sides),
        _ => Err("give three multiples of 16, such as 64,48,32".to_owned()),
    }
}

/// What commands that use a student have in common.
#[derive(Clone, Debug, clap::Args)]
pub struct Viewing {
    /// Voxel size that the student was trained at, in millimetres.
    #[arg(long, default_value_t = 2.5, value_name = "MM")]
    pub spacing: f64,
    /// Sides of the windows that a scan is cut into, in voxels; those of training are best.
    #[arg(long, default_value = "64,48,32", value_name = "X,Y,Z", value_parser = parse_patch)]
    pub patch: [usize; 3],
    /// Groups of the student's GroupNorm, if not one per filter of its first level.
    #[arg(long, value_name = "N")]
    pub groups: Option<usize>,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    pub device: DeviceChoice,
}
