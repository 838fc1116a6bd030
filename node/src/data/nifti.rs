//! Scans on disk: a checked NIfTI reader, and a writer.
//!
//! Whatever is read is brought to the closest canonical axes (RAS+) as `nibabel.as_closest_canonical` does, with slope
//! and intercept applied. Bad files are errors that name the file and say what to do, raised before any large
//! allocation: the header is checked first, then whether the file can hold what the header promises, and buffers grow
//! with what was really read. Voxels that are NaN or infinite are refused, not replaced: only the hospital knows what
//! they should be. Reference: nifti1.h, nifti2.h.

mod geometry;
mod header;
mod source;
#[cfg(test)]
mod tests;
mod voxels;
mod write;

use std::path::{Path, PathBuf};

use thiserror::Error;

pub use self::geometry::{Affine, GeometryProblem};
pub use self::header::{HeaderProblem, MAX_VOXELS};
pub use self::source::SourceProblem;
pub use self::voxels::VoxelProblem;
pub use self::write::{WriteError, write_image, write_labels, write_labels_like};

use self::geometry::Orientation;
use self::header::{Header, NIFTI2_BYTES};
use self::source::Source;
use crate::data::grid::Grid;
use crate::data::volume::{Image, LabelMap, Volume};

/// Why a scan is refused. Messages name the file and the remedy.
#[derive(Debug, Error)]
pub enum NiftiError {
    /// The bytes cannot be had.
    #[error("cannot read scan `{path}`: {problem}")]
    Source {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: SourceProblem,
    },
    /// The header is refused.
    #[error("cannot read scan `{path}`: {problem}")]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: HeaderProblem,
    },
    /// A voxel is refused.
    #[error("cannot read scan `{path}`: {problem}")]
    Voxels {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: VoxelProblem,
    },
}

/// The grid of a file as it is stored, before it is brought to RAS+.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredGrid {
    /// Where the stored axes point to, such as `LPS`.
    pub axes: String,
    /// Extents along the stored axes.
    pub shape: [usize; 3],
    /// Millimetres between neighbouring voxels along the stored axes.
    pub spacing_mm: [f64; 3],
    /// Stored voxel index to scanner millimetres.
    pub affine: Affine,
    /// The grid that reading gives: the same voxels with RAS+ axes.
    pub canonical: Grid,
}

/// Reads and checks the header alone.
pub fn read_grid(path: &Path) -> Result<StoredGrid, NiftiError> {
    let (_, header) = open(path)?;
    let orientation = Orientation::of(&header.affine);
    let canonical = canonical(&header, orientation);
    Ok(StoredGrid {
        axes: orientation.codes(),
        shape: header.shape,
        spacing_mm: geometry::spacing(&header.affine),
        affine: header.affine,
        canonical,
    })
}

/// Reads an image: true intensities, RAS+.
pub fn read_image(path: &Path) -> Result<Image, NiftiError> {
    read(path, &voxels::INTENSITY)
}

/// Reads a label map, RAS+: every voxel a whole number from 0 to 255.
pub fn read_labels(path: &Path) -> Result<LabelMap, NiftiError> {
    read(path, &voxels::CLASS)
}

fn read<T: Copy>(path: &Path, target: &voxels::Target<T>) -> Result<Volume<T>, NiftiError> {
    let (source, header) = open(path)?;
    let values = voxels::read(source, &header, target).map_err(|failure| match failure {
        voxels::Failure::Source(problem) => NiftiError::Source { path: path.to_owned(), problem },
        voxels::Failure::Voxel(problem) => NiftiError::Voxels { path: path.to_owned(), problem },
    })?;
    let orientation = Orientation::of(&header.affine);
    let Grid { shape, affine } = canonical(&header, orientation);
    Ok(Volume { shape, affine, values: orientation.to_canonical(header.shape, &values) })
}

fn canonical(header: &Header, orientation: Orientation) -> Grid {
    let shape = orientation.canonical_shape(header.shape);
    Grid { shape, affine: orientation.canonical_affine(&header.affine, header.shape) }
}

/// Opens a file, checks its header and that it can hold its voxels. The source is left at the start of the file.
fn open(path: &Path) -> Result<(Source, Header), NiftiError> {
    let source_error = |problem| NiftiError::Source { path: path.to_owned(), problem };
    let mut source = Source::open(path).map_err(source_error)?;
    let start = source.start(NIFTI2_BYTES).map_err(source_error)?;
    let header = Header::parse(start).map_err(|problem| NiftiError::Header { path: path.to_owned(), problem })?;
    source.expect_bytes(voxels::needed(&header)).map_err(source_error)?;
    Ok((source, header))
}
