//! Writing NIfTI-1: images as f32, labels as u8, and masks on the very grid of another file.
//!
//! A file appears under its name only when it is complete: it is written beside it and renamed, so that a full disk
//! leaves no half of a scan.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use thiserror::Error;

use super::geometry::{Affine, Geometry, Orientation, spacing};
use super::header::NIFTI1_BYTES;
use super::{NiftiError, open};
use crate::data::volume::{Image, LabelMap};

const DT_UINT8: i16 = 2;
const DT_FLOAT32: i16 = 16;
/// Millimetres, in `xyzt_units`.
const UNITS_MM: u8 = 2;
/// `sform_code` and `qform_code` of coordinates "aligned to another file's".
const ALIGNED: i64 = 2;
/// Voxels of our files follow the header and an empty extension flag.
const VOX_OFFSET: usize = NIFTI1_BYTES + 4;

/// Why a file cannot be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The volume contradicts itself.
    #[error("cannot write `{path}`: {values} values do not fill a grid of {shape:?}")]
    Values {
        /// The file.
        path: PathBuf,
        /// Values there are.
        values: usize,
        /// The grid.
        shape: [usize; 3],
    },
    /// An extent that NIfTI-1 cannot say.
    #[error("cannot write `{path}`: an extent of {extent} voxels does not fit NIfTI-1 (at most 32767): crop the scan")]
    Extent {
        /// The file.
        path: PathBuf,
        /// The extent.
        extent: usize,
    },
    /// A mask for another grid.
    #[error(
        "cannot write `{path}`: the mask has shape {mask:?}, the scan `{scan}` has {expected:?} (RAS+): resample the mask back to the scan first"
    )]
    Grid {
        /// The file.
        path: PathBuf,
        /// The scan whose grid was asked for.
        scan: PathBuf,
        /// Shape of the mask.
        mask: [usize; 3],
        /// RAS+ shape of the scan.
        expected: [usize; 3],
    },
    /// The scan whose grid was asked for cannot be read.
    #[error(transparent)]
    Like(#[from] NiftiError),
    /// Full disk, missing folder, no permission.
    #[error(
        "cannot write `{path}` ({error}): check that the folder exists, may be written to, and that the disk is not full"
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Writes a RAS+ image as f32, gzipped where the name ends with `.gz`.
pub fn write_image(path: &Path, image: &Image) -> Result<(), WriteError> {
    check_count(path, image.values.len(), image.shape)?;
    let file_order = RAS.to_stored(image.shape, &image.values);
    let header = header_bytes(path, image.shape, DT_FLOAT32, &sform_only(&image.affine))?;
    save(path, |out| {
        out.write_all(&header)?;
        file_order.iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))
    })
}

/// Writes a RAS+ label map as u8, gzipped where the name ends with `.gz`.
pub fn write_labels(path: &Path, labels: &LabelMap) -> Result<(), WriteError> {
    check_count(path, labels.values.len(), labels.shape)?;
    let file_order = RAS.to_stored(labels.shape, &labels.values);
    let header = header_bytes(path, labels.shape, DT_UINT8, &sform_only(&labels.affine))?;
    save(path, |out| {
        out.write_all(&header)?;
        out.write_all(&file_order)
    })
}

/// Writes a label map, given on the RAS+ grid of the scan `original`, with the axes and the geometry fields that
/// `original` itself has.
pub fn write_labels_like(original: &Path, labels: &LabelMap, path: &Path) -> Result<(), WriteError> {
    check_count(path, labels.values.len(), labels.shape)?;
    let (_, header) = open(original)?;
    let orientation = Orientation::of(&header.affine);
    let expected = orientation.canonical_shape(header.shape);
    if labels.shape != expected {
        let (path, scan) = (path.to_owned(), original.to_owned());
        return Err(WriteError::Grid { path, scan, mask: labels.shape, expected });
    }
    let file_order = orientation.to_stored(header.shape, &labels.values);
    let header = header_bytes(path, header.shape, DT_UINT8, &header.geometry)?;
    save(path, |out| {
        out.write_all(&header)?;
        out.write_all(&file_order)
    })
}

const RAS: Orientation = Orientation { target: [0, 1, 2], flipped: [false; 3] };

fn check_count(path: &Path, values: usize, shape: [usize; 3]) -> Result<(), WriteError> {
    if values == shape.iter().product::<usize>() {
        Ok(())
    } else {
        Err(WriteError::Values { path: path.to_owned(), values, shape })
    }
}

fn sform_only(affine: &Affine) -> Geometry {
    let [x, y, z] = spacing(affine);
    Geometry {
        qform_code: 0,
        sform_code: ALIGNED,
        pixdim: [1.0, x, y, z],
        quaternion: [0.0; 3],
        quaternion_rounding: 0.0,
        qoffset: [0.0; 3],
        srow: [affine[0], affine[1], affine[2]],
        units: UNITS_MM,
    }
}

fn header_bytes(path: &Path, shape: [usize; 3], datatype: i16, geometry: &Geometry) -> Result<Vec<u8>, WriteError> {
    let mut header = vec![0; VOX_OFFSET];
    let mut put = |at: usize, field: &[u8]| header[at..at + field.len()].copy_from_slice(field);
    let mut dim = [1_i16; 8];
    dim[0] = 3;
    for (slot, extent) in dim[1..4].iter_mut().zip(shape) {
        *slot = i16::try_from(extent).map_err(|_| WriteError::Extent { path: path.to_owned(), extent })?;
    }
    put(0, &(NIFTI1_BYTES as i32).to_le_bytes());
    for (i, extent) in dim.iter().enumerate() {
        put(40 + 2 * i, &extent.to_le_bytes());
    }
    put(70, &datatype.to_le_bytes());
    put(72, &(if datatype == DT_FLOAT32 { 32_i16 } else { 8 }).to_le_bytes());
    let mut floats = |at: usize, values: &[f64]| {
        values.iter().enumerate().for_each(|(i, &value)| put(at + 4 * i, &(value as f32).to_le_bytes()));
    };
    floats(76, &geometry.pixdim);
    floats(108, &[VOX_OFFSET as f64, 1.0, 0.0]);
    floats(256, &geometry.quaternion);
    floats(268, &geometry.qoffset);
    geometry.srow.iter().enumerate().for_each(|(row, values)| floats(280 + 16 * row, values));
    put(123, &[geometry.units]);
    put(252, &(geometry.qform_code as i16).to_le_bytes());
    put(254, &(geometry.sform_code as i16).to_le_bytes());
    put(344, b"n+1\0");
    Ok(header)
}

fn save(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), WriteError> {
    let failed = |error| WriteError::Io { path: path.to_owned(), error };
    let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?;
    let mut partial = name.to_owned();
    partial.push(".partial");
    let partial = path.with_file_name(partial);
    let gzip = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
    let result = (|| {
        let mut file = BufWriter::with_capacity(1 << 16, File::create(&partial)?);
        if gzip {
            let mut encoder = BufWriter::with_capacity(1 << 16, GzEncoder::new(file, Compression::new(4)));
            write(&mut encoder)?;
            file = encoder.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
        } else {
            write(&mut file)?;
        }
        file.into_inner().map_err(io::IntoInnerError::into_error)?;
        std::fs::rename(&partial, path)
    })();
    if result.is_err() {
        // Best effort: the error that matters is the first one.
        let _ = std::fs::remove_file(&partial);
    }
    result.map_err(failed)
}
